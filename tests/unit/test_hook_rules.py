"""The pure rules inside hooks: shapes, nested comparison, metrics, percentiles, rows, and what crosses the pipe."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clipperfs.hooks.latency import percentile
from clipperfs.hooks.metric import Metric, NotMeasurable, measure
from clipperfs.hooks.nested import differences
from clipperfs.hooks.rows import local_rows, read_rows
from clipperfs.hooks.shape import common_shape, mismatch
from hypothesis import given
from hypothesis import strategies as st

from clipperfs.checking import protocol
from clipperfs.checking.copies import changed_since, copy_problems, take_fingerprint
from clipperfs.checking.sample import read_sample
from clipperfs.documents import Verdict, VersionSettings
from clipperfs.errors import DamagedVersion, InvalidSetting
from clipperfs.testing.hook_suite import make_subject

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


# --- shapes ----------------------------------------------------------------------------------------------------------


@given(st.lists(JSON, min_size=1, max_size=4))
def test_outputs_never_mismatch_themselves(outputs: list[Any]) -> None:
    assert mismatch(common_shape(outputs), common_shape(outputs)) is None


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ([1], [2.5], None),
        ([1], ["NaN"], None),
        ([1], ["cat"], "output was number and is text"),
        ([1], [True], "output was number and is bool"),
        ([1], [[1]], "output was number and is list(1) of number"),
        ([[1, 2]], [[1, 2, 3]], "output was list(2) of number and is list(3) of number"),
        ([[1, 2], [1]], [[1, 2, 3]], None),
        ([[1, 2]], [["a", "b"]], "output[] was number and is text"),
        ([{"a": 1}], [{"a": 1, "b": 2}], None),
        ([{"a": 1, "b": 2}], [{"a": 1}], "output has lost its key 'b'"),
        ([{"a": {"b": 1}}], [{"a": {"b": "x"}}], "output.a.b was number and is text"),
        ([1, "a"], [[{}]], None),
        ([[]], [[1]], "output was list(0) and is list(1) of number"),
        (["a", "b"], ["c", None], "output was text and is any"),
    ],
)
def test_shapes_are_compared_as_a_client_would(old: list[Any], new: list[Any], problem: str | None) -> None:
    assert mismatch(common_shape(old), common_shape(new)) == problem


# --- nested comparison -----------------------------------------------------------------------------------------------


@given(JSON)
def test_anything_equals_itself_without_tolerance(value: Any) -> None:
    assert list(differences(value, value, tolerance=0, relative_tolerance=0)) == []


@pytest.mark.parametrize(
    ("expected", "found", "count"),
    [
        (1.0, 1, 0),
        (1.0, 1.01, 0),
        (1.0, 1.02, 1),
        (1000.0, 1009.0, 0),
        (1000.0, 1011.0, 1),
        (0, -0.005, 0),
        (True, 1, 1),
        ("1", 1, 1),
        (None, 0, 1),
        ([1, [2, {"a": 3}]], [1, [2, {"a": 4}]], 1),
        ([1, 2], [2, 3], 2),
        ([1, 2], [1], 1),
        ({"a": 1, "b": 2}, {"a": 1, "c": 2}, 2),
        (10**400, 1.5, 1),
        ("NaN", "NaN", 0),
        (float("inf"), float("inf"), 0),
    ],
)
def test_numbers_are_equal_within_either_tolerance(expected: Any, found: Any, count: int) -> None:
    assert len(list(differences(expected, found, tolerance=0.011, relative_tolerance=0.01))) == count


def test_a_difference_names_its_place() -> None:
    [line] = differences({"p": [0.1, 0.2]}, {"p": [0.1, 0.9]}, tolerance=0, relative_tolerance=0)
    assert line == "output.p[1]: expected 0.2, got 0.9"


# --- metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "outputs", "labels", "value"),
    [
        ("accuracy", [1, 2, 3, 4], [1, 2, 3, 5], 0.75),
        ("accuracy", [3.0, [2], "cat", "7"], [3, 2, "cat", 7], 1.0),
        ("accuracy", [1, 0, True], [True, False, 1], 1.0),
        ("accuracy", [3], ["3"], 1.0),
        ("accuracy", ["[1]"], ["[1]"], 1.0),
        ("mae", [1, 2], [2, 4], 1.5),
        ("rmse", [1, 2], [2, 4], math.sqrt(2.5)),
        ("mae", [[1], [2]], [2, 4], 1.5),
        ("mae", [[1, 2], [3, 4]], [[1, 2], [3, 8]], 1.0),
    ],
)
def test_metric_of_small_cases_is_right(metric: Metric, outputs: list[Any], labels: list[Any], value: float) -> None:
    assert measure(metric, outputs, labels) == pytest.approx(value)


@pytest.mark.parametrize(
    ("metric", "outputs", "labels", "words"),
    [
        ("accuracy", [1, [0.1, 0.9]], [1, 1], "output of row 1 is a list of 2"),
        ("accuracy", [{"a": 1}], [1], "an object"),
        ("mae", [1.0, "NaN"], [1, 1], "output of row 1 is not a number"),
        ("mae", [True], [1], "output of row 0"),
        ("rmse", [1.0], [float("nan")], "label of row 0 is not finite"),
        ("mae", [[1, 2]], [1], "2 numbers, its label has 1"),
        ("mae", [[1, 2], [1]], [1, 1], "not equally many"),
        ("mae", [None], [1], "output of row 0"),
    ],
)
def test_what_cannot_be_measured_says_which_row(
    metric: Metric, outputs: list[Any], labels: list[Any], words: str
) -> None:
    with pytest.raises(NotMeasurable, match=words):
        measure(metric, outputs, labels)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.floats(0.1, 100))
def test_percentile_has_its_share_at_or_below_it(values: list[float], percent: float) -> None:
    value = percentile(sorted(values), percent)
    below = sum(item <= value for item in values)
    strictly_below = sum(item < value for item in values)
    assert below >= len(values) * percent / 100 - 1e-9 > strictly_below - 1


# --- held-out rows ---------------------------------------------------------------------------------------------------


def save(path: Path, **arrays: Any) -> None:
    with open(path, "wb") as stream:
        np.savez(stream, **arrays)


def test_rows_deeper_than_a_vector_are_flattened(tmp_path: Path) -> None:
    save(tmp_path / "r.npz", x=np.arange(24.0).reshape(2, 3, 4), y=np.array([0, 1]))
    rows = read_rows(tmp_path, "r.npz", "r.npz")
    assert [item.shape for item in rows.inputs] == [(12,), (12,)]
    assert rows.labels == [0, 1]


def test_rows_of_text_stay_text(tmp_path: Path) -> None:
    save(tmp_path / "r.npz", x=np.array(["good", "bad"]), y=np.array(["+", "-"]))
    assert read_rows(tmp_path, "r.npz", "r.npz").inputs == ["good", "bad"]


def test_rows_that_would_be_unpickled_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "evil"),)

    save(tmp_path / "r.npz", x=np.array([Evil()], dtype=object), y=np.array([1]))
    with pytest.raises(DamagedVersion, match=r"not an \.npz of plain arrays"):
        read_rows(tmp_path, "r.npz", "r.npz")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"not a zip", json.dumps({"inputs": [1]}).encode(), b'{"inputs": [[1]], "labels": [1, 2]}', b"[]"],
)
@pytest.mark.parametrize("name", ["r.npz", "r.json"])
def test_rows_in_another_format_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DamagedVersion, match=name):
        read_rows(tmp_path, name, name)


@pytest.mark.parametrize("arrays", [{"x": np.ones((2, 1))}, {"x": np.ones((2, 1)), "y": np.ones(3)}, {"x": 1, "y": 2}])
def test_rows_without_a_label_each_are_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    save(tmp_path / "r.npz", **arrays)
    with pytest.raises(DamagedVersion):
        read_rows(tmp_path, "r.npz", "r.npz")


def test_rows_through_a_link_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere.npz", x=np.ones((1, 1)), y=np.ones(1))
    (tmp_path / "r.npz").symlink_to(tmp_path / "elsewhere.npz")
    with pytest.raises(DamagedVersion):
        read_rows(tmp_path, "r.npz", "r.npz")


@pytest.mark.parametrize(
    "url", ["rows.npz", "s3://b/rows.npz", "https://h/rows.npz", "simplecache::file:///r", "/", ""]
)
def test_rows_url_is_a_local_file_or_refused(url: str) -> None:
    with pytest.raises(InvalidSetting, match="rows_url"):
        local_rows(url)


def test_rows_url_takes_a_path_and_a_file_url() -> None:
    assert local_rows("/a/b.npz") == local_rows("file:///a/b.npz") == (Path("/a"), "b.npz")


# --- samples ---------------------------------------------------------------------------------------------------------


def test_sample_comes_from_the_settings_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("[[1, 2]]")
    assert read_sample(tmp_path, VersionSettings()) is None
    assert read_sample(tmp_path, VersionSettings(sample=[[3]])) == [[3]]
    assert read_sample(tmp_path, VersionSettings(sample="s.json")) == [[1, 2]]


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b"[NaN]", b'{"inputs": [1]}', b"\xff"])
def test_sample_file_that_holds_no_list_is_damage(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "s.json").write_bytes(content)
    with pytest.raises(DamagedVersion, match=r"s\.json"):
        read_sample(tmp_path, VersionSettings(sample="s.json"))


def test_sample_file_that_is_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s.json")
    with pytest.raises(DamagedVersion):
        read_sample(tmp_path, VersionSettings(sample="s.json"))


# --- private copies --------------------------------------------------------------------------------------------------


def edit_in_place(path: Path) -> None:
    """Write another byte and restore the times, as somebody would who wants it to go unnoticed."""
    info = path.stat()
    with open(path, "r+b") as stream:
        stream.write(b"X")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def put_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda path: edit_in_place(path / "a"), "SHA-256"),
        (lambda path: (path / "a").write_bytes(b"longer than before"), "bytes instead of"),
        (lambda path: (path / "a").unlink(), "missing"),
        (lambda path: (path / "extra").write_bytes(b""), "not in the manifest"),
        (lambda path: ((path / "a").rename(path / "b"), (path / "a").symlink_to("b")), "symbolic link"),
        (lambda path: put_a_pipe(path / "a"), "pipe"),
        (lambda path: (path / "manifest.json").write_bytes(b"{}"), "not the manifest"),
        (lambda path: ((path / "a").unlink(), (path / "a").mkdir()), "missing"),
    ],
)
def test_every_change_of_a_copy_is_found(tmp_path: Path, change: Any, word: str) -> None:
    subject = make_subject(tmp_path / "v", None, files={"a": b"content", "sub/c": b"x"})
    before = take_fingerprint(subject.path)
    assert changed_since(before, subject.path, subject.manifest, subject.manifest_digest) == []
    change(subject.path)
    assert word in "; ".join(copy_problems(subject.path, subject.manifest, subject.manifest_digest))
    assert word in "; ".join(changed_since(before, subject.path, subject.manifest, subject.manifest_digest))


def test_another_link_to_the_same_blob_is_no_change(tmp_path: Path) -> None:
    subject = make_subject(tmp_path / "v", None, files={"a": b"content"})
    before = take_fingerprint(subject.path)
    os.link(subject.path / "a", tmp_path / "another")
    assert take_fingerprint(subject.path) != before, "the change of ctime is what this test is about"
    assert changed_since(before, subject.path, subject.manifest, subject.manifest_digest) == []


# --- what crosses the pipe -------------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(), JSON | st.floats(), max_size=4), st.text())
def test_any_verdict_crosses_the_pipe(measures: dict[str, Any], reason: str) -> None:
    verdict = Verdict(hook="x", outcome="passed", reason=reason, measures=measures)
    line = protocol.write_line("verdict", index=0, verdict=protocol.bounded_verdict(verdict, "y"))
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    back = protocol.read_verdict(protocol.read_line(line[:-1])["verdict"], "z")
    assert back.hook == "z"
    assert len(back.reason) <= 1000


def test_measures_become_plain_json() -> None:
    verdict = Verdict(
        hook="x",
        outcome="passed",
        measures={"a": np.float32(0.5), "b": np.arange(3), "c": float("nan"), "d": {1: {2}}, "e": object, "f": 2**80},
    )
    measures = protocol.bounded_verdict(verdict, "x")["measures"]
    assert measures["a"] == 0.5
    assert measures["b"] == [0, 1, 2]
    assert measures["c"] == "nan"
    assert measures["d"] == {"1": [2]}
    assert "object" in measures["e"]
    assert measures["f"] == str(2**80)


def test_measures_without_bound_are_dropped() -> None:
    verdict = Verdict(hook="x", outcome="passed", measures={"a": "x" * 10**6})
    assert list(protocol.bounded_verdict(verdict, "x")["measures"]) == ["dropped"]


def test_texts_cannot_steer_a_terminal() -> None:
    assert protocol.cut("a\x1b[31mb\nc") == "a�[31mb\nc"
    assert len(protocol.cut("x" * 5000)) == 1000
    assert protocol.printed_text(b"\xff\x00" * 100_000).encode().__len__() <= protocol.MAX_OUTPUT_BYTES


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"{}", b'{"event": 3}', b"\xff", b'{"event": "a", "x": NaN}', b"[" * 100_000]
)
def test_lines_that_are_not_of_the_protocol_are_refused(line: bytes) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.read_line(line)


@pytest.mark.parametrize(
    "tree",
    [None, [], {}, {"outcome": "great"}, {"outcome": "passed", "measures": 3}, {"outcome": "passed", "reason": []}],
)
def test_verdicts_that_are_none_are_refused(tree: object) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.read_verdict(tree, "x")


def test_npz_helper_of_numpy_is_what_rows_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros((3, 2), np.uint8), y=np.zeros(3))
    (tmp_path / "r.npz").write_bytes(buffer.getvalue())
    assert len(read_rows(tmp_path, "r.npz", "r.npz").inputs) == 3
