"""Keys inside a registry: where everything lies, and which paths may name a file of a version."""

from __future__ import annotations

import pytest

from clipperfs import layout
from clipperfs.digest import digest_bytes
from clipperfs.errors import InvalidName
from clipperfs.limits import LIMITS
from clipperfs.names import model_name, version_name

MODEL = model_name("digits")
VERSION = version_name("1.0.3")
DIGEST = digest_bytes(b"x")

PROBLEMS: list[object] = [
    "",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "a//b",
    "a/",
    "./a",
    "a/.",
    "a/../b",
    "../a",
    "a/..",
    "a\\b",
    "..\\a",
    "c:/a",
    "c:a",
    "s3://bucket/key",
    "file:a",
    "simplecache::x",
    "a\x00b",
    "a\nb",
    "a\x7fb",
    "a\tb",
    "\ud800",
    "a/" * LIMITS.path_depth + "b",
    "x" * (LIMITS.path_bytes + 1),
    "é" * (LIMITS.path_bytes // 2 + 1),
    "manifest.json",
    "tombstone.json",
    "READY",
    "_SUCCESS",
    None,
    1,
    b"a",
    ["a"],
]

PATHS = [
    "a",
    "model.yaml",
    "weights.bin",
    "sub/manifest.json",
    "sub/READY",
    ".hidden",
    "...",
    "a..b",
    "with space",
    "été/größe.bin",
    "a/b:c",
    "-x",
    "a/" * (LIMITS.path_depth - 1) + "b",
    "x" * LIMITS.path_bytes,
]


@pytest.mark.parametrize("path", PROBLEMS, ids=lambda path: ascii(path)[:24])
def test_path_that_escapes_or_confuses_is_refused_with_a_reason(path: object) -> None:
    assert layout.path_problem(path)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ascii(path)[:24])
def test_ordinary_path_is_accepted(path: str) -> None:
    assert layout.path_problem(path) is None


@pytest.mark.parametrize("name", sorted(layout.NOT_PAYLOAD))
def test_reserved_name_is_refused_as_a_folder_at_the_top_too(name: str) -> None:
    assert layout.path_problem(f"{name}/weights.bin")


def test_slots_have_twenty_digits_and_sort_by_number() -> None:
    subject = layout.model_subject("digits")
    assert layout.slot(subject, 1) == "models/digits/log/00000000000000000001.json"
    numbers = [1, 2, 9, 10, 99, 100, 10**9, LIMITS.seq]
    assert [layout.slot(subject, n) for n in numbers] == sorted(layout.slot(subject, n) for n in numbers)
    assert [layout.slot_seq(layout.slot(subject, n).rpartition("/")[2]) for n in numbers] == numbers


@pytest.mark.parametrize("seq", [0, -1, LIMITS.seq + 1, 10**20])
def test_slot_number_out_of_range_is_refused(seq: int) -> None:
    with pytest.raises(ValueError, match="sequence number"):
        layout.slot(layout.model_subject("digits"), seq)


@pytest.mark.parametrize(
    "name",
    [
        "1.json",
        "0" * 20 + ".json",  # slot 0 does not exist
        "9" * 20 + ".json",  # more than a JSON reader keeps exactly
        "0" * 19 + "1",
        "0" * 19 + "1.json\n",
        "0" * 19 + "1.JSON",
        "0" * 19 + "1.json.tmp",
        "0" * 20 + "1.json",
        "٣" * 20 + ".json",
        "-" + "0" * 18 + "1.json",
        ".claim-abc",
        "",
    ],
)
def test_other_file_in_a_log_is_no_slot(name: str) -> None:
    assert layout.slot_seq(name) is None


def test_keys_of_a_model_lie_under_its_folder() -> None:
    subject = layout.model_subject("digits")
    assert layout.subject_root(subject) == "models/digits"
    assert layout.log(subject) == "models/digits/log"
    assert layout.active_copy(subject) == "models/digits/active.json"
    assert layout.versions(MODEL) == "models/digits/versions"
    assert layout.version(MODEL, VERSION) == "models/digits/versions/1.0.3"
    assert layout.manifest(MODEL, VERSION) == "models/digits/versions/1.0.3/manifest.json"
    assert layout.tombstone(MODEL, VERSION) == "models/digits/versions/1.0.3/tombstone.json"
    assert layout.payload(MODEL, VERSION, "sub/w.bin") == "models/digits/versions/1.0.3/sub/w.bin"
    assert layout.checks(MODEL, DIGEST) == f"models/digits/checks/{DIGEST}"
    assert layout.report(MODEL, DIGEST, 7, "ab") == f"models/digits/checks/{DIGEST}/0000000000007-ab.json"


def test_keys_of_an_application_lie_under_its_folder() -> None:
    subject = layout.app_subject("shop")
    assert layout.slot(subject, 3) == "apps/shop/log/00000000000000000003.json"
    assert layout.active_copy(subject) == "apps/shop/active.json"


def test_staging_folder_can_never_be_mistaken_for_a_version() -> None:
    name = layout.staging(MODEL, "abcdef01").rpartition("/")[2]
    with pytest.raises(InvalidName):
        version_name(name)


def test_hint_name_sorts_by_time_and_is_recognised() -> None:
    early, late = layout.change(999, "ab" * 8), layout.change(1_764_000_000_000, "00" * 8)
    assert early < late
    assert layout.is_change(late.rpartition("/")[2])
    assert not layout.is_change("README")
    assert not layout.is_change("1764000000000-XYZ")
    assert not layout.is_change("1764000000000-abababab\n")


def test_key_of_a_bad_name_is_never_made() -> None:
    for make in (layout.model_subject, layout.app_subject, layout.replica_status):
        with pytest.raises(InvalidName):
            make("../x")


def test_subject_reads_as_prose() -> None:
    assert str(layout.model_subject("digits")) == "model digits"
    assert str(layout.app_subject("shop")) == "application shop"


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("_temporary/0/_temporary/attempt/part-0", "_temporary"),
        ("stages/0/_temporary/0/part-0", "stages/0/_temporary"),
        ("__magic_job-1/tasks/part-0", "__magic_job-1"),
        ("sub/weights.bin._COPYING_", "sub/weights.bin._COPYING_"),
        (".distcp.tmp.attempt_1", ".distcp.tmp.attempt_1"),
        ("_temporary", None),
        ("my_temporary/part-0", None),
        ("data/_SUCCESS", None),
        ("data/.part-0.crc", None),
        ("weights.bin", None),
    ],
)
def test_what_a_writer_has_not_committed_is_told_by_its_path(path: str, part: str | None) -> None:
    assert layout.uncommitted(path) == part
