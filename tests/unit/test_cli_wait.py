"""``--wait``: which daemons count as serving a record, and what is said when too few do."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from clipperfs import layout
from clipperfs.cli.wait import SETTLE_S, wait_for_daemons
from clipperfs.cluster import judge
from clipperfs.documents import LoadedVersion, ModelRecord, ReplicaStatus, ServedModel, canonical_bytes, utc_now
from clipperfs.errors import Degraded, TimedOut
from clipperfs.store import Store, open_store

OLD, NEW = "a" * 64, "b" * 64


def record(seq: int = 5) -> ModelRecord:
    return ModelRecord.model_validate(
        {
            "registry_id": "r" * 16,
            "model": "digits",
            "seq": seq,
            "prev": "0" * 64,
            "nonce": "n" * 16,
            "time": "2026-01-01T00:00:00Z",
            "actor": "me",
            "op": "activate",
            "state": {"active": {"version": "2", "manifest": NEW, "seq": seq}},
        }
    )


def status(name: str, applied: int, *, expires_s: float = 60.0, **states: Any) -> ReplicaStatus:
    """Return a status in which versions 1 (OLD) and 2 (NEW) are in the given states (``v1``, ``v2``)."""
    loaded = [
        LoadedVersion(version=version, manifest=manifest, state=states[key], reason=states.get("reason"))
        for key, version, manifest in (("v1", "1", OLD), ("v2", "2", NEW))
        if key in states
    ]
    return ReplicaStatus(
        replica=name,
        host="here",
        pid=1,
        software="clipperfs",
        time=utc_now(),
        expires_unix_s=time.time() + expires_s,
        models={"digits": ServedModel(applied_seq=applied, active="1", versions=loaded)},
    )


@pytest.fixture
def store(tmp_path: Any) -> Store:
    return open_store(tmp_path)


def put(store: Store, one: ReplicaStatus) -> None:
    store.replace(layout.replica_status(one.replica), canonical_bytes(one))


def wait(store: Store, count: int, timeout_s: float = 0.0, **options: Any) -> list[str]:
    return wait_for_daemons(store, record(), count=count, timeout_s=timeout_s, **options)


@pytest.mark.parametrize(
    ("one", "serves", "why"),
    [
        (status("a", 5, v2="ready"), True, ""),
        (status("a", 6, v1="ready"), True, ""),  # a later record moved on: this one has been applied
        (status("a", 4, v1="ready"), False, "record 4"),
        (status("a", 4, v1="ready", v2="loading"), False, "record 4"),
        (status("a", 5, v1="ready", v2="loading"), False, "not loaded"),
        (status("a", 5, v1="ready", v2="failed", reason="no memory"), False, "no memory"),
        (status("a", 5, v1="ready", v2="quarantined", reason="crashes"), False, "crashes"),
    ],
)
def test_status_is_judged_by_seq_and_by_the_version_it_points_to(one: ReplicaStatus, serves: bool, why: str) -> None:
    answer = judge(one, record())
    assert answer.serves is serves
    assert why in answer.why


def test_enough_daemons_end_the_wait(store: Store) -> None:
    for name in ("a", "b"):
        put(store, status(name, 5, v2="ready"))
    assert wait(store, 2) == ["a", "b"]


def test_expired_damaged_and_foreign_statuses_do_not_count(store: Store) -> None:
    put(store, status("a", 5, v2="ready"))
    put(store, status("gone", 5, v2="ready", expires_s=-1))
    store.replace("replicas/torn.json", b'{"schema": "clip')
    store.replace("replicas/notes.txt", b"hello")
    with pytest.raises(TimedOut) as caught:
        wait(store, 2)
    assert caught.value.fields["serving"] == ["a"]
    assert caught.value.fields["waiting"] == {}


def test_time_out_says_of_each_daemon_why(store: Store) -> None:
    put(store, status("a", 5, v2="ready"))
    put(store, status("b", 5, v1="ready", v2="failed", reason="cannot allocate 3 GB"))
    put(store, status("c", 3, v1="ready"))
    with pytest.raises(TimedOut) as caught:
        wait(store, 3)
    assert "1 of 3 daemons" in caught.value.message
    assert "b refused version 2: cannot allocate 3 GB" in caught.value.message
    assert set(caught.value.fields["waiting"]) == {"b", "c"}
    json.dumps(caught.value.as_document())


def test_refusals_end_the_wait_when_nobody_else_is_on_the_way(store: Store) -> None:
    put(store, status("a", 5, v2="ready"))
    put(store, status("b", 5, v1="ready", v2="quarantined", reason="no module named table"))
    now_s = [0.0]

    def pause(duration_s: float) -> None:
        now_s[0] += duration_s

    with pytest.raises(Degraded) as caught:
        wait(store, 2, timeout_s=600.0, clock=lambda: now_s[0], pause=pause)
    assert SETTLE_S <= now_s[0] < SETTLE_S + 1
    assert "1 of 2 daemons" in caught.value.message
    assert "b refused version 2: no module named table" in caught.value.message
    assert caught.value.fields["refused"] == ["b"]


def test_one_that_is_on_the_way_is_waited_for_whatever_others_refuse(store: Store) -> None:
    put(store, status("a", 4, v1="ready"))
    put(store, status("b", 5, v2="failed", reason="no"))
    now_s = [0.0]

    def pause(duration_s: float) -> None:
        now_s[0] += duration_s
        if now_s[0] > 3 * SETTLE_S:
            put(store, status("a", 5, v2="ready"))

    assert wait(store, 1, timeout_s=600.0, clock=lambda: now_s[0], pause=pause) == ["a"]


def test_progress_is_told_once_for_each_change(store: Store) -> None:
    put(store, status("a", 4, v1="ready"))
    lines: list[str] = []
    pauses: list[float] = []

    def pause(duration_s: float) -> None:
        pauses.append(duration_s)
        if len(pauses) == 3:
            put(store, status("a", 5, v1="ready", v2="loading"))
        if len(pauses) == 5:
            put(store, status("a", 5, v2="ready"))

    wait(store, 1, timeout_s=60.0, pause=pause, say=lines.append)
    assert lines == [
        "0 of 1 serve it; a has applied record 4, not yet 5",
        "0 of 1 serve it; a has not loaded version 2 yet",
        "1 of 1 serve it",
    ]


def test_no_daemon_at_all_is_said(store: Store) -> None:
    with pytest.raises(TimedOut, match="no other daemon reports"):
        wait(store, 1)


def test_wait_looks_again_until_the_daemon_has_switched(store: Store) -> None:
    put(store, status("a", 4, v1="ready"))
    pauses: list[float] = []

    def pause(duration_s: float) -> None:
        pauses.append(duration_s)
        if len(pauses) == 3:
            put(store, status("a", 5, v1="draining", v2="ready"))

    assert wait(store, 1, timeout_s=60.0, pause=pause) == ["a"]
    assert len(pauses) == 3
