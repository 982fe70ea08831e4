"""poll: what following a registry costs while nothing changes, with few and with many models.

No model of this registry is active, so the daemon has no replicas: its processor time is that of the frontends' idle
loops and of the controller's polls and sweeps. Beside it: reading the newest record of every model once, in process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import cpu_seconds, process_tree
from benchmarks.serving import daemon_pid, noop_files, run_daemon
from benchmarks.table import render_table, spread
from clipperfs import Registry


@dataclass(frozen=True, slots=True)
class Plan:
    """How many models, how often and how long."""

    models: tuple[int, ...] = (10, 1000)
    rounds: int = 5
    window_s: float = 4.0


QUICK = Plan(models=(10, 100), rounds=2, window_s=1.0)


def run_poll(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure an idle daemon for each number of models; return plain data."""
    rows = []
    files = noop_files(folder / "files")
    for count in plan.models:
        place = folder / f"models-{count}"
        registry = Registry.init(str(place / "registry"), cache_dir=place / "cache")
        for number in range(count):
            registry.publish(f"model-{number:04d}", "1", files)
        sweeps_ms = []
        for _ in range(plan.rounds):
            began_s = time.perf_counter()
            for model in registry.models():
                registry.head(model)
            sweeps_ms.append((time.perf_counter() - began_s) * 1000)
        with run_daemon(registry, place / "state") as daemon:
            time.sleep(2.0)  # the first full sweep is part of starting
            pid = daemon_pid(daemon)
            idle = [_cpu_ms_per_s(pid, plan.window_s) for _ in range(plan.rounds)]
        rows.append(
            {"models": count, "daemon_cpu_ms_per_s": spread(idle).document(), "sweep_ms": spread(sweeps_ms).document()}
        )
    return {"plan": {"rounds": plan.rounds, "window_s": plan.window_s}, "rows": rows}


def _cpu_ms_per_s(pid: int, window_s: float) -> float:
    pids = process_tree(pid)
    before_s, began_s = cpu_seconds(pids), time.perf_counter()
    time.sleep(window_s)
    return (cpu_seconds(pids) - before_s) / (time.perf_counter() - began_s) * 1000


def render_poll(result: dict[str, Any]) -> str:
    """Return the table that people read."""
    rows = [
        [
            row["models"],
            "{median:.1f} ({low:.1f}–{high:.1f})".format(**row["daemon_cpu_ms_per_s"]),
            "{median:,.1f} ({low:,.1f}–{high:,.1f})".format(**row["sweep_ms"]),
        ]
        for row in result["rows"]
    ]
    plan = result["plan"]
    head = f"poll: median (lowest–highest) of {plan['rounds']} windows of {plan['window_s']} s in which nothing changes"
    return f"{head}\n\n{render_table(['models', 'idle daemon, CPU ms/s', 'reading all heads once, ms'], rows)}"
