"""footprint: what scale costs an idle daemon, and whether memory grows with requests or switches.

Four parts: idle models (a replica each), applications, open connections, growth. ``python -m benchmarks.footprint
--full`` measures 100 models, 1,000 applications, 10,000 connections, a million requests and 2,000 switches in about
25 minutes; the default does less of each in less than two. ``Pss`` is the memory of a process with its part of what it
shares with others, so that it can be added up.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.growth import Sample, grow_by_requests, grow_by_switches, slope_bytes
from benchmarks.machine import cpu_seconds, describe_machine, memory_bytes
from benchmarks.open_loop import BODY
from benchmarks.serving import SLO_US, add_model, daemon_pid, noop_files, run_daemon
from benchmarks.table import render_table, spread
from clipperfs import Daemon, Registry

MIB = 2**20
FILES = 12_000
"""Descriptors that the client of 10,000 connections needs."""
PROBES = 300
"""Queries of one client, one after another, for a p50."""
SETTLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    models: tuple[int, ...] = (1, 10)
    apps: tuple[int, ...] = (1, 200)
    connections: tuple[int, ...] = (1, 100, 1000)
    window_s: float = 2.0
    warm_up_requests: int = 30_000
    requests: tuple[int, ...] = (30_000, 60_000, 90_000)
    warm_up_switches: int = 5
    switches: tuple[int, ...] = (10, 20, 30)
    longest_switching_s: float = 30.0


QUICK = Plan((1, 2), (1, 5), (1, 20), 0.5, 1_000, (2_000,), 1, (2,))
FULL = Plan(
    models=(1, 10, 50, 100),
    apps=(1, 100, 1000),
    connections=(1, 100, 1000, 10_000),
    window_s=5.0,
    warm_up_requests=100_000,
    requests=(250_000, 500_000, 750_000, 1_000_000),
    warm_up_switches=50,
    switches=tuple(range(250, 2001, 250)),
    longest_switching_s=2700.0,
)


def run_footprint(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure all four parts; return plain data."""
    return {
        "plan": asdict(plan),
        "models": _measure_models(folder / "models", plan),
        "apps": _measure_apps(folder / "apps", plan),
        "connections": _measure_connections(folder / "connections", plan),
        "growth": _measure_growth(folder / "growth", plan),
    }


def _measure_models(folder: Path, plan: Plan) -> list[dict[str, Any]]:
    registry = Registry.init(str(folder / "registry"), cache_dir=folder / "cache")
    files = noop_files(folder / "files")
    names = [f"model-{number:03d}" for number in range(max(plan.models))]
    for name in names:
        add_model(registry, name, files, cache="off")
    rows = []
    for count in plan.models:
        began_s = time.perf_counter()
        with run_daemon(registry, folder / f"state-{count}", models=names[:count]) as daemon:
            ready_s = time.perf_counter() - began_s
            time.sleep(SETTLE_S)
            status = daemon.status()
            controller, frontend = daemon_pid(daemon), int(status["frontends"][0]["pid"])
            replicas = [pid for model in status["models"].values() for one in model["versions"] for pid in one["pids"]]
            groups = {"controller": [controller], "frontend": [frontend], "replicas": replicas}
            used = _cpu_ms_per_s(groups, plan.window_s)
            rows.append(
                {
                    "models": count,
                    "ready_s": ready_s,
                    "controller_pss": memory_bytes(controller, "Pss"),
                    "frontend_pss": memory_bytes(frontend, "Pss"),
                    "replica_pss": median(memory_bytes(pid, "Pss") for pid in replicas),
                    "replica_rss": median(memory_bytes(pid, "Rss") for pid in replicas),
                    "total_pss": sum(memory_bytes(pid, "Pss") for pids in groups.values() for pid in pids),
                    "cpu_ms_per_s": used,
                    "p50_ms": _probe(daemon, names[0]),
                }
            )
    return rows


def _measure_apps(folder: Path, plan: Plan) -> list[dict[str, Any]]:
    registry = Registry.init(str(folder / "registry"), cache_dir=folder / "cache")
    add_model(registry, "noop", noop_files(folder / "files"), cache="off")
    rows, there = [], 1
    for count in plan.apps:
        for number in range(there, count):
            _register(registry, f"app-{number:04d}")
        there = max(there, count)
        began_s = time.perf_counter()
        with run_daemon(registry, folder / f"state-{count}") as daemon:
            ready_s = time.perf_counter() - began_s
            time.sleep(SETTLE_S)
            controller, frontend = daemon_pid(daemon), int(daemon.status()["frontends"][0]["pid"])
            used = _cpu_ms_per_s({"controller": [controller], "frontend": [frontend]}, plan.window_s)
            row = {
                "apps": count,
                "ready_s": ready_s,
                "controller_pss": memory_bytes(controller, "Pss"),
                "frontend_pss": memory_bytes(frontend, "Pss"),
                "cpu_ms_per_s": used,
                "p50_ms": _probe(daemon, "noop"),
            }
            began_s = time.perf_counter()
            _register(registry, f"late-{count:04d}")
            while not _is_answered(daemon.port, f"late-{count:04d}"):
                time.sleep(0.002)
            rows.append({**row, "new_app_ms": (time.perf_counter() - began_s) * 1000})
    return rows


