"""Memory of a daemon's processes as requests and switches go by: samples of it, and the slope through them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load import measure
from benchmarks.machine import memory_bytes
from benchmarks.open_loop import BODY
from benchmarks.serving import clipperfs_target, daemon_pid, read_counter
from clipperfs import Daemon, Registry
from clipperfs.activate import make_active
from clipperfs.documents import ModelRecord
from clipperfs.ledger import Draft, Head
from clipperfs.names import model_name

BURST_S = 2.0
CONNECTIONS = 32
LONGEST_SWITCH_S = 30.0
LOOK_AGAIN_S = 0.01


@dataclass(frozen=True, slots=True)
class Sample:
    """What the processes held when so many requests or switches had been."""

    count: int
    bytes: dict[str, int]
    """Resident memory by process: controller, frontend, replica."""
    handles: int
    """Open descriptors of controller and frontend together."""


def sample_memory(daemon: Daemon, count: int, model: str) -> Sample:
    """Return what the processes hold now."""
    status = daemon.status()
    controller, frontend = daemon_pid(daemon), status["frontends"][0]["pid"]
    serving = status["models"][model]["serving"]
    [replica] = [one["pids"][0] for one in status["models"][model]["versions"] if one["version"] == serving]
    pids = {"controller": controller, "frontend": frontend, "replica": replica}
    handles = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (controller, frontend))
    return Sample(count, {name: memory_bytes(pid) for name, pid in pids.items()}, handles)


def grow_by_requests(daemon: Daemon, app: str, folder: Path, warm_up: int, steps: Sequence[int]) -> list[Sample]:
    """Send requests over keep-alive connections; sample after the warm-up and at each count of further requests."""
    body = folder / "body.json"
    body.write_bytes(BODY)
    target = clipperfs_target(daemon, app, "clipperfs")
    samples = []
    start = read_counter(daemon, "clipperfs_queries_total") + warm_up
    for goal in (0, *steps):
        while (done := int(read_counter(daemon, "clipperfs_queries_total") - start)) < goal:
            measure(target, body, connections=CONNECTIONS, duration_s=BURST_S)
        samples.append(sample_memory(daemon, done, app))
    return samples


def grow_by_switches(
    daemon: Daemon, registry: Registry, model: str, warm_up: int, steps: Sequence[int], longest_s: float
) -> tuple[list[Sample], list[float]]:
    """Roll back to and fro; sample after the warm-up and at each count. Returns the samples and each switch's time.

    Only the records are written: the checks of a rollback start a process, which would take most of the time. On a slow
    machine there are fewer: none is begun after ``longest_s``.
    """
    samples, took_s, done = [], [], -warm_up
    give_up_s = time.perf_counter() + longest_s
    for goal in (0, *steps):
        if goal and time.perf_counter() > give_up_s:
            break
        while done < goal and (goal == 0 or time.perf_counter() < give_up_s):
            took_s.append(_switch(daemon, registry, model))
            done += 1
        _settle(daemon, model)
        samples.append(sample_memory(daemon, done, model))
    return samples, took_s


def _switch(daemon: Daemon, registry: Registry, model: str) -> float:
    head, _ = registry._workspace.model_ledger(model_name(model)).append(_roll_back, actor="bench")
    assert head is not None
    assert head.record.state.active is not None
    version, began_s = head.record.state.active.version, time.perf_counter()
    _await(lambda: daemon.status()["models"][model]["serving"] == version)
    return time.perf_counter() - began_s


def _roll_back(head: Head[ModelRecord] | None) -> Draft:
    assert head is not None
    state = head.record.state
    assert state.previous is not None
    return Draft("rollback", make_active(state, state.previous.model_copy(update={"seq": head.seq + 1})))


def _settle(daemon: Daemon, model: str) -> None:
    """Wait until only one version is left: what drains is no growth."""
    _await(lambda: len([one for one in daemon.status()["models"][model]["versions"] if one["pids"]]) == 1)


def _await(condition: Callable[[], Any]) -> None:
    give_up_s = time.perf_counter() + LONGEST_SWITCH_S
    while not condition():
        if time.perf_counter() > give_up_s:
            raise RuntimeError(f"a switch took longer than {LONGEST_SWITCH_S:g} s")
        time.sleep(LOOK_AGAIN_S)


def slope_bytes(samples: Sequence[Sample], name: str) -> float:
    """Return the growth of a process's memory for each request or switch: the least-squares line through samples."""
    counts = np.array([sample.count for sample in samples], dtype=float)
    sizes = np.array([sample.bytes[name] for sample in samples], dtype=float)
    if len(samples) < 2 or counts.max() == counts.min():
        return float("nan")
    return float(np.polyfit(counts, sizes, 1)[0])
