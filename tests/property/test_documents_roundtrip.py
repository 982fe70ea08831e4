"""Documents survive a read and a write: what was known, what was not, and the digest of the bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
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
    VersionSettings,
    canonical_bytes,
    parse_document,
)
from clipperfs.documents.author import INHERITED_FIELDS, effective_settings, inheritance
from clipperfs.limits import LIMITS

LIMIT = 1 << 20

text = st.text(st.characters(codec="utf-8"), max_size=30)
names = st.from_regex(r"[a-z0-9](?:[a-z0-9_-]{0,10}[a-z0-9])?", fullmatch=True).filter(
    lambda name: name not in {"con", "prn", "aux", "nul"} and not (name[:3] in {"com", "lpt"} and len(name) == 4)
)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
seqs = st.integers(1, LIMITS.seq)
leaves = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False, allow_infinity=False) | text
)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8
)
unknown = st.dictionaries(text.map(lambda key: f"x-{key}"), trees, max_size=3)
"""Fields of a release that does not exist yet."""


def extended(fields: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return objects with these fields, perhaps the optional ones, and perhaps fields that nobody knows."""
    known = st.fixed_dictionaries(fields, optional=optional)
    return st.tuples(unknown, known).map(lambda pair: {**pair[0], **pair[1]})


settings_trees = extended(
    {},
    wrapper=extended({"kind": st.just("sklearn")}),
    input_type=st.sampled_from(["ints", "floats", "doubles", "bytes", "strings"]),
    sample=st.lists(trees, min_size=1, max_size=2),
    hooks=st.lists(extended({"name": st.just("smoke")}, options=st.dictionaries(text, trees, max_size=2)), max_size=2),
    max_batch=st.integers(1, 65536),
    fixed_batch=st.integers(0, 65536),
    idempotent=st.booleans(),
    labels=st.dictionaries(text, text, max_size=2),
)
pointers = extended(
    {"version": names, "manifest": digests, "seq": seqs}, inherited=st.dictionaries(text, trees, max_size=2)
)
verdicts = extended(
    {"hook": text, "outcome": st.sampled_from(["passed", "refused", "error", "timeout", "skipped"])},
    reason=text,
    measures=st.dictionaries(text, trees, max_size=2),
    duration_ms=st.floats(0, 1e9),
)
policies = extended(
    {},
    replicas=st.integers(0, 256),
    allow_code=st.booleans(),
    keep_previous_s=st.floats(0, 86_400),
    activation=st.sampled_from(["manual", "on-publish"]),
)
common = {
    "schema": st.just("clipperfs.record.v1"),
    "registry_id": st.text("0123456789abcdef", min_size=32, max_size=32),
    "seq": seqs,
    "prev": digests,
    "nonce": st.text("0123456789abcdef", min_size=32, max_size=32),
    "time": text,
    "actor": text,
    "op": st.just("activate"),
}
TREES: dict[type[Document], st.SearchStrategy[Any]] = {
    ModelRecord: extended(
        {
            **common,
            "model": names,
            "state": extended(
                {},
                active=pointers | st.none(),
                previous=pointers | st.none(),
                aliases=st.dictionaries(names, pointers, max_size=2),
                pins=st.lists(pointers, max_size=2),
                policy=policies,
                retired=st.dictionaries(
                    names, extended({"stage": st.just("retired"), "seq": seqs, "time": text}), max_size=2
                ),
            ),
        },
        evidence=extended({}, version=names, manifest=digests, verdicts=st.lists(verdicts, max_size=2)),
        reason=text | st.none(),
        requires=st.lists(text, max_size=2),
    ),
    AppRecord: extended(
        {
            **common,
            "app": names,
            "state": extended(
                {"input_type": st.just("doubles"), "default_output": text, "slo_us": st.integers(100, 3_600_000_000)},
                links=st.lists(extended({"model": names}), max_size=1),
            ),
        }
    ),
    Manifest: extended(
        {
            "schema": st.just("clipperfs.manifest.v1"),
            "created": text,
            "created_by": text,
            "files": st.lists(
                extended(
                    {"path": names, "size": st.integers(0, LIMITS.file_bytes), "sha256": digests},
                    executable=st.booleans(),
                ),
                min_size=1,
                max_size=4,
                unique_by=lambda entry: entry["path"],
            ),
        },
        settings=settings_trees,
    ),
    RegistryDocument: extended(
        {
            "schema": st.just("clipperfs.registry.v1"),
            "registry_id": st.text("0123456789abcdef", min_size=32, max_size=32),
            "created": text,
            "created_by": text,
            "store_class": text,
        },
        required_features=st.lists(text, max_size=2),
    ),
    Tombstone: extended(
        {
            "schema": st.just("clipperfs.tombstone.v1"),
            "model": names,
            "version": names,
            "manifest": digests | st.none(),
            "time": text,
            "actor": text,
        }
    ),
    ChangeHint: extended({"kind": st.sampled_from(["model", "app"]), "name": names, "seq": seqs}),
    CheckReport: extended(
        {
            "schema": st.just("clipperfs.report.v1"),
            "model": names,
            "version": names,
            "manifest": digests,
            "active": names | st.none(),
            "base_seq": st.integers(0, LIMITS.seq),
            "time": text,
            "actor": text,
            "accepted": st.booleans(),
            "verdicts": st.lists(verdicts, max_size=3),
        }
    ),
    ReplicaStatus: extended(
        {
            "schema": st.just("clipperfs.replica.v1"),
            "replica": names,
            "host": text,
            "pid": st.integers(1, 1 << 22),
            "software": text,
            "time": text,
            "expires_unix_s": st.floats(0, 1e12),
        },
        models=st.dictionaries(names, extended({"applied_seq": seqs, "active": names | st.none()}), max_size=2),
    ),
}