def _register(registry: Registry, app: str) -> None:
    registry.app_register(app, input_type="floats", default_output="no answer", slo_us=SLO_US, link="noop")


def _measure_connections(folder: Path, plan: Plan) -> list[dict[str, Any]]:
    registry = Registry.init(str(folder / "registry"), cache_dir=folder / "cache")
    add_model(registry, "noop", noop_files(folder / "files"), cache="off")
    rows = []
    with (
        _many_files(),
        run_daemon(registry, folder / "state", max_connections=max(plan.connections) + 10) as daemon,
    ):
        _probe(daemon, "noop")
        frontend = int(daemon.status()["frontends"][0]["pid"])
        empty_bytes = memory_bytes(frontend)
        for count in plan.connections:
            began_s = time.perf_counter()
            clients = [_connect(daemon.port, "noop") for _ in range(count)]
            opened_s = time.perf_counter() - began_s
            held_bytes = memory_bytes(frontend) - empty_bytes
            used = _cpu_ms_per_s({"frontend": [frontend]}, plan.window_s)
            p50_ms = _probe(daemon, "noop")
            for client in clients:
                client.close()
            rows.append(
                {
                    "connections": count,
                    "opened_per_s": count / opened_s,
                    "bytes_each": held_bytes / count,
                    "cpu_ms_per_s": used,
                    "p50_ms": p50_ms,
                }
            )
            time.sleep(0.5)  # for the frontend to notice
            rows[-1]["left_bytes"] = memory_bytes(frontend) - empty_bytes
    return rows


def _measure_growth(folder: Path, plan: Plan) -> dict[str, Any]:
    registry = Registry.init(str(folder / "registry"), cache_dir=folder / "cache")
    for version in ("1", "2"):
        noop_files(folder / version, output=version)
    add_model(registry, "noop", folder / "1", cache="off", keep_previous_s=0)
    registry.publish("noop", "2", folder / "2", activate=True)
    with run_daemon(registry, folder / "state") as daemon:
        by_requests = grow_by_requests(daemon, "noop", folder, plan.warm_up_requests, plan.requests)
        by_switches, took_s = grow_by_switches(
            daemon, registry, "noop", plan.warm_up_switches, plan.switches, plan.longest_switching_s
        )
    return {
        "requests": _describe_growth(by_requests),
        "switches": _describe_growth(by_switches),
        "switch_ms": spread([value * 1000 for value in took_s]).document(),
    }


def _describe_growth(samples: list[Sample]) -> dict[str, Any]:
    return {
        "samples": [asdict(sample) for sample in samples],
        "slope_bytes": {name: slope_bytes(samples, name) for name in samples[0].bytes},
    }


