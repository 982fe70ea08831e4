"""The check of histories: every correct one passes, every planted fault is named, and an exhaustive search agrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipperfs.testing.history import Entry, Operation, Recorder, check_history, load_history
from tests.property.search import has_order
from tests.scale import scaled

MANY = settings(max_examples=scaled(60, 2000), deadline=None)


@st.composite
def correct_histories(draw: st.DrawFn, *, least: int = 0) -> tuple[list[Operation], list[Entry]]:
    """Draw what really may happen: each operation takes effect at one moment between its call and its return."""
    count = draw(st.integers(least, 8))
    moments = draw(st.permutations(range(count)))
    operations: list[Operation] = []
    log: list[Entry] = []
    for number, moment in enumerate(sorted(moments)):
        at_ns = moment * 10
        name = f"op-{number}"
        invoked_ns = at_ns - draw(st.integers(0, 35))
        returned_ns: int | None = at_ns + draw(st.integers(0, 35))
        kind = draw(st.sampled_from(["wrote", "wrote", "saw", "saw", "refused", "unknown", "died"]))
        if kind == "wrote" or (kind in ("unknown", "died") and draw(st.booleans())):
            log.append(Entry(name, f"mark {name}"))
        mark = log[-1].mark if log and kind in ("wrote", "saw") else ""
        seq = len(log) if kind in ("wrote", "saw") else 0
        returned_ns = None if kind == "died" else returned_ns
        outcome = "unknown" if kind == "died" else kind
        operations.append(Operation(name, invoked_ns, returned_ns, outcome, seq, mark))  # type: ignore[arg-type]
    return draw(st.permutations(operations)), log


@st.composite
def any_histories(draw: st.DrawFn) -> tuple[list[Operation], list[Entry]]:
    """Draw histories right and wrong: few operations, with times and numbers as they come."""
    operations = []
    for number in range(draw(st.integers(1, 5))):
        invoked_ns = draw(st.integers(0, 12))
        outcome = draw(st.sampled_from(["wrote", "wrote", "saw", "saw", "unknown", "refused"]))
        returned_ns = invoked_ns + draw(st.integers(0, 8))
        seq = draw(st.integers(0, 3))
        operations.append(Operation(f"op-{number}", invoked_ns, returned_ns, outcome, seq))  # type: ignore[arg-type]
    numbers = sorted({operation.seq for operation in operations if operation.outcome == "wrote"})
    by_number = {operation.seq: operation.name for operation in operations if operation.outcome == "wrote"}
    spare = [operation.name for operation in operations if operation.outcome in ("unknown", "refused")]
    log: list[Entry] = []
    for seq in range(1, max(numbers, default=0) + 1):
        if seq not in by_number and not spare:
            break
        log.append(Entry(by_number[seq] if seq in by_number else spare.pop()))
    return operations, log


@MANY
@given(correct_histories())
def test_correct_history_is_accepted(history: tuple[list[Operation], list[Entry]]) -> None:
    assert check_history(*history) == []
    assert has_order(history[0], [entry.writer or "" for entry in history[1]])


@settings(max_examples=scaled(200, 20_000), deadline=None)
@given(any_histories())
def test_check_agrees_with_the_search_of_every_order(history: tuple[list[Operation], list[Entry]]) -> None:
    operations, log = history
    assert (check_history(operations, log) == []) == has_order(operations, [entry.writer or "" for entry in log])


def kinds(operations: list[Operation], log: list[Entry]) -> set[str]:
    return {fault.kind for fault in check_history(operations, log)}


@MANY
@given(correct_histories(least=2), st.data())
def test_planted_fault_is_named(history: tuple[list[Operation], list[Entry]], data: st.DataObject) -> None:
    operations, log = history
    wrote = [operation for operation in operations if operation.outcome == "wrote"]
    if not wrote:
        return
    victim = data.draw(st.sampled_from(wrote))
    rest = [operation for operation in operations if operation is not victim]
    late_ns = max(operation.returned_ns or operation.invoked_ns for operation in operations) + 1
    stale = Operation("late", late_ns, late_ns + 1, "saw", victim.seq - 1)
    assert "order" in kinds([*operations, stale], log), "a stale read"
    early = Operation("early", -10_000, -9_999, "saw", victim.seq)
    assert "order" in kinds([*operations, early], log), "a read of the future"
    without = [entry for entry in log if entry.writer != victim.name]
    assert kinds(operations, without) & {"lost", "moved", "no such record"}, "a lost update"
    overwritten = [Entry("op-x", "x") if entry.writer == victim.name else entry for entry in log]
    x = Operation("op-x", victim.invoked_ns, None, "unknown")
    assert "lost" in kinds([*operations, x], overwritten), "a lost update under another's name"
    assert "twice" in kinds(operations, [*log, Entry(victim.name, "again")]), "a duplicated effect"
    assert "refused but written" in kinds([*rest, replace(victim, outcome="refused", seq=0)], log)
    assert "from nowhere" in kinds(rest, log)
    assert "other bytes" in kinds([*rest, replace(victim, mark="another")], log)
    assert "no such record" in kinds([*operations, replace(stale, seq=len(log) + 1)], log)


@MANY
@given(correct_histories(least=3), st.data())
def test_log_in_the_opposite_order_of_its_times_is_refused(
    history: tuple[list[Operation], list[Entry]], data: st.DataObject
) -> None:
    operations, log = history
    ends = {one.name: one.returned_ns if one.outcome == "wrote" else None for one in operations}
    begins = {operation.name: operation.invoked_ns for operation in operations}
    pairs = [
        index
        for index in range(len(log) - 1)
        if (end := ends[log[index].writer or ""]) is not None and end < begins[log[index + 1].writer or ""]
    ]
    if not pairs:
        return
    index = data.draw(st.sampled_from(pairs))
    swapped = [*log]
    swapped[index : index + 2] = [log[index + 1], log[index]]
    told = {entry.writer: seq for seq, entry in enumerate(swapped, 1)}
    moved = [
        replace(operation, seq=told[operation.name]) if operation.outcome == "wrote" else operation
        for operation in operations
        if operation.outcome != "saw"
    ]
    assert "order" in kinds(moved, swapped)


def test_history_is_loaded_with_what_never_returned(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "one")
    recorder.invoke("a", kind="read")
    recorder.answer("a", "saw", seq=3, mark="m")
    recorder.invoke("b", kind="write")
    recorder.close()
    operations, asked = load_history([tmp_path / "one"])
    assert [(one.name, one.outcome, one.seq) for one in operations] == [("a", "saw", 3), ("b", "unknown", 0)]
    assert operations[0].returned_ns is not None and operations[0].invoked_ns <= operations[0].returned_ns
    assert operations[1].returned_ns is None and asked["b"] == {"kind": "write"}


@pytest.mark.parametrize("count", [0, 3])
def test_records_from_before_the_history_are_nobodys(count: int) -> None:
    assert check_history([Operation("r", 1, 2, "saw", count)], [Entry(None)] * count) == []
