"""switches: fifty switches under an open loop of 500 queries a second, and what the queries notice of them.

Every query counts from the moment it was due. «Around» is from a record's commit until a second after the first answer
by the new version, in which the next spare process is made, too; «steady» is the time before each activation begins.
What ``activate`` does before its record (it loads the version once, on this same machine) is in neither.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from benchmarks.clients import ANSWERED, DEFAULTED, FAILED
from benchmarks.server import ROOT, Target
from benchmarks.serving import add_model, clipperfs_target, noop_files, run_daemon, warm_up
from benchmarks.steady_clients import INPUT, MIXED
from benchmarks.table import render_table, spread
from clipperfs import Registry

RATE = 500
STEADY_S = 0.8
AFTER_S = 1.0
LONGEST_SWITCH_S = 30.0

BURNING_WRAPPER = '''
"""Loading keeps one core busy; every input is answered with the version's name."""

import time


class Wrapper:
    bytes_as = "int8"

    def load(self, context):
        self.version = context.version
        end_s = time.monotonic() + context.options["burn_s"]
        while time.monotonic() < end_s:
            sum(range(1000))

    def predict(self, inputs):
        return [self.version] * len(inputs)
'''


@dataclass(frozen=True, slots=True)
class Row:
    """How the versions of a row load."""

    label: str
    sleeps_s: float = 0.0
    burns_s: float = 0.0

    @property
    def load_s(self) -> float:
        """Return how long the load itself takes."""
        return self.sleeps_s + self.burns_s


@dataclass(frozen=True, slots=True)
class Plan:
    """How often, and what."""

    switches: int = 50
    rows: tuple[Row, ...] = (
        Row("loads at once"),
        Row("waits for 1 s", sleeps_s=1.0),
        Row("keeps a core busy for 1 s", burns_s=1.0),
    )


QUICK = Plan(switches=3, rows=(Row("loads at once"), Row("keeps a core busy for 0.3 s", burns_s=0.3)))


@dataclass(frozen=True, slots=True)
class Switch:
    """One switch. Times are CLOCK_MONOTONIC."""

    began_s: float
    commit_s: float
    version: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What the clients have seen, in order of when each reply came."""

    due_s: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    outcome: NDArray[np.int8]
    version: NDArray[np.str_]
    lost: int = 0
    """Queries without any reply."""
    late_s: float = 0.0
    """How far the generator fell behind at worst."""

    @property
    def end_s(self) -> NDArray[np.float64]:
        """Return when each reply came."""
        return self.due_s + self.latency_s


def run_switches(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure all switches of each row; return plain data."""
    rows = []
    for number, row in enumerate(plan.rows):
        place = folder / str(number)
        registry = Registry.init(str(place / "registry"), cache_dir=place / "cache")
        for version in ("1", "2"):
            _write_version(place / version, version, row)
        add_model(registry, "m", place / "1", cache="off", keep_previous_s=0, allow_code=True)
        registry.publish("m", "2", place / "2")
        with run_daemon(registry, place / "state") as daemon:
            target = clipperfs_target(daemon, "m", "clipperfs")
            warm_up(target, json.dumps({"input": INPUT}).encode())
            with run_steady_clients(target, place / "replies.npz"):
                switches = [_switch(registry, target, "12"[(turn + 1) % 2], row) for turn in range(plan.switches)]
        rows.append({"load": row.label, **summarise(read_seen(place / "replies.npz"), switches, row.load_s)})
    return {"plan": {"rate": RATE, "switches": plan.switches}, "rows": rows}


def _write_version(folder: Path, version: str, row: Row) -> None:
    if not row.burns_s:
        noop_files(folder, output=version, load_s=row.sleeps_s)
        return
    folder.mkdir(parents=True)
    (folder / "wrapper.py").write_text(BURNING_WRAPPER)
    wrapper = {"kind": "python", "burn_s": row.burns_s}
    (folder / "model.yaml").write_text(json.dumps({"wrapper": wrapper, "input_type": "floats", "sample": [INPUT]}))


def _switch(registry: Registry, target: Target, version: str, row: Row) -> Switch:
    """Activate a version after a steady time; return when the version answers and it is steady again."""
    time.sleep(STEADY_S + 0.1)
    began_s = time.monotonic()
    record = registry.activate("m", version).record
    assert record is not None
    slot = Path(registry.url.removeprefix("file://")) / "models/m/log" / f"{record.seq:020d}.json"
    commit_s = slot.stat().st_mtime - time.time() + time.monotonic()
    time.sleep(row.load_s)
    give_up_s = time.monotonic() + LONGEST_SWITCH_S
    while _answering(target) != version and time.monotonic() < give_up_s:
        time.sleep(0.1)  # a query of its own now and then; the clients' replies tell when it really was
    time.sleep(AFTER_S)
    return Switch(began_s, commit_s, version)


def _answering(target: Target) -> str | None:
    body = json.dumps({"input": INPUT}).encode()
    request = urllib.request.Request(target.url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        version: str | None = reply.headers["Clipperfs-Version"]
    return version


@contextlib.contextmanager
def run_steady_clients(target: Target, result: Path) -> Iterator[None]:
    """Run the clients around a block; their replies are in ``result`` afterwards."""
    url = urlsplit(target.url)
    words = [str(url.hostname), str(url.port), url.path, str(RATE), str(result)]
    command = [sys.executable, "-m", "benchmarks.steady_clients", *words]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", "the clients did not start"
        yield
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def read_seen(path: Path) -> Seen:
    """Read what the clients wrote."""
    with np.load(path) as arrays:
        order = np.argsort(arrays["due_s"] + arrays["latency_s"], kind="stable")
        return Seen(
            arrays["due_s"][order],
            arrays["latency_s"][order],
            arrays["outcome"][order],
            arrays["version"][order],
            int(arrays["lost"]),
            float(arrays["late_s"]),
        )


def summarise(seen: Seen, switches: list[Switch], load_s: float) -> dict[str, Any]:
    """Return what the switches did to the clients."""
    first_ms, stale = [], 0
    steady = np.zeros(len(seen.due_s), dtype=bool)
    around = steady.copy()
    for switch in switches:
        answered = (seen.outcome == ANSWERED) & (seen.version == switch.version)
        after = (seen.end_s >= switch.commit_s) & answered
        if not after.any():
            raise RuntimeError(f"version {switch.version} has not answered {LONGEST_SWITCH_S:g} s after its activation")
        first_s = float(seen.end_s[after][0])
        first_ms.append((first_s - switch.commit_s - load_s) * 1000)
        steady |= (seen.due_s > switch.began_s - STEADY_S) & (seen.end_s < switch.began_s)
        around |= (seen.end_s > switch.commit_s) & (seen.due_s < first_s + AFTER_S)
        late = (seen.due_s > first_s) & (seen.due_s < first_s + AFTER_S) & (seen.outcome == ANSWERED)
        stale += int((late & (seen.version != switch.version)).sum())
    return {
        "switches": len(switches),
        "requests": len(seen.due_s) + seen.lost,
        "failed": int((seen.outcome == FAILED).sum()) + seen.lost,
        "defaulted": int((seen.outcome == DEFAULTED).sum()),
        "mixed": int((seen.outcome == MIXED).sum()),
        "stale": stale,
        "beyond_load_ms": spread(first_ms).document(),
        "p99_steady_ms": float(np.percentile(seen.latency_s[steady], 99)) * 1000,
        "p99_around_ms": float(np.percentile(seen.latency_s[around], 99)) * 1000,
        "longest_around_ms": float(seen.latency_s[around].max()) * 1000,
        "generator_late_ms": seen.late_s * 1000,
    }


def render_switches(result: dict[str, Any]) -> str:
    """Return the table that people read."""
    columns = [
        "the new version",
        "switches",
        "requests",
        "failed",
        "default",
        "mixed",
        "stale",
        "commit → first answer, less the load, ms",
        "p99 steady ms",
        "p99 around ms",
        "longest ms",
        "generator late ms",
    ]
    rows = [
        [
            row["load"],
            row["switches"],
            f"{row['requests']:,}",
            row["failed"],
            row["defaulted"],
            row["mixed"],
            row["stale"],
            "{median:,.0f} ({low:,.0f}–{high:,.0f})".format(**row["beyond_load_ms"]),
            f"{row['p99_steady_ms']:.2f}",
            f"{row['p99_around_ms']:.2f}",
            f"{row['longest_around_ms']:.1f}",
            f"{row['generator_late_ms']:.1f}",
        ]
        for row in result["rows"]
    ]
    head = f"switches: {result['plan']['switches']} of them under {result['plan']['rate']} queries a second, open loop"
    return f"{head}\n\n{render_table(columns, rows)}"