@contextmanager
def _many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if before[1] == resource.RLIM_INFINITY else min(FILES, before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, before[0]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _cpu_ms_per_s(groups: dict[str, list[int]], window_s: float) -> dict[str, float]:
    before = {name: cpu_seconds(pids) for name, pids in groups.items()}
    began_s = time.perf_counter()
    time.sleep(window_s)
    took_s = time.perf_counter() - began_s
    return {name: (cpu_seconds(pids) - before[name]) / took_s * 1000 for name, pids in groups.items()}


def _request(app: str) -> bytes:
    head = f"POST /{app}/predict HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY


def _connect(port: int, app: str) -> socket.socket:
    """Return a connection that has had an answer."""
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _ask(client, _request(app))
    return client


def _ask(client: socket.socket, request: bytes) -> bytes:
    client.sendall(request)
    reply = client.recv(65536)
    if not reply:
        raise RuntimeError("the daemon closed the connection")
    return reply


def _probe(daemon: Daemon, app: str) -> float:
    """Return the p50 of one client's queries in ms, one after another; each must be a prediction."""
    request, taken_s = _request(app), []
    client = _connect(daemon.port, app)
    try:
        for _ in range(PROBES):
            began_s = time.perf_counter()
            reply = _ask(client, request)
            taken_s.append(time.perf_counter() - began_s)
            if b'"default":false' not in reply:
                raise RuntimeError(f"the daemon gave no prediction: {reply[-300:].decode(errors='replace')}")
    finally:
        client.close()
    return median(taken_s) * 1000


def _is_answered(port: int, app: str) -> bool:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    try:
        return b'"default":false' in _ask(client, _request(app))
    finally:
        client.close()


def render_footprint(result: dict[str, Any]) -> str:
    """Return the tables that people read."""
    return "\n\n".join(
        (
            "footprint: an idle daemon; memory in MiB, processor time in ms a second",
            _render_models(result["models"]),
            _render_apps(result["apps"]),
            _render_connections(result["connections"]),
            _render_growth(result["growth"]),
        )
    )


def _render_models(rows: list[dict[str, Any]]) -> str:
    columns = ["models", "ready after s", "controller", "frontend", "a replica", "its RSS", "all", "CPU", "p50 ms"]
    cells = [
        [
            row["models"],
            f"{row['ready_s']:.1f}",
            f"{row['controller_pss'] / MIB:.1f}",
            f"{row['frontend_pss'] / MIB:.1f}",
            f"{row['replica_pss'] / MIB:.1f}",
            f"{row['replica_rss'] / MIB:.1f}",
            f"{row['total_pss'] / MIB:,.0f}",
            " + ".join(f"{value:.1f}" for value in row["cpu_ms_per_s"].values()),
            f"{row['p50_ms']:.2f}",
        ]
        for row in rows
    ]
    return f"CPU: controller + frontend + all replicas\n\n{render_table(columns, cells)}"


def _render_apps(rows: list[dict[str, Any]]) -> str:
    columns = ["applications", "ready after s", "controller", "frontend", "CPU", "p50 ms", "a new one answers after ms"]
    cells = [
        [
            f"{row['apps']:,}",
            f"{row['ready_s']:.1f}",
            f"{row['controller_pss'] / MIB:.1f}",
            f"{row['frontend_pss'] / MIB:.1f}",
            " + ".join(f"{value:.1f}" for value in row["cpu_ms_per_s"].values()),
            f"{row['p50_ms']:.2f}",
            f"{row['new_app_ms']:,.0f}",
        ]
        for row in rows
    ]
    return render_table(columns, cells)


def _render_connections(rows: list[dict[str, Any]]) -> str:
    columns = ["open connections", "opened a second", "bytes each", "left after closing, kB", "frontend CPU", "p50 ms"]
    cells = [
        [
            f"{row['connections']:,}",
            f"{row['opened_per_s']:,.0f}",
            f"{row['bytes_each']:,.0f}" if row["connections"] >= 100 else "",
            f"{row['left_bytes'] / 1024:,.0f}",
            f"{row['cpu_ms_per_s']['frontend']:.1f}",
            f"{row['p50_ms']:.2f}",
        ]
        for row in rows
    ]
    return render_table(columns, cells)


def _render_growth(growth: dict[str, Any]) -> str:
    columns = ["resident memory after", "controller", "frontend", "replica", "descriptors"]
    cells = []
    for what in ("requests", "switches"):
        for sample in growth[what]["samples"]:
            sizes = [f"{sample['bytes'][name] / MIB:.2f}" for name in ("controller", "frontend", "replica")]
            cells.append([f"{sample['count']:,} {what}", *sizes, sample["handles"]])
        slopes = growth[what]["slope_bytes"]
        sizes = [f"{slopes[name]:,.2f} B" for name in ("controller", "frontend", "replica")]
        cells.append([f"… slope for each of the {what}", *sizes, ""])
    note = "a switch took {median:,.0f} ({low:,.0f}–{high:,.0f}) ms from its record".format(**growth["switch_ms"])
    return f"{render_table(columns, cells)}\n\n{note}"


def main() -> int:
    """Run this benchmark alone, in the size that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.add_argument("--full", action="store_true", help="100 models, 1,000 applications, a million requests")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part (repeatable)")
    options = parser.parse_args()
    machine = describe_machine()
    for label, text in machine.items():
        print(f"{label:12} {text}")
    plan = FULL if options.full else Plan()
    results: dict[str, Any] = {"machine": machine, "plan": asdict(plan)}
    for name in options.part or PARTS:
        place = Path(tempfile.mkdtemp(prefix="clipperfs-bench-"))
        began_s = time.monotonic()
        try:
            run, render = PARTS[name]
            results[name] = run(place, plan)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        print(f"\n{render(results[name])}\n({time.monotonic() - began_s:.0f} s)", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return 0


PARTS: dict[str, tuple[Callable[[Path, Plan], Any], Callable[[Any], str]]] = {
    "models": (_measure_models, _render_models),
    "apps": (_measure_apps, _render_apps),
    "connections": (_measure_connections, _render_connections),
    "growth": (_measure_growth, _render_growth),
}

if __name__ == "__main__":
    sys.exit(main())
