"""Record what several processes did to one log, and check that one order explains everything that they were told.

For whoever writes a store: run writers and readers on a ledger of it, keep what each asked and was answered, and let
:func:`check_history` judge. A log numbers its writes, so the only order that can explain a history is known, and the
check is complete without a search: it refuses exactly the histories that are not linearizable.

Source: M. Herlihy and J. Wing, "Linearizability: a correctness condition for concurrent objects", TOPLAS 12(3), 1990.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["wrote", "saw", "refused", "unknown"]
"""``wrote``: its record is the one with number ``seq``. ``saw``: the newest record was ``seq``, and nothing was written
(a read, nothing to do, or a conflict that showed the head). ``refused``: nothing was written, and nothing is known of
the head. ``unknown``: a record may have been written, at any moment since the call, or may yet be."""

FaultKind = Literal[
    "twice", "lost", "moved", "refused but written", "from nowhere", "other bytes", "no such record", "order"
]


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one process. Times are of a clock that all processes share (one host's ``time.monotonic_ns``)."""

    name: str
    """Unique in the history. A write leaves it in its record (as the reason, say)."""
    invoked_ns: int
    returned_ns: int | None
    """``None``: it never returned, because its process died."""
    outcome: Outcome
    seq: int = 0
    """For ``wrote`` and ``saw``; 0 is the empty log."""
    mark: str = ""
    """What identifies the bytes that were seen or written, such as a nonce or a digest; empty: not known."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the final log."""

    writer: str | None
    """Name of the operation that wrote it; ``None`` for what was there before the history began."""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why no order explains a history."""

    kind: FaultKind
    text: str


def check_history(operations: Iterable[Operation], log: Sequence[Entry]) -> list[Fault]:
    """Return every reason why the history cannot have happened on one log; none when it is linearizable. Pure.

    Args:
        operations: in any order.
        log: the final log, the record with number 1 first.

    Returns:
        - ``twice``: one operation wrote two records; ``lost``: a record that was acknowledged is not there; ``moved``:
          it has another number; ``refused but written``: an operation that said it wrote nothing has a record;
          ``from nowhere``: nobody in the history wrote a record.
        - ``no such record``, ``other bytes``: somebody saw what is not in the log.
        - ``order``: the times contradict each other. An acknowledged write was not there for a later read (a stale
          read), or two writes have their numbers in the opposite order of their times, or a read saw the future.

    Guarantees: sound and complete for one log; the cost is linear in operations and records.
    """
    known = {operation.name: operation for operation in operations}
    faults = _check_effects(known, log)
    # Record i must have been written at a moment t(i) with earliest[i] <= t(i) <= latest[i], and t(i) <= t(i + 1).
    earliest: list[float] = [float("-inf")] * (len(log) + 2)
    latest: list[float] = [float("inf")] * (len(log) + 2)
    for seq, entry in enumerate(log, 1):
        writer = known.get(entry.writer) if entry.writer is not None else None
        if writer is not None:
            earliest[seq] = writer.invoked_ns
            if writer.outcome == "wrote" and writer.returned_ns is not None:
                latest[seq] = writer.returned_ns
    for operation in known.values():
        if operation.outcome != "saw":
            continue
        seq = operation.seq
        if not 0 <= seq <= len(log):
            faults.append(Fault("no such record", f"{operation.name} saw record {seq}; the log has {len(log)}"))
            continue
        if seq and operation.mark and log[seq - 1].mark and operation.mark != log[seq - 1].mark:
            faults.append(Fault("other bytes", f"{operation.name} saw another record {seq} than the log has"))
        if seq and operation.returned_ns is not None:
            latest[seq] = min(latest[seq], operation.returned_ns)
        earliest[seq + 1] = max(earliest[seq + 1], operation.invoked_ns)
    moment = float("-inf")
    for seq in range(1, len(log) + 1):
        moment = max(moment, earliest[seq])
        if moment > latest[seq]:
            late_us = (moment - latest[seq]) / 1000
            faults.append(Fault("order", f"record {seq} was there {late_us:.0f} us before it could have been written"))
            moment = latest[seq]  # so that one fault does not accuse every later record
    return faults


def _check_effects(known: dict[str, Operation], log: Sequence[Entry]) -> list[Fault]:
    """Compare what each operation said it did with what is in the log."""
    faults: list[Fault] = []
    found: dict[str, int] = {}
    for seq, entry in enumerate(log, 1):
        if entry.writer is None:
            continue
        if entry.writer in found:
            faults.append(Fault("twice", f"{entry.writer} wrote records {found[entry.writer]} and {seq}"))
        found.setdefault(entry.writer, seq)
        writer = known.get(entry.writer)
        if writer is None:
            faults.append(Fault("from nowhere", f"record {seq} is by {entry.writer}, which nobody called"))
        elif writer.outcome in ("refused", "saw"):
            faults.append(Fault("refused but written", f"{writer.name} said that it wrote nothing: record {seq}"))
        elif (
            writer.outcome == "wrote" and writer.seq == seq and writer.mark and entry.mark and writer.mark != entry.mark
        ):
            faults.append(Fault("other bytes", f"{writer.name} wrote another record {seq} than the log has"))
    for operation in known.values():
        if operation.outcome == "wrote" and found.get(operation.name) != operation.seq:
            if operation.name in found:
                faults.append(
                    Fault("moved", f"{operation.name} was told {operation.seq}, but wrote {found[operation.name]}")
                )
            else:
                faults.append(Fault("lost", f"{operation.name} was told {operation.seq}, which is not by it"))
    return faults


class Recorder:
    """Writes one process's part of a history: two lines an operation, each handed to the system before it goes on.

    What a killed process was doing stays open: its second line is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def invoke(self, name: str, **asked: Any) -> None:
        """Note that an operation is about to be called; ``asked`` is kept for those who look at the history."""
        self._write({"name": name, "asked": asked, "invoked_ns": time.monotonic_ns()})

    def answer(self, name: str, outcome: Outcome, *, seq: int = 0, mark: str = "", **more: Any) -> None:
        """Note what the operation was told; ``more`` is kept for those who look at the history."""
        returned_ns = time.monotonic_ns()
        told = {"name": name, "outcome": outcome, "seq": seq, "mark": mark, "returned_ns": returned_ns, "more": more}
        self._write(told)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, tree: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(tree).encode() + b"\n")


def load_history(paths: Iterable[Path]) -> tuple[list[Operation], dict[str, dict[str, Any]]]:
    """Return the operations that recorders wrote, and what else was noted of each, by its name."""
    operations: list[Operation] = []
    noted: dict[str, dict[str, Any]] = {}
    for path in paths:
        called: dict[str, int] = {}
        for line in path.read_bytes().splitlines():
            tree = json.loads(line)
            name = tree["name"]
            if "invoked_ns" in tree:
                called[name] = tree["invoked_ns"]
                noted[name] = tree["asked"]
            else:
                noted[name] |= tree["more"]
                told = tree["outcome"], tree["seq"], tree["mark"]
                operations.append(Operation(name, called.pop(name), tree["returned_ns"], *told))
        operations += [Operation(name, invoked_ns, None, "unknown") for name, invoked_ns in called.items()]
    return operations, noted
