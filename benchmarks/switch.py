"""switch: from the record of an activation to the first answer by the new version, and what clients see meanwhile.

Eight closed-loop clients run all the time. Each round activates the other one of two versions; the commit is the time
of the new record's file. «Around» is from the commit until a second after the first new answer; «calm» is the same
clients in the two seconds before the activation began.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.clients import ANSWERED, DEFAULTED, FAILED
from benchmarks.server import ROOT, Target
from benchmarks.serving import add_model, clipperfs_target, noop_files, run_daemon, warm_up
from benchmarks.table import render_table, spread
from clipperfs import Registry

CLIENTS = 8
CALM_S = 2.0
AFTER_S = 1.0
LONGEST_SWITCH_S = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How often, and how long the versions take to load."""

    rounds: int = 5
    load_s: tuple[float, ...] = (0.0, 1.0)


QUICK = Plan(rounds=2, load_s=(0.0,))


@dataclass(frozen=True, slots=True)
class Replies:
    """What the clients have seen."""

    end_s: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    outcome: NDArray[np.int8]
    version: NDArray[np.str_]


def run_switch(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure a switch for each loading time; return plain data."""
    rows = []
    for load_s in plan.load_s:
        place = folder / f"load-{load_s:g}"
        registry = Registry.init(str(place / "registry"), cache_dir=place / "cache")
        for version in ("1", "2"):
            noop_files(place / version, output=version, load_s=load_s)
        add_model(registry, "noop", place / "1", cache="off", keep_previous_s=0)
        registry.publish("noop", "2", place / "2")
        body = place / "body.json"
        body.write_text('{"input": [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]}')
        with run_daemon(registry, place / "state") as daemon:
            target = clipperfs_target(daemon, "noop", "clipperfs")
            warm_up(target, body.read_bytes())
            switches: list[tuple[float, float, str]] = []
            with run_clients(target, body, place / "replies.npz"):
                for turn in range(plan.rounds):
                    switches.append(_switch(registry, "12"[(turn + 1) % 2], load_s))
            rows.append({"load_s": load_s, **summarise(read_replies(place / "replies.npz"), switches)})
    return {"plan": {"rounds": plan.rounds, "clients": CLIENTS}, "rows": rows}


def _switch(registry: Registry, version: str, load_s: float) -> tuple[float, float, str]:
    """Activate a version in a calm minute; return when that began and when its record was committed."""
    time.sleep(CALM_S + 0.5)
    began_s = time.monotonic()
    record = registry.activate("noop", version).record
    assert record is not None
    slot = Path(registry.url.removeprefix("file://")) / "models/noop/log" / f"{record.seq:020d}.json"
    commit_s = slot.stat().st_mtime - time.time() + time.monotonic()
    # The clients' replies tell when the new version answered; here it is enough to wait for it.
    time.sleep(load_s + AFTER_S + 3.0)
    return began_s, commit_s, version


@contextlib.contextmanager
def run_clients(target: Target, body: Path, result: Path) -> Iterator[None]:
    """Run the clients around a block; their replies are in ``result`` afterwards."""
    command = [sys.executable, "-m", "benchmarks.clients", target.url, str(body), str(CLIENTS), str(result)]
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


def read_replies(path: Path) -> Replies:
    """Read what the clients wrote, in order of time."""
    with np.load(path) as arrays:
        order = np.argsort(arrays["end_s"], kind="stable")
        return Replies(
            arrays["end_s"][order],
            arrays["latency_s"][order],
            arrays["outcome"][order],
            arrays["versions"][arrays["version"][order]],
        )


def summarise(replies: Replies, switches: list[tuple[float, float, str]]) -> dict[str, Any]:
    """Return what the switches did to the clients."""
    first_ms, stale, calm_ms, around_ms, longest_ms, gaps_ms = [], 0, [], [], [], []
    for began_s, commit_s, version in switches:
        answered = (replies.outcome == ANSWERED) & (replies.version == version)
        after = (replies.end_s >= commit_s) & answered
        if not after.any():
            raise RuntimeError(f"version {version} has not answered {LONGEST_SWITCH_S:g} s after its activation")
        first_s = float(replies.end_s[after][0])
        first_ms.append((first_s - commit_s) * 1000)
        calm = (replies.end_s > began_s - CALM_S) & (replies.end_s < began_s)
        around = (replies.end_s > commit_s) & (replies.end_s < first_s + AFTER_S)
        calm_ms.append(float(np.percentile(replies.latency_s[calm], 99)) * 1000)
        around_ms.append(float(np.percentile(replies.latency_s[around], 99)) * 1000)
        longest_ms.append(float(replies.latency_s[around].max()) * 1000)
        gaps_ms.append(float(np.diff(replies.end_s[around]).max()) * 1000)
        # One query of each client may have been under way on the old version when the new one answered first.
        late = (replies.end_s - replies.latency_s > first_s) & (replies.end_s < first_s + AFTER_S)
        stale += int((late & (replies.outcome == ANSWERED) & (replies.version != version)).sum())
    return {
        "requests": len(replies.end_s),
        "failed": int((replies.outcome == FAILED).sum()),
        "defaulted": int((replies.outcome == DEFAULTED).sum()),
        "stale": stale,
        "commit_to_first_ms": spread(first_ms).document(),
        "p99_calm_ms": spread(calm_ms).document(),
        "p99_around_ms": spread(around_ms).document(),
        "longest_ms": max(longest_ms),
        "longest_gap_ms": max(gaps_ms),
    }


def render_switch(result: dict[str, Any]) -> str:
    """Return the table that people read."""
    columns = [
        "load takes",
        "requests",
        "failed",
        "default",
        "stale",
        "commit → first answer ms",
        "p99 calm ms",
        "p99 around ms",
        "longest ms",
        "longest gap ms",
    ]
    rows = [
        [
            f"{row['load_s']:g} s",
            f"{row['requests']:,}",
            row["failed"],
            row["defaulted"],
            row["stale"],
            "{median:,.0f} ({low:,.0f}–{high:,.0f})".format(**row["commit_to_first_ms"]),
            "{median:.2f} ({low:.2f}–{high:.2f})".format(**row["p99_calm_ms"]),
            "{median:.2f} ({low:.2f}–{high:.2f})".format(**row["p99_around_ms"]),
            f"{row['longest_ms']:.1f}",
            f"{row['longest_gap_ms']:.1f}",
        ]
        for row in result["rows"]
    ]
    plan = result["plan"]
    head = f"switch: median (lowest–highest) of {plan['rounds']} switches under {plan['clients']} closed-loop clients"
    return f"{head}\n\n{render_table(columns, rows)}"
