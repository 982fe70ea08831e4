"""publish: how fast a version gets into a registry, beside ``cp -r`` of the same files onto the same filesystem.

``publish`` hashes, copies, flushes to the disk and appends a record. The fair reference is therefore the copy with a
flush of the filesystem after it; the bare copy, which leaves its bytes in memory, is shown too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.table import render_table, spread
from clipperfs import Registry


@dataclass(frozen=True, slots=True)
class Payload:
    """A shape of version."""

    name: str
    files: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to publish, and how often."""

    rounds: int = 5
    payloads: tuple[Payload, ...] = (
        Payload("1 file of 10 kB", 1, 10_000),
        Payload("500 files of 10 kB", 500, 10_000),
        Payload("1 file of 128 MB", 1, 128_000_000),
    )


QUICK = Plan(rounds=2, payloads=(Payload("1 file of 10 kB", 1, 10_000), Payload("1 file of 16 MB", 1, 16_000_000)))


def run_publish(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure every payload in every way, in turn; return plain data."""
    registry = Registry.init(str(folder / "registry"), cache_dir=folder / "cache")
    rows = []
    for at, payload in enumerate(plan.payloads):
        source = _write(folder / f"payload-{at}", payload)
        copies = folder / "copies"
        copies.mkdir(exist_ok=True)

        ways = _ways(registry, f"model-{at}", source, copies)
        times_ms = _measure_in_turn(ways, plan.rounds)
        size = payload.files * payload.file_bytes
        for name, runs in times_ms.items():
            ratios = [run / own for run, own in zip(runs, times_ms["cp -r, flushed"], strict=True)]
            rows.append(
                {
                    "payload": payload.name,
                    "way": name,
                    "ms": spread(runs).document(),
                    "mb_per_s": spread([size / run / 1000 for run in runs]).document(),
                    "ratio_to_flushed_copy": spread(ratios).document(),
                }
            )
        shutil.rmtree(copies)
    return {"plan": {"rounds": plan.rounds}, "rows": rows}


def _ways(registry: Registry, model: str, source: Path, copies: Path) -> dict[str, Callable[[int], None]]:
    """Return the ways of getting ``source`` onto the filesystem; each takes the number of the round."""

    def publish(turn: int) -> None:
        registry.publish(model, f"v{turn}", source, wrapper="noop")

    def copy(turn: int) -> None:
        subprocess.run(["cp", "-r", source, copies / f"copy-{turn}"], check=True, timeout=120)

    def copy_and_flush(turn: int) -> None:
        subprocess.run(["cp", "-r", source, copies / f"flushed-{turn}"], check=True, timeout=120)
        subprocess.run(["sync", "--file-system", copies], check=True, timeout=120)

    return {"cp -r": copy, "cp -r, flushed": copy_and_flush, "publish": publish}


def _measure_in_turn(ways: dict[str, Callable[[int], None]], rounds: int) -> dict[str, list[float]]:
    times_ms: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds + 1):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            os.sync()  # what the one before left in memory is not this one's to write
            began_s = time.perf_counter()
            ways[name](turn)
            if turn > 0:  # the first round warms the page cache and the imports
                times_ms[name].append((time.perf_counter() - began_s) * 1000)
    return times_ms


def _write(folder: Path, payload: Payload) -> Path:
    folder.mkdir(parents=True)
    for number in range(payload.files):
        (folder / f"part-{number:04d}.bin").write_bytes(os.urandom(payload.file_bytes))
    return folder


def render_publish(result: dict[str, Any]) -> str:
    """Return the table that people read."""
    rows = [
        [
            row["payload"],
            row["way"],
            "{median:,.1f} ({low:,.1f}–{high:,.1f})".format(**row["ms"]),
            "{median:,.1f}".format(**row["mb_per_s"]),
            "{median:.2f} ({low:.2f}–{high:.2f})".format(**row["ratio_to_flushed_copy"]),
        ]
        for row in result["rows"]
    ]
    head = f"publish: median (lowest–highest) of {result['plan']['rounds']} rounds, ways in turn"
    return f"{head}\n\n{render_table(['payload', 'way', 'ms a version', 'MB/s', 'time : flushed copy'], rows)}"
