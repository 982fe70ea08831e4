"""The ledger: appending, racing, lost answers, damage, and finding the newest record."""

from __future__ import annotations

import json
import threading
from itertools import islice

import pytest

from clipperfs import layout
from clipperfs.digest import NO_DIGEST, digest_bytes
from clipperfs.documents import ModelRecord, ModelState, canonical_bytes
from clipperfs.errors import (
    DamagedLog,
    InvalidDocument,
    OutcomeUnknown,
    StorageDenied,
    StorageError,
    StorageUnavailable,
    UnknownFeature,
)
from clipperfs.ledger import READ_AHEAD, READ_ALONE, Draft, Head, Ledger
from clipperfs.store.memory import MemoryStore
from clipperfs.testing.fault_store import FaultStore

SUBJECT = layout.model_subject("m")
Found = Head[ModelRecord] | None


def ledger_on(store: MemoryStore | FaultStore) -> Ledger[ModelRecord]:
    return Ledger(store, SUBJECT, ModelRecord, "registry-1")


def append(ledger: Ledger[ModelRecord], op: str = "note") -> Head[ModelRecord]:
    head, changed = ledger.append(lambda base: Draft(op, ModelState()), actor="tester")
    assert head is not None and changed
    return head


def test_empty_log_has_no_head() -> None:
    assert ledger_on(MemoryStore()).head() is None
    assert list(ledger_on(MemoryStore()).records()) == []


def test_append_numbers_densely_and_chains() -> None:
    store = MemoryStore()
    heads = [append(ledger_on(store)) for _ in range(5)]
    assert [head.seq for head in heads] == [1, 2, 3, 4, 5]
    assert [head.record.prev for head in heads] == [NO_DIGEST, *(head.digest for head in heads[:-1])]
    assert [head.seq for head in ledger_on(store).records()] == [5, 4, 3, 2, 1]


