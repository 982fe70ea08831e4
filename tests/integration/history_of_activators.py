"""Starts racing activators on a registry, and judges what they recorded against the final log."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipperfs import Registry
from clipperfs.documents import ModelRecord, ModelState
from clipperfs.errors import DamagedLog
from clipperfs.testing.history import Entry, Operation, check_history, load_history
from tests.integration.conftest import write_version

MODEL = "m"
WRITES = {"activate": "activate", "rollback": "rollback", "alias": "alias", "unalias": "alias", "count": "policy"}
"""By kind of operation: the ``op`` that its record carries."""


@dataclass(frozen=True)
class Run:
    """How many processes do how much, and how many of them are killed on the way."""

    processes: int
    operations: int
    kills: int
    kill_every_s: float
    timeout_s: float
    opener: str | None = None
    """``module:function`` that opens the processes' store, for planted faults."""
    environments: Sequence[dict[str, str]] = ({},)
    """Of the processes in turn: they may take different ways to one store."""


@dataclass(frozen=True)
class Judged:
    """What a run came to."""

    faults: list[str]
    tally: Counter[str]
    duration_s: float

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.tally.most_common())
        return f"{counts}; {self.duration_s:.0f} s; {len(self.faults)} faults"


def prepare(registry: Registry, place: Path) -> None:
    """Publish what the activators move between; every version keeps a name, so that no walk back is needed."""
    for version in ("1", "2", "3"):
        folder = write_version(place / f"source-{version}", version.encode())
        registry.publish(MODEL, version, folder)
        registry.alias(MODEL, f"keep-{version}", version)


def race(registry: Registry, place: Path, run: Run, seed: int = 1) -> Judged:
    """Run the activators on a prepared registry and judge their history. Raises AssertionError when one ends badly."""
    first = [head.record for head in registry.workspace.model_ledger(MODEL).from_the_first()]
    records = place / "history"
    records.mkdir()
    settings = {
        "url": registry.url,
        "cache": str(registry.cache.root),
        "place": str(records),
        "processes": run.processes,
        "operations": run.operations,
        "kills": run.kills,
        "kill_every_s": run.kill_every_s,
        "seed": seed,
        "opener": run.opener,
        "environments": list(run.environments),
    }
    (place / "settings.json").write_text(json.dumps(settings))
    began_s = time.monotonic()
    command = [sys.executable, "-m", "tests.integration.activators", str(place / "settings.json")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, timeout=run.timeout_s, capture_output=True, text=True, check=False, cwd=root)
    duration_s = time.monotonic() - began_s
    assert done.returncode == 0, done.stderr[-3000:]
    try:
        log = [head.record for head in registry.workspace.model_ledger(MODEL).from_the_first()]
    except DamagedLog as error:
        return Judged([f"damaged: {error.message}"], Counter(), duration_s)
    operations, asked = load_history(sorted(records.glob("*.jsonl")))
    return Judged(judge(operations, asked, log, len(first)), tally(operations, asked, log, len(first)), duration_s)


def judge(
    operations: list[Operation], asked: dict[str, dict[str, Any]], log: list[ModelRecord], before: int
) -> list[str]:
    """Return what is wrong: with the order, with an effect, or with the state of a record.

    Args:
        before: so many records were there before the race.
    """
    entries = [Entry(record.reason if record.seq > before else None, record.nonce) for record in log]
    faults = [f"{fault.kind}: {fault.text}" for fault in check_history(operations, entries)]
    for earlier, record in zip(log[before - 1 :], log[before:], strict=False):
        request = asked.get(record.reason or "")
        if request is None:
            continue  # the order has told of it
        if request["expect_seq"] not in (None, earlier.seq):
            faults.append(f"record {record.seq} expected {request['expect_seq']} before it")
        if record.op != WRITES.get(request["kind"]) or record.state != follow(earlier.state, record.seq, request, log):
            faults.append(f"lost update: record {record.seq} ({request}) was not decided on record {earlier.seq}")
    counted = sum(asked.get(record.reason or "", {}).get("kind") == "count" for record in log[before:])
    found = log[-1].state.policy.grace_s - log[before - 1].state.policy.grace_s
    if found != counted:
        faults.append(f"lost update: {counted} increments were recorded, the counter moved by {found:g}")
    return faults


def follow(state: ModelState, seq: int, request: dict[str, Any], log: list[ModelRecord]) -> ModelState | None:
    """Return the state that the request makes of ``state``; ``None`` when it could not have been carried out on it."""
    version, alias = request["version"], request["alias"]
    kept = {name: pointer for name, pointer in state.aliases.items() if name.startswith("keep-")}
    pointers = {name: kept[f"keep-{name}"].model_copy(update={"seq": seq}) for name in ("1", "2", "3")}
    match request["kind"]:
        case "activate":
            return state.model_copy(update={"active": pointers[version], "previous": state.active})
        case "rollback" if state.previous is not None:
            goal = pointers[state.previous.version]
            return state.model_copy(update={"active": goal, "previous": state.active})
        case "alias":
            return state.model_copy(update={"aliases": {**state.aliases, alias: pointers[version]}})
        case "unalias" if alias in state.aliases:
            rest = {name: pointer for name, pointer in state.aliases.items() if name != alias}
            return state.model_copy(update={"aliases": rest})
        case "count":
            policy = state.policy.model_copy(update={"grace_s": request["base"] + 1})
            return state.model_copy(update={"policy": policy}) if request["base"] == state.policy.grace_s else None
        case _:
            return None


def tally(
    operations: list[Operation], noted: dict[str, dict[str, Any]], log: list[ModelRecord], before: int
) -> Counter[str]:
    """Return how often operations ended in which way."""
    written = {record.reason for record in log}
    counts = Counter({"operations": len(operations), "records": len(log) - before})
    for operation in operations:
        note = noted[operation.name]
        if operation.outcome == "unknown":
            counts["unknown"] += 1
            counts["unknown and written"] += operation.name in written
        elif operation.outcome == "wrote":
            counts["acknowledged writes"] += 1
        elif operation.outcome == "saw":
            is_read = note["kind"] in ("read", "resolve")
            counts["reads" if is_read else "conflicts" if "why" in note else "nothing to do"] += 1
        else:
            counts[f"refused: {note['why']}"] += 1
    return counts
