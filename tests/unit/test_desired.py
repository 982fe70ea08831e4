"""From records to the complete desired state, and through the snapshot back to it."""

from __future__ import annotations

from typing import Any

import pytest
from clipperfs.serverd.desired import ACTIVE, Snapshot, desired_state, parse_snapshot, wanted_model

from clipperfs.digest import NO_DIGEST
from clipperfs.documents import AppRecord, AppState, Link, ModelRecord, ModelState, Pointer, Policy, canonical_bytes
from clipperfs.errors import InvalidDocument


def pointer(version: str, seq: int, **inherited: Any) -> Pointer:
    return Pointer(version=version, manifest=version * 64, seq=seq, inherited=inherited)


def model_record(seq: int = 5, **state: Any) -> ModelRecord:
    return ModelRecord(
        registry_id="registry-1",
        seq=seq,
        prev=NO_DIGEST,
        nonce="n" * 16,
        time="2026-01-01T00:00:00.000Z",
        actor="ci@test",
        op="activate",
        model="m",
        state=ModelState(**state),
    )


def app_record(**state: Any) -> AppRecord:
    fields = {"input_type": "doubles", "default_output": "none", "slo_us": 100_000, **state}
    return AppRecord(
        registry_id="registry-1",
        seq=1,
        prev=NO_DIGEST,
        nonce="n" * 16,
        time="2026-01-01T00:00:00.000Z",
        actor="ci@test",
        op="register",
        app="a",
        state=AppState(**fields),
    )


def test_active_version_gets_the_policys_replicas_and_others_one() -> None:
    record = model_record(
        active=pointer("1", 3),
        aliases={"next": pointer("2", 4)},
        pins=[pointer("3", 5)],
        policy=Policy(replicas=4),
    )
    wanted = wanted_model(record)
    assert {one.version: one.replicas for one in wanted.loads.values()} == {"1": 4, "2": 1, "3": 1}
    assert {name: wanted.loads[load].version for name, load in wanted.names.items()} == {ACTIVE: "1", "next": "2"}


def test_one_version_under_two_names_is_loaded_once_at_full_width() -> None:
    record = model_record(active=pointer("1", 3), aliases={"also": pointer("1", 4)}, policy=Policy(replicas=2))
    wanted = wanted_model(record)
    [only] = wanted.loads.values()
    assert only.replicas == 2
    assert wanted.names == {ACTIVE: only.load, "also": only.load}


def test_one_version_with_other_inherited_settings_is_another_load() -> None:
    record = model_record(active=pointer("1", 3), pins=[pointer("1", 4, wrapper={"kind": "noop"})])
    plain, inherits = wanted_model(record).loads.values()
    assert (plain.settings, len(inherits.settings)) == ("", 16)


@pytest.mark.parametrize(
    "changed",
    [
        {"active": pointer("1", 4)},
        {"policy": Policy(allow_code=True)},
        {"policy": Policy(load_timeout_s=9)},
    ],
)
def test_fuse_changes_with_what_gives_a_failed_load_another_chance(changed: dict[str, Any]) -> None:
    before = wanted_model(model_record(active=pointer("1", 3)))
    after = wanted_model(model_record(6, **{"active": pointer("1", 3), **changed}))
    [load] = before.loads
    assert after.loads[load].fuse != before.loads[load].fuse
    assert wanted_model(model_record(active=pointer("1", 3)), tries=1).loads[load].fuse != before.loads[load].fuse


def test_fuse_stays_with_an_unrelated_record() -> None:
    before = wanted_model(model_record(active=pointer("1", 3)))
    after = wanted_model(model_record(6, active=pointer("1", 3), aliases={"next": pointer("2", 6)}))
    [load] = before.loads
    assert after.loads[load].fuse == before.loads[load].fuse


def test_previous_version_is_the_fallback_unless_it_is_the_active_one() -> None:
    wanted = wanted_model(model_record(active=pointer("2", 4), previous=pointer("1", 3)))
    assert wanted.fallback is not None and wanted.fallback.version == "1"
    same = wanted_model(model_record(active=pointer("1", 4), previous=pointer("1", 3)))
    assert same.fallback is None


def test_zero_replicas_want_nothing() -> None:
    record = model_record(
        active=pointer("2", 4), previous=pointer("1", 3), aliases={"x": pointer("3", 4)}, policy=Policy(replicas=0)
    )
    wanted = wanted_model(record)
    assert wanted.is_off
    assert (dict(wanted.loads), dict(wanted.names), wanted.fallback) == ({}, {}, None)


def test_applications_are_taken_over_and_deleted_ones_left_out() -> None:
    desired = desired_state([], [app_record(links=[Link(model="m")])])
    assert desired.apps["a"].model == "m"
    assert desired_state([], [app_record()]).apps["a"].model is None
    assert desired_state([], [app_record(deleted=True)]).apps == {}


def test_snapshot_brings_back_the_same_desired_state() -> None:
    models, apps = [model_record(active=pointer("1", 3, input_type="ints"))], [app_record()]
    snapshot = Snapshot(registry_id="registry-1", models=models, apps=apps)
    back = parse_snapshot(canonical_bytes(snapshot))
    assert desired_state(back.models, back.apps) == desired_state(models, apps)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"registry_id": "x", "models": [{"seq": 1}]}', b"\xff"])
def test_a_snapshot_that_cannot_be_read_says_so(data: bytes) -> None:
    with pytest.raises(InvalidDocument):
        parse_snapshot(data)
