"""verify: what checking a long ledger costs. Beside it: reading the same files and hashing them, in process.

The records are spelled as clipperfs spells them, but written without claiming and syncing each: making them would take
longer than all that is measured here.
"""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving import noop_files
from benchmarks.table import render_table, spread
from clipperfs import Registry
from clipperfs.digest import digest_bytes
from clipperfs.documents import canonical_bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """How long the ledgers are, and how often each is verified."""

    records: tuple[int, ...] = (1_000, 10_000, 100_000)
    rounds: int = 3


QUICK = Plan(records=(100, 1_000), rounds=2)


def run_verify(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure verifying, exporting and finding the head of ledgers of each length; return plain data."""
    rows = []
    files = noop_files(folder / "files")
    for count in plan.records:
        place = folder / f"records-{count}"
        registry = Registry.init(str(place / "registry"), cache_dir=place / "cache")
        registry.publish("digits", "1", files)
        log = place / "registry" / "models" / "digits" / "log"
        lengthen(registry, log, count)
        row: dict[str, Any] = {"records": count}
        calls: dict[str, Callable[[], Any]] = {
            "verify_s": lambda registry=registry, count=count: _verified(registry, count),  # type: ignore[misc]
            "export_s": lambda registry=registry: sum(1 for _ in registry.export()),  # type: ignore[misc]
            "head_s": lambda registry=registry: Registry(registry.url).head("digits"),  # type: ignore[misc]
            "read_s": lambda log=log: _read_all(log),  # type: ignore[misc]
        }
        for name, call in calls.items():
            row[name] = spread([_seconds(call) for _ in range(plan.rounds)]).document()
        row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        rows.append(row)
    return {"plan": {"rounds": plan.rounds}, "rows": rows}


def lengthen(registry: Registry, log: Path, count: int) -> None:
    """Append policy records to a model's log, up to ``count`` in all, without syncing any."""
    head = registry.head("digits")
    assert head is not None
    digest, record = head.digest, head.record
    for seq in range(head.seq + 1, count + 1):
        record = record.model_copy(update={"seq": seq, "prev": digest, "op": "policy", "nonce": f"{seq:032x}"})
        data = canonical_bytes(record)
        (log / f"{seq:020d}.json").write_bytes(data)
        digest = digest_bytes(data)


def _verified(registry: Registry, count: int) -> None:
    report = Registry(registry.url).verify()
    assert report.ok and report.records == count


def _read_all(log: Path) -> None:
    for path in sorted(log.iterdir()):
        hashlib.sha256(path.read_bytes()).digest()


def _seconds(call: Callable[[], Any]) -> float:
    began_s = time.perf_counter()
    call()
    return time.perf_counter() - began_s


def render_verify(result: dict[str, Any]) -> str:
    """Return the table that people read."""
    rows = [
        [
            f"{row['records']:,}",
            *(
                "{median:.3f} ({low:.3f}–{high:.3f})".format(**row[name])
                for name in ("verify_s", "export_s", "head_s", "read_s")
            ),
            f"{row['records'] / row['verify_s']['median']:,.0f}",
            f"{row['peak_mb']:,.0f}",
        ]
        for row in result["rows"]
    ]
    head = f"verify: median (lowest–highest) of {result['plan']['rounds']} rounds, in seconds; files in the page cache"
    columns = [
        "records",
        "verify",
        "export",
        "head, cold",
        "read and hash alone",
        "records/s verified",
        "peak MB so far",
    ]
    return f"{head}\n\n{render_table(columns, rows)}"
