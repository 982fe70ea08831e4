"""Every interleaving of writers, a reader, crashes and lost answers on one log: nothing lost, nothing twice, no gap.

A crash needs no step of its own: a process that is never scheduled again has crashed, so everything is checked in every
state, with whoever is not at the end taken for dead; and in every store that can be left behind, a fresh reader and a
fresh writer go on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from types import SimpleNamespace
from typing import Any

import pytest

from clipperfs import layout, ledger
from clipperfs.digest import NO_DIGEST, digest_bytes
from clipperfs.documents import ModelRecord, ModelState
from clipperfs.errors import OutcomeUnknown, StorageError
from clipperfs.ledger import Draft, Head, Ledger
from tests.property.interleavings import Call, Explored, Files, Program, Question, explore, memory_store_of
from tests.scale import SCALE

SUBJECT = layout.model_subject("m")
SLOTS = "models/m/log/"
AMOUNTS = {"a": 1.0, "b": 10.0, "c": 100.0, "fresh": 1000.0}
"""What each writer adds to a number of the state: the sum tells whose records a record was decided on."""


class Names:
    """Numbers in place of chance, anew for each run of a process: the same answers give the same bytes."""

    def __init__(self) -> None:
        self.owner = ""
        self.count = 0

    def token_hex(self, size: int) -> str:
        self.count += 1
        return f"{self.owner}{self.count:02d}".encode().hex().zfill(2 * size)


names = Names()


@pytest.fixture(autouse=True)
def _without_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "secrets", names)
    monkeypatch.setattr(ledger, "time", SimpleNamespace(sleep=lambda _: None, time=lambda: 1.0))
    monkeypatch.setattr(ledger, "utc_now", lambda: "2026-11-20T12:00:00.000Z")


def writer(me: str, appends: int, kind: type[Ledger[ModelRecord]] = Ledger) -> Program:
    """Return a process that appends some records, through one ledger of its own."""

    def program(store: Any, tell: Callable[[Hashable], None]) -> None:
        names.owner, names.count = me, 0
        log = kind(store, SUBJECT, ModelRecord, "r" * 16)
        for number in range(appends):
            mine = f"{me}{number}"

            def decide(base: Head[ModelRecord] | None, mine: str = mine) -> Draft:
                state = base.record.state if base else ModelState()
                policy = state.policy.model_copy(update={"grace_s": _total(state) + AMOUNTS[me]})
                return Draft("policy", state.model_copy(update={"policy": policy}), reason=mine)

            try:
                head, _ = log.append(decide, actor=me)
            except OutcomeUnknown:
                tell(("unknown", mine))
            except StorageError:
                tell(("refused", mine))
            else:
                assert head is not None
                tell(("wrote", mine, head.seq, head.digest))

    return program


def reader(reads: int, kind: type[Ledger[ModelRecord]] = Ledger) -> Program:
    """Return a process that reads the head some times, through one ledger of its own."""

    def program(store: Any, tell: Callable[[Hashable], None]) -> None:
        log = kind(store, SUBJECT, ModelRecord, "r" * 16)
        for _ in range(reads):
            try:
                head = log.head()
            except StorageError:
                tell(("failed",))
            else:
                tell(("saw", "", head.seq if head else 0, head.digest if head else NO_DIGEST))

    return program


def _total(state: ModelState) -> float:
    return 0.0 if state.policy.grace_s == 86_400.0 else state.policy.grace_s


def slots(files: Files) -> list[bytes]:
    return [data for key, data in files if key.startswith(SLOTS)]


_parsed: dict[bytes, ModelRecord] = {}


def record_of(data: bytes) -> ModelRecord:
    if data not in _parsed:
        _parsed[data] = ModelRecord.model_validate_json(data)
    return _parsed[data]


def check_files(files: Files) -> str | None:
    """Check the log, and that a fresh reader and a fresh writer go on from it."""
    keys = [key for key, _ in files if key.startswith(SLOTS)]
    if keys != [layout.slot(SUBJECT, seq) for seq in range(1, len(keys) + 1)]:
        return f"the log is not dense: {keys}"
    before, total, written = str(NO_DIGEST), 0.0, set()
    for data in slots(files):
        record = record_of(data)
        total += AMOUNTS[record.actor]
        if record.prev != before:
            return f"record {record.seq} does not follow the one before it"
        if _total(record.state) != total:
            return f"lost update: record {record.seq} carries {_total(record.state)}, the log adds up to {total}"
        if record.reason in written:
            return f"{record.reason} is written twice"
        written.add(record.reason)
        before = digest_bytes(data)
    store = memory_store_of(files)
    told: list[Any] = []
    reader(1)(store, told.append)
    writer("fresh", 1)(store, told.append)
    if told[0][2] != len(keys) or told[1][:3] != ("wrote", "fresh0", len(keys) + 1):
        return f"nobody can go on from here: {told}"
    return None


def check_told(process: str, told: Any, files: Files) -> str | None:
    """Check at any later moment what a process was told."""
    records = slots(files)
    if told[0] == "refused" and any(record_of(data).reason == told[1] for data in records):
        return f"{told[1]} was told that nothing was written, and it is there"
    if told[0] in ("wrote", "saw") and told[2]:
        data = records[told[2] - 1] if told[2] <= len(records) else b""
        if digest_bytes(data) != told[3]:
            return f"{process} was told of record {told[2]}, which is not there"
        if told[0] == "wrote" and record_of(data).reason != told[1]:
            return f"{process} was told that record {told[2]} is its own"
    return None


def check_return(process: str, told: Any, begun: int, files: Files) -> str | None:
    """Check an operation as it ends: what it saw was the head at some moment since it began."""
    if told[0] == "saw" and not begun <= told[2] <= len(slots(files)):
        return f"{process} began when the head was {begun}, and saw {told[2]}"
    if told[0] == "wrote" and not begun < told[2] <= len(slots(files)):
        return f"{process} began when the head was {begun}, and wrote {told[2]}"
    return None


def is_of_a_slot(call: Call) -> bool:
    return call[1].startswith(SLOTS)


def commutes(call: Call, files: Files) -> bool:
    """Say whether a call is one that the order of others cannot touch: slots never change, and nobody reads hints."""
    method, key, _ = call
    if method == "create" and key.startswith(layout.CHANGES):
        return True
    return method in ("read", "stat") and any(name == key and key.startswith(SLOTS) for name, _ in files)


def question(programs: dict[str, Program], faults: int, *, is_reduced: bool = True) -> Question:
    def measure(files: Files) -> int:
        return len(slots(files))

    asked = Question(programs, measure, check_told, check_return, check_files, is_of_a_slot, faults)
    if is_reduced:
        asked.commutes = commutes
        asked.alike = tuple(name for name in programs if name in AMOUNTS)
    return asked


def go(programs: dict[str, Program], faults: int = 0, *, is_reduced: bool = True) -> Explored:
    """Explore, say how much it was, and fail with the first story of something bad."""
    found = explore(question(programs, faults, is_reduced=is_reduced))
    print(
        f"\n{'+'.join(programs)}, {faults} faults: {found.schedules:.3g} schedules, {found.states} states, "
        f"{found.steps} steps, {found.stores} stores left behind, real code run {found.runs} times"
    )
    return found


def test_every_interleaving_of_two_writers_and_a_reader_with_a_fault_is_good() -> None:
    found = go({"a": writer("a", 1), "b": writer("b", 1), "r": reader(1)}, faults=1)
    assert not found.bad, found.bad[0]
    assert found.schedules > 1_000_000


def test_reduction_changes_nothing_that_is_found() -> None:
    programs = {"a": writer("a", 1), "b": writer("b", 1), "r": reader(1)}
    whole, reduced = go(programs, is_reduced=False), go(programs)
    assert whole.bad == reduced.bad == []
    assert reduced.stores == whole.stores
    assert reduced.states < whole.states / 2


def test_write_that_is_still_on_its_way_is_never_called_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "CLAIM_ATTEMPTS", 2)
    found = go({"a": writer("a", 1), "b": writer("b", 1)}, faults=2)
    assert not found.bad, found.bad[0]


@pytest.mark.proof
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("writers", "appends", "reads", "faults"),
    [(3, 1, 1, 0), (2, 1, 2, 1), (2, 2, 0, 1), (2, 1, 1, 2), *([(3, 1, 1, 1), (3, 1, 0, 2)] if SCALE >= 4 else [])],
)
def test_every_interleaving_is_good(writers: int, appends: int, reads: int, faults: int) -> None:
    programs = {name: writer(name, appends) for name in "abc"[:writers]}
    if reads:
        programs["r"] = reader(reads)
    found = go(programs, faults)
    assert not found.bad, found.bad[0]


# Planted bugs: each must be found.


class BelievesTheAnswer(Ledger[ModelRecord]):
    """Takes the storage's answer for the truth, and an error for a failure: no read-back."""

    def _claim(self, seq: int, data: bytes) -> bool:
        return self.store.create(layout.slot(self.subject, seq), data)


