"""slo: how many answer within the SLO at 80 % of the capacity, also while a replica stalls, hangs or dies.

Capacity is the highest rate of an open loop at which 99.9 % of the queries get a prediction within the SLO. Latencies
count from when each query was due, so that what a stall keeps waiting is counted. A stall is SIGSTOP for as long as the
table says: to clients the same as a pause of the garbage collector or of the machine.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.open_loop import Answers, Offer, find_capacity, offer, plan_load
from benchmarks.serving import add_model, noop_files, read_counter, run_daemon
from benchmarks.table import render_table, spread
from clipperfs import Daemon, Registry

SLO_S = 0.1
SHARE = 0.999
LOAD = 0.8
BATCH_MS = 2.0
STALL_S = 0.2
STALL_EVERY_S = 1.0
HANG_S = 1.5
FAULT_AFTER_S = 0.7
LATE_S = 0.01
"""A default output leaves at the deadline, so its answer is there a little after."""
FIRST_RATE = 1000.0
SEED = 7


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and how long."""

    rounds: int = 3
    seconds: float = 2.5
    search_s: float = 1.0
    steps: int = 2


QUICK = Plan(rounds=1, seconds=1.5, search_s=0.5, steps=1)

Fault = Callable[[Daemon, str, float], None]
"""Does harm to the replicas of a model until a time (``time.perf_counter``)."""