def test_decide_none_appends_nothing() -> None:
    store = MemoryStore()
    append(ledger_on(store))
    head, changed = ledger_on(store).append(lambda base: None, actor="tester")
    assert head is not None and head.seq == 1 and not changed


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 63, 64, 65, 200])
@pytest.mark.parametrize("hint", ["none", "fresh", "stale", "too high", "garbage"])
def test_head_is_found_whatever_the_hint(length: int, hint: str) -> None:
    store = MemoryStore()
    writer = ledger_on(store)
    for _ in range(length):
        append(writer)
    copy = layout.active_copy(SUBJECT)
    if hint == "none":
        store.delete(copy)
    elif hint == "stale":
        store.replace(copy, json.dumps({"seq": max(1, length // 2)}).encode())
    elif hint == "too high":
        store.replace(copy, json.dumps({"seq": 10**18}).encode())
    elif hint == "garbage":
        store.replace(copy, b'{"seq": "\xff')
    head = ledger_on(store).head()
    assert head is not None and head.seq == length


def test_head_cost_does_not_grow_with_the_log_when_the_hint_is_fresh() -> None:
    store = MemoryStore()
    for _ in range(300):
        append(ledger_on(store))
    counting = FaultStore(store)
    head = ledger_on(counting).head()
    assert head is not None and head.seq == 300
    assert len(counting.calls) <= 6


def test_racing_writers_lose_no_record() -> None:
    store = MemoryStore()
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        ledger = ledger_on(store)
        barrier.wait()
        for _ in range(10):
            append(ledger, f"by-{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ops = [head.record.op for head in ledger_on(store).records()]
    assert len(ops) == 80
    assert all(ops.count(f"by-{number}") == 10 for number in range(8))


def test_lost_answer_is_read_back_and_not_written_twice() -> None:
    store = MemoryStore()
    probe = FaultStore(store)
    append(ledger_on(probe))
    create = next(number for number, (method, _) in enumerate(probe.calls, 1) if method == "create")
    fresh = MemoryStore("other")
    head = append(ledger_on(FaultStore(fresh, at=create, fault="lost")))
    assert head.seq == 1
    assert len(list(ledger_on(fresh).records())) == 1


def test_failed_answer_is_tried_again_in_the_same_slot() -> None:
    probe = FaultStore(MemoryStore())
    append(ledger_on(probe))
    create = next(number for number, (method, _) in enumerate(probe.calls, 1) if method == "create")
    assert append(ledger_on(FaultStore(MemoryStore(), at=create, fault="error"))).seq == 1


def test_unreadable_slot_after_a_write_is_an_unknown_outcome() -> None:
    class Deaf(MemoryStore):
        has_written = False

        def create(self, key: str, data: bytes) -> bool:
            self.has_written = True
            return super().create(key, data)

        def read(self, key: str, *, limit_bytes: int) -> bytes | None:
            if self.has_written:
                raise StorageUnavailable("no answer")
            return super().read(key, limit_bytes=limit_bytes)

    with pytest.raises(OutcomeUnknown) as caught:
        append(ledger_on(Deaf()))
    assert "history" in (caught.value.hint or "")


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_torn_record_is_damage_and_blocks_writers(cut: int) -> None:
    store = MemoryStore()
    append(ledger_on(store))
    head = append(ledger_on(store))
    store.replace(layout.slot(SUBJECT, 2), head.data[:cut] if cut >= 0 else head.data[:-3])
    with pytest.raises(DamagedLog) as caught:
        ledger_on(store).head()
    assert caught.value.fields["seq"] == 2
    with pytest.raises(DamagedLog):
        append(ledger_on(store))


@pytest.mark.parametrize("field", ["model", "registry_id", "seq", "prev"])
def test_forged_record_is_damage(field: str) -> None:
    store = MemoryStore()
    append(ledger_on(store))
    head = append(ledger_on(store))
    tree = json.loads(head.data)
    tree[field] = {"model": "other", "registry_id": "other-registry", "seq": 7, "prev": "ab" * 32}[field]
    store.replace(layout.slot(SUBJECT, 2), json.dumps(tree).encode())
    with pytest.raises(DamagedLog):
        ledger_on(store).head()


def test_changed_older_record_breaks_the_chain() -> None:
    store = MemoryStore()
    for _ in range(4):
        append(ledger_on(store))
    second = ledger_on(store).read(2)
    assert second is not None
    store.replace(layout.slot(SUBJECT, 2), second.data.replace(b"tester", b"forger"))
    with pytest.raises(DamagedLog) as caught:
        list(ledger_on(store).records())
    assert caught.value.fields["seq"] == 2


def test_record_that_requires_an_unknown_feature_is_not_misread() -> None:
    store = MemoryStore()
    head = append(ledger_on(store))
    tree = json.loads(head.data) | {"requires": ["time-travel"], "seq": 2, "prev": head.digest}
    store.create(layout.slot(SUBJECT, 2), json.dumps(tree).encode())
    with pytest.raises(UnknownFeature, match="time-travel"):
        ledger_on(store).head()


def test_unknown_fields_of_the_state_survive_the_next_record() -> None:
    store = MemoryStore()
    head = append(ledger_on(store))
    tree = json.loads(head.data)
    tree["state"]["quota"] = {"max_versions": 7}
    tree |= {"seq": 2, "prev": head.digest, "note": "from a newer release"}
    store.create(layout.slot(SUBJECT, 2), json.dumps(tree).encode())
    ledger = ledger_on(store)
    third, _ = ledger.append(lambda base: Draft("note", base.record.state if base else ModelState()), actor="x")
    assert third is not None
    assert json.loads(third.data)["state"]["quota"] == {"max_versions": 7}
    assert third.record.prev == digest_bytes(json.dumps(tree).encode())


def test_state_too_large_for_a_record_is_refused() -> None:
    state = ModelState.model_validate({"filler": "x" * 70_000})
    with pytest.raises(InvalidDocument, match="65536"):
        ledger_on(MemoryStore()).append(lambda base: Draft("note", state), actor="x")


def test_missing_record_in_the_middle_is_damage() -> None:
    store = MemoryStore()
    for _ in range(5):
        append(ledger_on(store))
    store.delete(layout.slot(SUBJECT, 3))
    with pytest.raises(DamagedLog):
        list(ledger_on(store).records())


def test_active_copy_is_the_newest_record_itself() -> None:
    store = MemoryStore()
    append(ledger_on(store))
    head = append(ledger_on(store))
    assert store.read(layout.active_copy(SUBJECT), limit_bytes=1 << 16) == head.data == canonical_bytes(head.record)


class FarStore(MemoryStore):
    """Takes every read for a request over a network, and counts how many are under way at once."""

    store_class = "far"

    def __init__(self) -> None:
        super().__init__()
        self.under_way = self.most = self.reads = 0
        self.counting = threading.Lock()

    def read(self, key: str, *, limit_bytes: int) -> bytes | None:
        with self.counting:
            self.reads += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        try:
            threading.Event().wait(0.001)
            return super().read(key, limit_bytes=limit_bytes)
        finally:
            with self.counting:
                self.under_way -= 1


def far_log(records: int) -> FarStore:
    store = FarStore()
    writer = ledger_on(store)
    for _ in range(records):
        append(writer)
    store.reads = store.most = 0
    return store


def test_long_log_over_a_network_is_read_ahead_in_order() -> None:
    store = far_log(60)
    assert [head.seq for head in ledger_on(store).records()] == list(range(60, 0, -1))
    assert 1 < store.most <= READ_AHEAD
    assert [head.seq for head in ledger_on(store).from_the_first()] == list(range(1, 61))


def test_few_records_over_a_network_are_not_read_ahead() -> None:
    store = far_log(60)
    newest = islice(ledger_on(store).records(), READ_ALONE)
    assert [head.seq for head in newest] == list(range(60, 60 - READ_ALONE, -1))
    assert store.reads < READ_ALONE + 5


def test_damage_that_was_read_ahead_is_found_in_its_place() -> None:
    store = far_log(60)
    store.delete(layout.slot(SUBJECT, 30))
    seen: list[int] = []
    with pytest.raises(DamagedLog, match="record 30 of model m"):
        for head in ledger_on(store).records():
            seen.append(head.seq)
    assert seen[-1] == 31


def test_newest_record_costs_three_calls_when_its_number_is_hinted() -> None:
    store = MemoryStore()
    for _ in range(9):
        append(ledger_on(store))
    counted = FaultStore(store)
    head = ledger_on(counted).head(linked=False)
    assert head is not None and head.seq == 9
    assert [method for method, _ in counted.calls] == ["read", "stat", "read"]


def test_read_that_fails_after_the_commit_calls_nothing_lost() -> None:
    store = MemoryStore()
    probe = FaultStore(store)
    append(ledger_on(probe))
    create = next(number for number, (method, _) in enumerate(probe.calls, 1) if method == "create")
    assert append(ledger_on(FaultStore(MemoryStore(), at=create + 2))).seq == 1


@pytest.mark.parametrize(
    ("failure", "told"),
    [(StorageUnavailable, OutcomeUnknown), (StorageDenied, StorageDenied), (StorageError, StorageError)],
)
def test_write_without_an_answer_may_still_be_on_its_way(
    failure: type[StorageError], told: type[StorageError], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(MemoryStore):
        def create(self, key: str, data: bytes) -> bool:
            raise failure("no")

    monkeypatch.setattr("clipperfs.ledger.time.sleep", lambda _: None)
    with pytest.raises(StorageError) as caught:
        append(ledger_on(Refusing()))
    assert type(caught.value) is told


def test_record_that_vanishes_while_it_is_read_is_damage_and_no_older_one_passes_for_the_head() -> None:
    class Vanishing(MemoryStore):
        def read(self, key: str, *, limit_bytes: int) -> bytes | None:
            return None if key.endswith("2.json") else super().read(key, limit_bytes=limit_bytes)

    store = Vanishing()
    append(ledger_on(store))
    store.create(layout.slot(SUBJECT, 2), b"{}")
    with pytest.raises(DamagedLog):
        ledger_on(store).head()
