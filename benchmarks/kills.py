"""kills: what clients notice while replicas, and then frontends, are killed (SIGKILL) one after another.

An open loop asks at a fixed rate. Three runs of the same length: calm, with a random replica killed every so often, and
on a daemon of two frontends with a random one of these killed every so often. A query has failed when its reply is not
a prediction: another status than 200, a default output, or a connection that was cut under it.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.open_loop import BODY, Answers, Loss, Offer, offer, plan_load
from benchmarks.serving import SLO_US, add_model, clipperfs_target, noop_files, run_daemon, warm_up
from benchmarks.table import render_table, spread
from clipperfs import Daemon, Registry

FRONTEND_BITS = 46
"""A query's id says which frontend gave it (``frontend.first_query_id``)."""
LOOK_AGAIN_S = 0.03
CALLERS = 16
"""New connections that are opened together just after a frontend was killed: some get to its socket."""
CUT_S = 0.5
"""A connection that ends so soon after a kill, on the frontend that was killed, was cut by it."""
SEED = 7


@dataclass(frozen=True, slots=True)
class Plan:
    """How fast, how long, and how often somebody dies."""

    rate: float = 1000.0
    seconds: float = 30.0
    replicas: int = 2
    replica_every_s: float = 1.5
    frontend_every_s: float = 3.0
    connections: int = 64


QUICK = Plan(rate=200.0, seconds=4.0, replica_every_s=1.0, frontend_every_s=1.5)


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: when (``time.perf_counter``), of which frontend (-1: a replica), and when all was well again."""

    at_s: float
    index: int
    whole_after_s: float | None


def run_kills(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure the calm and the kills; return plain data."""
    registry = Registry.init(str(folder / "registry"), cache_dir=folder / "cache")
    add_model(registry, "noop", noop_files(folder / "noop"), cache="off", replicas=plan.replicas)
    rows = []
    with run_daemon(registry, folder / "state-1") as daemon:
        warm_up(clipperfs_target(daemon, "noop", "clipperfs"), BODY)
        [calm] = offer(_load(daemon, plan))
        rows.append({"who": "nobody", **summarise(calm, [], plan.replica_every_s)})
        answers, kills = _kill_around(daemon, plan, plan.replica_every_s, _kill_replica)
        rows.append({"who": "a replica", **summarise(answers, kills, plan.replica_every_s)})
    with run_daemon(registry, folder / "state-2", frontends=2) as daemon:
        warm_up(clipperfs_target(daemon, "noop", "clipperfs"), BODY)
        answers, kills = _kill_around(daemon, plan, plan.frontend_every_s, _kill_frontend)
        rows.append({"who": "a frontend", **summarise(answers, kills, plan.frontend_every_s)})
    return {"plan": asdict(plan), "rows": rows}


def _load(daemon: Daemon, plan: Plan) -> Any:
    return plan_load(daemon.port, "noop", plan.rate, plan.seconds, connections=plan.connections)


def _kill_around(
    daemon: Daemon, plan: Plan, every_s: float, kill: Callable[[Daemon, random.Random, float], Kill | None]
) -> tuple[Answers, list[Kill]]:
    """Run the load, and kill until a last pause before its end; nobody is killed in the warm-up."""
    source = random.Random(SEED)
    kills: list[Kill] = []
    load = _load(daemon, plan)
    with Offer([load]) as running:
        began_s = time.perf_counter()
        time.sleep(load.warm_up_s + 0.2)
        count = 0
        while (next_s := began_s + load.warm_up_s + (count + 1) * every_s) < began_s + load.warm_up_s + plan.seconds:
            one = kill(daemon, source, next_s)
            if one is not None:
                kills.append(one)
            time.sleep(max(0.0, next_s - time.perf_counter()))
            count += 1
        [answers] = running.answers()
    return answers, kills


def _kill_replica(daemon: Daemon, source: random.Random, until_s: float) -> Kill | None:
    [version] = daemon.status()["models"]["noop"]["versions"]
    if not version["pids"]:
        return None
    killed = source.choice(version["pids"])
    at_s = time.perf_counter()
    os.kill(killed, signal.SIGKILL)

    def is_whole() -> bool:
        [now] = daemon.status()["models"]["noop"]["versions"]
        return now["replicas_ready"] == now["replicas_wanted"] and killed not in now["pids"]

    return Kill(at_s, -1, _time_until(is_whole, at_s, until_s))