def run_slo(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure every row; return plain data."""
    registry = Registry.init(str(folder / "registry"), cache_dir=folder / "cache")
    slo_us = int(SLO_S * 1e6)
    add_model(registry, "noop", noop_files(folder / "noop"), slo_us=slo_us, cache="off")
    add_model(
        registry, "paced", noop_files(folder / "paced", delay_ms=BATCH_MS), slo_us=slo_us, cache="off", replicas=2
    )
    rows = []
    with run_daemon(registry, folder / "state") as daemon:
        for app, what, faults in (
            ("noop", "no-op, 1 replica", [("nothing", leave_alone)]),
            (
                "paced",
                f"{BATCH_MS:g} ms, 2 replicas",
                [
                    ("nothing", leave_alone),
                    (f"one stalls {STALL_S * 1000:g} ms about every {STALL_EVERY_S:g} s", stall),
                    (f"one hangs for {HANG_S:g} s", hang),
                    ("one is killed", kill),
                ],
            ),
        ):
            capacity = _capacity(daemon, app, plan)
            for name, fault in faults:
                runs = [_measure(daemon, app, LOAD * capacity, plan.seconds, fault) for _ in range(plan.rounds)]
                rows.append({"model": what, "fault": name, "capacity": capacity, **summarise_runs(runs)})
    return {"plan": asdict(plan), "rows": rows}


def _capacity(daemon: Daemon, app: str, plan: Plan) -> float:
    def is_borne(rate: float) -> bool:
        [answers] = offer(plan_load(daemon.port, app, rate, plan.search_s, warm_up_s=0.5))
        return answers.share_good(SLO_S) >= SHARE

    return find_capacity(is_borne, FIRST_RATE, steps=plan.steps)


@dataclass(frozen=True, slots=True)
class Run:
    """One run: what clients saw, and what the daemon counted in it."""

    answers: Answers
    hedges: float
    late: float


def _measure(daemon: Daemon, app: str, rate: float, seconds: float, fault: Fault) -> Run:
    names = ("clipperfs_hedges_total", "clipperfs_late_outputs_total")
    before = [read_counter(daemon, name) for name in names]
    load = plan_load(daemon.port, app, rate, seconds)
    with Offer([load]) as running:
        until_s = time.perf_counter() + load.warm_up_s + seconds
        time.sleep(load.warm_up_s)
        fault(daemon, app, until_s)
        [answers] = running.answers()
    hedges, late = (read_counter(daemon, name) - value for name, value in zip(names, before, strict=True))
    return Run(answers, hedges, late)


def leave_alone(daemon: Daemon, app: str, until_s: float) -> None:
    """Do no harm."""


def stall(daemon: Daemon, app: str, until_s: float) -> None:
    """Stop a random replica for a moment, at random times."""
    source = random.Random(SEED)
    while True:
        next_s = time.perf_counter() + min(3 * STALL_EVERY_S, source.expovariate(1 / STALL_EVERY_S))
        if next_s + STALL_S > until_s:
            return
        time.sleep(max(0.0, next_s - time.perf_counter()))
        with _stopped(source.choice(_replicas(daemon, app))):
            time.sleep(STALL_S)


def hang(daemon: Daemon, app: str, until_s: float) -> None:
    """Stop one replica for longer than the SLO many times over."""
    time.sleep(FAULT_AFTER_S)
    with _stopped(_replicas(daemon, app)[0]):
        time.sleep(max(0.0, min(HANG_S, until_s - time.perf_counter())))


def kill(daemon: Daemon, app: str, until_s: float) -> None:
    """Kill one replica; have both before the next round."""
    time.sleep(FAULT_AFTER_S)
    os.kill(_replicas(daemon, app)[0], signal.SIGKILL)
    give_up_s = time.perf_counter() + 30
    while _ready(daemon, app) < 2 and time.perf_counter() < give_up_s:
        time.sleep(0.05)


def _replicas(daemon: Daemon, app: str) -> list[int]:
    pids: list[int] = daemon.status()["models"][app]["versions"][0]["pids"]
    return pids


def _ready(daemon: Daemon, app: str) -> int:
    return int(daemon.status()["models"][app]["versions"][0]["replicas_ready"])


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def summarise_runs(runs: list[Run]) -> dict[str, Any]:
    """Return the figures of one row."""
    answers = [run.answers for run in runs]
    return {
        "rate": answers[0].rate,
        "asked": sum(one.asked for one in answers),
        "share_good": spread([one.share_good(SLO_S) for one in answers]).document(),
        "share_predicted": spread([float((~one.is_default).sum()) / one.asked for one in answers]).document(),
        "p50_ms": spread([one.latency_ms(50) for one in answers]).document(),
        "p99_ms": spread([one.latency_ms(99) for one in answers]).document(),
        "p999_ms": spread([one.latency_ms(99.9) for one in answers]).document(),
        "max_ms": max(one.latency_ms(100) for one in answers),
        "after_deadline": sum(int((one.latency_s > SLO_S + LATE_S).sum()) for one in answers),
        "failed": sum(one.failed for one in answers),
        "defaults": sum(int(one.is_default.sum()) for one in answers),
        "hedges": sum(run.hedges for run in runs),
        "late": sum(run.late for run in runs),
        "waited": sum(one.waited for one in answers),
        "late_ms": max(one.late_s for one in answers) * 1000,
    }


def render_slo(result: dict[str, Any]) -> str:
    """Return the table that people read."""
    columns = [
        "model",
        "fault",
        "capacity/s",
        "queries",
        "in time",
        "predictions",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "after the deadline",
        "failed",
        "hedges",
        "late outputs",
        "waited for a connection",
        "generator late ms",
    ]
    rows = [
        [
            row["model"],
            row["fault"],
            f"{row['capacity']:,.0f}",
            f"{row['asked']:,}",
            "{median:.3%} ({low:.3%}–{high:.3%})".format(**row["share_good"]),
            "{median:.3%}".format(**row["share_predicted"]),
            "{median:.2f}".format(**row["p50_ms"]),
            "{median:.1f} ({low:.1f}–{high:.1f})".format(**row["p99_ms"]),
            "{median:.1f} ({low:.1f}–{high:.1f})".format(**row["p999_ms"]),
            f"{row['max_ms']:.0f}",
            row["after_deadline"],
            row["failed"],
            f"{row['hedges']:.0f}",
            f"{row['late']:.0f}",
            row["waited"],
            f"{row['late_ms']:.0f}",
        ]
        for row in result["rows"]
    ]
    plan = result["plan"]
    head = (
        f"slo: open loop at {LOAD:.0%} of the capacity, SLO {SLO_S * 1000:g} ms; "
        f"median (lowest–highest) of {plan['rounds']} rounds of {plan['seconds']:g} s"
    )
    return f"{head}\n\n{render_table(columns, rows)}"
