"""restart: what clients see of a daemon that is replaced again and again while they ask.

An open loop sends requests at a fixed rate all the time, with connections that are kept and with one for each request.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.server import ROOT, Target
from benchmarks.serving import add_model, clipperfs_target, noop_files, run_daemon, warm_up
from benchmarks.table import render_table, spread
from clipperfs import Registry

RATE = 500.0
REST_S = 0.5
"""Between two restarts, and before the first and after the last."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How often, and with how many frontends."""

    restarts: int = 10
    frontends: tuple[int, ...] = (1, 2)


QUICK = Plan(restarts=2)


def run_restart(folder: Path, plan: Plan) -> dict[str, Any]:
    """Restart a daemon under load, for each number of frontends; return plain data."""
    rows = []
    for frontends in plan.frontends:
        place = folder / f"frontends-{frontends}"
        registry = Registry.init(str(place / "registry"), cache_dir=place / "cache")
        add_model(registry, "noop", noop_files(place / "1", output="1"), cache="off")
        body = place / "body.json"
        body.write_text('{"input": [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]}')
        took_s = []
        with run_daemon(registry, place / "state", frontends=frontends) as daemon:
            target = clipperfs_target(daemon, "noop", "clipperfs")
            warm_up(target, body.read_bytes())
            with run_clients(target, body, place / "found.json"):
                for _ in range(plan.restarts):
                    time.sleep(REST_S)
                    began_s = time.monotonic()
                    daemon.restart()
                    took_s.append(time.monotonic() - began_s)
                time.sleep(REST_S)
        found = json.loads((place / "found.json").read_text())
        rows.append({"frontends": frontends, "took_s": spread(took_s).document(), **summarise(found)})
    return {"plan": {"restarts": plan.restarts, "rate": RATE}, "rows": rows}


@contextlib.contextmanager
def run_clients(target: Target, body: Path, result: Path) -> Iterator[None]:
    """Run the clients around a block; what they saw is in ``result`` afterwards."""
    command = [sys.executable, "-m", "benchmarks.restart_clients", target.url, str(body), str(RATE), str(result)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", "the clients did not start"
        yield
        process.terminate()
        process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def summarise(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the clients saw, with the sum of all that failed: everything but an answer and a default output."""
    outcomes: dict[str, int] = found["outcomes"]
    failed = sum(count for outcome, count in outcomes.items() if outcome not in ("answered", "default"))
    return {**found, "requests": sum(outcomes.values()), "failed": failed}


def render_restart(result: dict[str, Any]) -> str:
    """Return the table that people read."""
    kinds = ["reset", "refused", "no reply", "not 200", "timeout", "default"]
    columns = [
        "frontends",
        "requests",
        "failed",
        *kinds,
        "asked to close",
        "closed idle",
        "restart takes s",
        "p50 ms",
        "p99 ms",
        "longest ms",
    ]
    rows = [
        [
            row["frontends"],
            f"{row['requests']:,}",
            row["failed"],
            *(row["outcomes"][kind] for kind in kinds),
            row["asked_to_close"],
            row["closed_idle"],
            "{median:.1f} ({low:.1f}–{high:.1f})".format(**row["took_s"]),
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.1f}",
            f"{row['longest_ms']:.1f}",
        ]
        for row in result["rows"]
    ]
    plan = result["plan"]
    head = (
        f"restart: {plan['restarts']} restarts under {plan['rate']:g} requests a second, "
        "a fifth of them on connections of their own"
    )
    return f"{head}\n\n{render_table(columns, rows)}"