class TakesErrorsForLostRaces(Ledger[ModelRecord]):
    """Starts again after any error."""

    def _claim(self, seq: int, data: bytes) -> bool:
        try:
            return self.store.create(layout.slot(self.subject, seq), data)
        except StorageError:
            return False


class LooksThenWrites(Ledger[ModelRecord]):
    """Looks whether the slot is free, then writes it."""

    def _claim(self, seq: int, data: bytes) -> bool:
        key = layout.slot(self.subject, seq)
        if self.store.stat(key) is not None:
            return False
        self.store.replace(key, data)
        return self.store.read(key, limit_bytes=1 << 20) == data


class DecidesOnce(Ledger[ModelRecord]):
    """Keeps after a lost race what it had decided before it."""

    def append(self, decide: Any, *, actor: str) -> tuple[Head[ModelRecord] | None, bool]:
        drafts: list[Draft] = []

        def once(base: Head[ModelRecord] | None) -> Draft:
            drafts.append(drafts[0] if drafts else decide(base))
            return drafts[0]

        return super().append(once, actor=actor)


class TrustsTheCopy(Ledger[ModelRecord]):
    """Takes ``active.json`` for the head."""

    def head(self, *, linked: bool = True) -> Head[ModelRecord] | None:
        return self.read(seq) if (seq := self._hinted_seq()) else None