def _kill_frontend(daemon: Daemon, source: random.Random, until_s: float) -> Kill | None:
    alive = [one for one in daemon.status()["frontends"] if one["pid"] is not None]
    if not alive:
        return None
    killed = source.choice(alive)
    at_s = time.perf_counter()
    os.kill(killed["pid"], signal.SIGKILL)
    answered_s: list[float] = []
    callers = [threading.Thread(target=_call, args=(daemon.port, answered_s)) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(max(0.0, until_s - time.perf_counter()))
    return Kill(at_s, killed["index"], max(answered_s) - at_s if len(answered_s) == CALLERS else None)


def _call(port: int, answered_s: list[float]) -> None:
    """Ask on a new connection whether somebody lives; note when the answer was there."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        if connection.recv(4096).startswith(b"HTTP/1.1 200"):
            answered_s.append(time.perf_counter())


def _time_until(condition: Callable[[], bool], since_s: float, until_s: float) -> float | None:
    """Return how long after ``since_s`` a condition held; None when it did not before ``until_s``."""
    while (now_s := time.perf_counter()) < until_s:
        if condition():
            return now_s - since_s
        time.sleep(LOOK_AGAIN_S)
    return None


def summarise(answers: Answers, kills: Sequence[Kill], window_s: float) -> dict[str, Any]:
    """Return the figures of one run. p99 is of each window as long as the time between two kills."""
    place = ((answers.due_s - answers.due_s[0]) / window_s).astype(np.int64)
    p99_ms = [answers.latency_ms(99, place == number) for number in range(int(place[-1]) + 1)]
    whole_ms = [kill.whole_after_s * 1000 for kill in kills if kill.whole_after_s is not None]
    cut = [loss for loss in answers.losses if was_cut_by(loss, kills)]
    return {
        "asked": answers.asked,
        "kills": len(kills),
        "failed": answers.failed,
        "defaults": answers.defaults,
        "failures": answers.failures,
        "failed_on_killed": sum(loss.had_query for loss in cut),
        "cut_on_killed": len(cut),
        "cut_on_others": len(answers.losses) - len(cut),
        "p50_ms": answers.latency_ms(50),
        "p99_ms": answers.latency_ms(99),
        "window_p99_ms": spread([value for value in p99_ms if value == value]).document(),
        "max_ms": answers.latency_ms(100),
        "whole_ms": spread(whole_ms).document() if whole_ms else None,
        "never_whole": len(kills) - len(whole_ms),
        "late_ms": answers.late_s * 1000,
    }


def was_cut_by(loss: Loss, kills: Sequence[Kill]) -> bool:
    """Say whether a connection ended because its frontend was killed. One without an answer yet may be on any."""
    return any(
        0 <= loss.at_s - kill.at_s < CUT_S
        and kill.index >= 0
        and (loss.query_id is None or loss.query_id >> FRONTEND_BITS == kill.index)
        for kill in kills
    )


def render_kills(result: dict[str, Any]) -> str:
    """Return the table that people read."""
    columns = [
        "killed",
        "times",
        "queries",
        "failed",
        "of them on the killed",
        "defaults",
        "cut there, elsewhere",
        "p50 ms",
        "p99 ms",
        "p99 by window ms",
        "max ms",
        "whole again after ms",
        "not in time",
        "generator late ms",
    ]
    rows = [
        [
            row["who"],
            row["kills"],
            f"{row['asked']:,}",
            row["failed"],
            row["failed_on_killed"],
            sum(row["defaults"].values()),
            f"{row['cut_on_killed']}, {row['cut_on_others']}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.1f}",
            "{median:.1f} ({low:.1f}–{high:.1f})".format(**row["window_p99_ms"]),
            f"{row['max_ms']:.0f}",
            "{median:,.0f} ({low:,.0f}–{high:,.0f})".format(**row["whole_ms"]) if row["whole_ms"] else "",
            row["never_whole"],
            f"{row['late_ms']:.0f}",
        ]
        for row in result["rows"]
    ]
    plan = result["plan"]
    head = (
        f"kills: open loop at {plan['rate']:,.0f} a second for {plan['seconds']:g} s each, "
        f"{plan['replicas']} replicas, SLO {SLO_US / 1000:.0f} ms; a replica dies every {plan['replica_every_s']:g} s, "
        f"a frontend every {plan['frontend_every_s']:g} s"
    )
    notes = [
        f"{row['who']}: {count} × {what}"
        for row in result["rows"]
        for what, count in (row["failures"] | row["defaults"]).items()
    ]
    return "\n".join([head, "", render_table(columns, rows), *notes])