def assert_within(small: Any, large: Any, where: str = "document") -> None:
    """Hold that everything in ``small`` is in ``large``; defaults may have been added."""
    if isinstance(small, dict):
        assert isinstance(large, dict), where
        for key, value in small.items():
            assert key in large, f"{where}.{key} was lost"
            assert_within(value, large[key], f"{where}.{key}")
    elif isinstance(small, list):
        assert isinstance(large, list) and len(small) == len(large), where
        for index, value in enumerate(small):
            assert_within(value, large[index], f"{where}[{index}]")
    else:
        assert small == large, where
        assert isinstance(small, bool) == isinstance(large, bool), where


@pytest.mark.parametrize("kind", TREES, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_known_and_unknown_fields_survive_a_read_and_a_write(kind: type[Document], data: st.DataObject) -> None:
    tree = data.draw(TREES[kind])
    document = parse_document(kind, json.dumps(tree).encode(), limit_bytes=LIMIT)
    written = canonical_bytes(document)
    assert_within(tree, json.loads(written))


@pytest.mark.parametrize("kind", TREES, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_canonical_bytes_are_a_fixed_point(kind: type[Document], data: st.DataObject) -> None:
    once = canonical_bytes(parse_document(kind, json.dumps(data.draw(TREES[kind])).encode(), limit_bytes=LIMIT))
    assert canonical_bytes(parse_document(kind, once, limit_bytes=LIMIT)) == once
    assert once.endswith(b"}\n")
    once.decode("utf-8")


@given(tree=TREES[ModelRecord])
def test_unknown_fields_of_a_state_survive_a_change_of_a_known_one(tree: dict[str, Any]) -> None:
    record = parse_document(ModelRecord, json.dumps(tree).encode(), limit_bytes=LIMIT)
    changed = record.state.model_copy(update={"active": None})
    written = json.loads(canonical_bytes(record.model_copy(update={"state": changed})))
    assert_within({**tree["state"], "active": None}, written["state"])


@given(own=settings_trees, active=settings_trees)
def test_inheritance_fills_exactly_what_was_left_out(own: dict[str, Any], active: dict[str, Any]) -> None:
    mine, theirs = VersionSettings.model_validate(own), VersionSettings.model_validate(active)
    effective = effective_settings(mine, inheritance(mine, theirs))
    for name in INHERITED_FIELDS:
        own_value = getattr(mine, name)
        assert getattr(effective, name) == (getattr(theirs, name) if own_value is None else own_value), name
    assert effective.labels == mine.labels
    assert effective.description == mine.description


def test_sample_in_a_file_is_not_inherited() -> None:
    active = VersionSettings(sample="sample.json", input_type="doubles")
    assert inheritance(VersionSettings(), active) == {"input_type": "doubles"}
    assert inheritance(VersionSettings(), None) == {}


def test_field_that_is_not_inherited_is_not_taken_from_a_record() -> None:
    assert effective_settings(VersionSettings(), {"description": "x", "requirements": "r.txt"}).description is None