class ReadsItselfOnceMore(Ledger[ModelRecord]):
    """Reads its own record again after it is committed, and fails when that read does."""

    def append(self, decide: Any, *, actor: str) -> tuple[Head[ModelRecord] | None, bool]:
        head, is_mine = super().append(decide, actor=actor)
        assert head is not None
        return self.read(head.seq), is_mine


@pytest.mark.parametrize(
    ("kind", "faults", "found"),
    [
        (BelievesTheAnswer, 1, "nothing was written, and it is there"),
        (TakesErrorsForLostRaces, 1, "written twice"),
        (LooksThenWrites, 0, "which is not there"),
        (DecidesOnce, 0, "lost update"),
        (ReadsItselfOnceMore, 1, "nothing was written, and it is there"),
    ],
)
def test_planted_bug_of_a_writer_is_found(kind: type[Ledger[ModelRecord]], faults: int, found: str) -> None:
    programs = {name: writer(name, 1, kind) for name in "ab"}
    bad = explore(question(programs, faults, is_reduced=kind is not LooksThenWrites)).bad
    assert bad and found in bad[0], bad


def test_planted_bug_of_a_reader_is_found() -> None:
    bad = explore(question({"a": writer("a", 1), "b": writer("b", 1), "r": reader(1, TrustsTheCopy)}, 0)).bad
    assert bad and "began when the head was" in bad[0], bad
