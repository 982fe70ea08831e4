"""Hostile bytes: a document is read, or InvalidDocument is raised, and nothing else ever."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipperfs.documents import (
    AppRecord,
    ChangeHint,
    CheckReport,
    Document,
    Manifest,
    ModelRecord,
    RegistryDocument,
    ReplicaStatus,
    Tombstone,
    parse_author_file,
    parse_document,
)
from clipperfs.errors import InvalidDocument
from clipperfs.limits import LIMITS

KINDS: list[type[Document]] = [
    ModelRecord,
    AppRecord,
    Manifest,
    RegistryDocument,
    Tombstone,
    ChangeHint,
    CheckReport,
    ReplicaStatus,
]
LIMIT = 1 << 20
DIGEST = "ab" * 32

RECORD: dict[str, Any] = {
    "schema": "clipperfs.record.v1",
    "registry_id": "0" * 32,
    "model": "digits",
    "seq": 1,
    "prev": "0" * 64,
    "nonce": "0" * 32,
    "time": "2026-11-20T12:00:00.000Z",
    "actor": "ci",
    "op": "publish",
    "state": {},
}
MANIFEST: dict[str, Any] = {
    "schema": "clipperfs.manifest.v1",
    "created": "2026-11-20T12:00:00.000Z",
    "created_by": "clipperfs 0.1.0",
    "files": [{"path": "weights.bin", "size": 3, "sha256": DIGEST}],
}

BYTES = [
    b"",
    b" ",
    b"null",
    b"[]",
    b"1",
    b'"text"',
    b"{",
    b"{}{}",
    b"{} x",
    b"\x00" * 100,
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",  # a byte order mark
    "{}".encode("utf-16"),
    b'{"seq": NaN}',
    b'{"seq": Infinity}',
    b'{"seq": -Infinity}',
    b'{"seq": 1e999}',
    b'{"seq": ' + b"9" * 5000 + b"}",
    b'{"a": 1, "a": 2}',
    b'{"a": {"b": 1, "b": 2}}',
    b'{"a": "\\ud800"}',
    b'{"\\udfff": 1}',
    b'{"a": "\n"}',
    b"{'a': 1}",
    b'{"a": 1,}',
    b"// comment\n{}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 65 + b"]" * 65,
    b" " * (LIMIT + 1),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("data", BYTES, ids=lambda data: repr(data[:16]))
def test_bytes_that_are_no_document_raise_invalid_document(kind: type[Document], data: bytes) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_document(kind, data, limit_bytes=LIMIT)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(kind: type[Document], data: bytes) -> None:
    with pytest.raises(InvalidDocument):
        parse_document(kind, data, limit_bytes=LIMIT)


@settings(max_examples=300)
@given(
    tree=st.sampled_from([RECORD, MANIFEST]),
    at=st.integers(0, 2000),
    cut=st.integers(0, 3),
    insert=st.binary(max_size=3),
)
def test_damaged_bytes_are_read_or_refused(tree: dict[str, Any], at: int, cut: int, insert: bytes) -> None:
    whole = json.dumps(tree).encode()
    at %= len(whole)
    damaged = whole[:at] + insert + whole[at + cut :]
    try:
        parse_document(ModelRecord if tree is RECORD else Manifest, damaged, limit_bytes=LIMIT)
    except InvalidDocument as error:
        assert str(error)


def test_every_proper_beginning_of_a_record_is_refused() -> None:
    whole = json.dumps(RECORD).encode()
    parse_document(ModelRecord, whole, limit_bytes=LIMIT)
    for end in range(len(whole)):
        with pytest.raises(InvalidDocument):
            parse_document(ModelRecord, whole[:end], limit_bytes=LIMIT)


def test_limit_is_exact() -> None:
    data = json.dumps(RECORD).encode()
    parse_document(ModelRecord, data, limit_bytes=len(data))
    with pytest.raises(InvalidDocument, match="more than the limit"):
        parse_document(ModelRecord, data, limit_bytes=len(data) - 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", "clipperfs.record.v2"),
        ("schema", None),
        ("seq", 0),
        ("seq", -1),
        ("seq", "1"),
        ("seq", 1.0),
        ("seq", True),
        ("seq", LIMITS.seq + 1),
        ("prev", "0" * 63),
        ("prev", "A" * 64),
        ("prev", None),
        ("nonce", "short"),
        ("actor", "x" * 201),
        ("reason", "x" * (LIMITS.reason_chars + 1)),
        ("op", ""),
        ("model", 7),
        ("state", None),
        ("state", {"active": {"version": "../x", "manifest": DIGEST, "seq": 1}}),
        ("state", {"active": {"version": "1", "manifest": "x", "seq": 1}}),
        ("state", {"aliases": {"stable": {"version": "1", "manifest": DIGEST}}}),
        ("state", {"policy": {"replicas": "2"}}),
        ("state", {"policy": {"activation": "always"}}),
    ],
)
def test_record_with_a_wrong_field_is_refused_and_the_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidDocument, match=field):
        parse_document(ModelRecord, json.dumps({**RECORD, field: value}).encode(), limit_bytes=LIMIT)


@pytest.mark.parametrize("field", list(RECORD))
def test_record_without_a_required_field_is_refused_and_the_field_is_named(field: str) -> None:
    tree = {name: value for name, value in RECORD.items() if name != field}
    with pytest.raises(InvalidDocument, match=field):
        parse_document(ModelRecord, json.dumps(tree).encode(), limit_bytes=LIMIT)


def entry(path: str) -> dict[str, Any]:
    """Return a file entry of a manifest."""
    return {"path": path, "size": 1, "sha256": DIGEST}


@pytest.mark.parametrize(
    "files",
    [
        [],
        [entry("a"), entry("a")],
        [entry("a"), entry("A")],
        [entry("a"), entry("a/b")],
        [entry("a/b/c"), entry("a/b")],
        [entry("/etc/passwd")],
        [entry("../x")],
        [entry("a/../../x")],
        [entry("a\\b")],
        [entry("c:/x")],
        [entry("s3://bucket/x")],
        [entry("manifest.json")],
        [entry("READY")],
        [entry("a\nb")],
        [{**entry("a"), "size": -1}],
        [{**entry("a"), "size": LIMITS.file_bytes + 1}],
        [{**entry("a"), "size": "1"}],
        [{**entry("a"), "sha256": "0" * 40}],
        [{**entry("a"), "executable": 1}],
        [{"path": "a"}],
        ["a"],
        {"a": 1},
        [entry(f"f{n}") for n in range(LIMITS.files + 1)],
    ],
    ids=lambda files: ascii(files)[:40],
)
def test_manifest_that_could_mislead_is_refused(files: Any) -> None:
    with pytest.raises(InvalidDocument):
        parse_document(Manifest, json.dumps({**MANIFEST, "files": files}).encode(), limit_bytes=LIMITS.manifest_bytes)


AUTHOR_BYTES = [
    b"\x00",
    b"\xff",
    b"[]",
    b"- a\n- b",
    b"text",
    b"wrapper: [",
    b"wrapper: {a: 1}",
    b"wraper: sklearn",
    b"wrapper: a\nwrapper: b",
    b"a: &x [1]\nb: *x",
    b"a: !!python/object/apply:os.system [ls]",
    b"max_batch: 0",
    b"max_batch: many",
    b"fixed_batch: -1",
    b"fixed_batch: adaptive",
    b"fixed-batch: 8",
    b"batch: {fixed: 8}",
    b"max_batch: 8\nfixed_batch: 9",
    b"sample: []",
    b"sample: ../outside.json",
    b"sample: /etc/passwd",
    b"requirements: http://host/x",
    b"hooks: smoke",
    b"hooks: [[1]]",
    b"input_type: complex",
    b"labels: {a: [1]}",
    b"x: " + b"[" * 5000,
    b"? [1, 2]\n: 3",
    b"{" * 5000,
    b"wrapper: 2026-11-20",
    b"description: .nan",
    b"sample: [.nan]",
    b"sample: [2026-11-20]",
    b"sample: " + b"[" * 70 + b"1" + b"]" * 70,
    b"sample: [!!binary aGk=]",
    b"sample: [!!set {a}]",
    b"<<: {wrapper: a}\nx: 1",
    b"#" * (LIMITS.author_bytes + 1),
]


@pytest.mark.parametrize("data", AUTHOR_BYTES, ids=lambda data: repr(data[:24]))
def test_author_file_with_a_mistake_is_refused_in_plain_words(data: bytes) -> None:
    with pytest.raises(InvalidDocument, match=r"model\.yaml") as caught:
        parse_author_file(data)
    assert len(str(caught.value)) < 2000


@given(data=st.binary(max_size=100) | st.text("abc:{}[]-&*!?|>'\"#%@, \n\t<=", max_size=60).map(str.encode))
def test_random_author_file_is_read_or_refused(data: bytes) -> None:
    try:
        parse_author_file(data)
    except InvalidDocument as error:
        assert "model.yaml" in str(error)


@pytest.mark.parametrize("data", [b"", b"# nothing", b"{}", b"---\n"])
def test_empty_author_file_leaves_everything_out(data: bytes) -> None:
    author = parse_author_file(data)
    assert author.wrapper is None
    assert author.settings().hooks is None


def test_short_forms_mean_the_long_ones() -> None:
    author = parse_author_file(b"wrapper: sklearn\nhooks: [smoke, {latency: {p99_ms: 20}}, {command: [./check.sh]}]\n")
    assert author.wrapper is not None
    assert author.wrapper.kind == "sklearn"
    assert [(hook.name, hook.options) for hook in author.hooks or []] == [
        ("smoke", {}),
        ("latency", {"p99_ms": 20}),
        ("command", {"value": ["./check.sh"]}),
    ]


def test_fixed_batch_that_no_batch_can_have_is_refused_with_both_sizes() -> None:
    with pytest.raises(InvalidDocument, match="fixed_batch 9 is more than max_batch 8"):
        parse_author_file(b"max_batch: 8\nfixed_batch: 9\n")
    with pytest.raises(InvalidDocument, match="fixed-batch"):
        parse_author_file(b"fixed-batch: 8\n")


def test_settings_without_a_fixed_batch_are_spelled_as_before_there_was_one() -> None:
    assert "fixed_batch" not in parse_author_file(b"max_batch: 8\n").settings().model_dump()
    assert parse_author_file(b"fixed_batch: 0\n").settings().model_dump()["fixed_batch"] == 0
