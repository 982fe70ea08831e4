"""bodies: what an input costs by its size and by the form in which it is sent, in time, processor time and memory.

One client asks on one connection, without a pause. A round sends every form of a size once, in an order that turns, so
that a slow moment of the machine hits all of them. Beside inputs from 100,000 numbers on another client sends small
queries at a fixed rate, to an application of its own, and its latencies say whether large bodies hold others up.
"""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.machine import cpu_seconds, process_tree
from benchmarks.serving import SLO_US, daemon_pid, run_daemon
from benchmarks.table import render_table, spread
from clipperfs import Daemon, Registry

WRAPPER = '''
"""The mean of an input's first numbers: next to no work, but wrong when the bytes are."""

import numpy as np


class Wrapper:
    bytes_as = "raw"

    def predict(self, inputs):
        numbers = [np.frombuffer(one, "<f4") if isinstance(one, bytes) else one for one in inputs]
        return [[len(one), round(float(one[:10].mean()), 4)] for one in numbers]
'''
LARGE: Final = 100_000
"""Numbers from which on others ask beside."""
MEMORY_FROM: Final = 1_000_000
"""Numbers from which on memory is measured."""
BESIDE_RATE: Final = 100
MAX_BODY_BYTES: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, and how long."""

    sizes: tuple[int, ...] = (10, 784, 100_000, 1_000_000, 10_000_000)
    rounds: int = 5
    duration_s: float = 1.5
    """Of one form in one round; one query is sent at least."""


QUICK = Plan(sizes=(10, 100_000), rounds=2, duration_s=0.3)


@dataclass(slots=True)
class Run:
    """One form in one round."""

    latency_s: list[float]
    elapsed_s: float
    cpu_s: float
    beside_ms: float | None
    """p99 of the client beside it."""


@dataclass(slots=True)
class Cell:
    """One form of one size."""

    app: str
    body: bytes
    headers: Mapping[str, str]
    expected: list[Any]
    runs: list[Run] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)
    """By process: the most memory beyond what it had before, as a multiple of the numbers' bytes."""


def forms(size: int) -> dict[str, Cell]:
    """Return the same numbers in every form."""
    import numpy as np

    numbers = np.round(np.random.default_rng(7).random(size), 4).astype("<f4")
    raw = numbers.tobytes()
    expected = [size, round(float(numbers[:10].mean()), 4)]
    as_json = {"Content-Type": "application/json"}
    as_raw = {"Content-Type": "application/octet-stream", "Clipperfs-Dtype": "float32"}
    text = json.dumps({"input": [round(one, 4) for one in numbers.tolist()]}, separators=(",", ":")).encode()
    encoded = json.dumps({"input": base64.b64encode(raw).decode()}).encode()
    cells = {
        "JSON": Cell("floats", text, as_json, expected),
        "base64": Cell("bytes", encoded, as_json, expected),
        "raw": Cell("floats", raw, as_raw, expected),
    }
    for encoding, compress in _encoders().items():
        cells[f"raw, {encoding}"] = Cell("floats", compress(raw), {**as_raw, "Content-Encoding": encoding}, expected)
    return cells


def _encoders() -> dict[str, Callable[[bytes], bytes]]:
    import gzip

    found: dict[str, Callable[[bytes], bytes]] = {"gzip": lambda body: gzip.compress(body, 1)}
    try:
        import zstandard
    except ImportError:
        return found
    return {**found, "zstd": zstandard.ZstdCompressor(1).compress}


def run_bodies(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure all forms of all sizes; return plain data."""
    registry = Registry.init(str(folder / "registry"), cache_dir=folder / "cache")
    for app, input_type, sample in (
        ("floats", "floats", [[0.5] * 10]),
        ("bytes", "bytes", [base64.b64encode(bytes(40)).decode()]),
        ("beside", "floats", [[0.5] * 10]),
    ):
        _add(registry, folder / app, app, input_type, sample)
    rows: list[dict[str, Any]] = []
    measured: dict[int, dict[str, Cell]] = {}
    with run_daemon(registry, folder / "state", max_body_bytes=MAX_BODY_BYTES) as daemon:
        for size in plan.sizes:
            cells = forms(size)
            names = list(cells)
            for turn in range(plan.rounds):
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    cells[name].runs.append(measure(daemon, cells[name], plan.duration_s, size >= LARGE))
            measured[size] = cells
    for size, cells in measured.items():
        for number, (name, cell) in enumerate(cells.items()):
            if size >= MEMORY_FROM:
                # In a new daemon each time: what a process has freed it may keep, and use again unseen.
                with run_daemon(registry, folder / f"state-{size}-{number}", max_body_bytes=MAX_BODY_BYTES) as daemon:
                    cell.peaks = peak_memory(daemon, cell, 4 * size)
            rows.append(summarise(size, name, cell))
    return {"plan": {"rounds": plan.rounds, "duration_s": plan.duration_s}, "rows": rows}


def measure(daemon: Daemon, cell: Cell, duration_s: float, has_others: bool) -> Run:
    """Send one form again and again; every answer must be the model's own."""
    pids = process_tree(daemon_pid(daemon))
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=120)
    ask(connection, cell)  # not counted: the connection, and the first pages of memory
    beside = start_beside(daemon, duration_s) if has_others else None
    latency_s: list[float] = []
    cpu_s, began_s = cpu_seconds(pids), time.perf_counter()
    while not latency_s or time.perf_counter() - began_s < duration_s:
        sent_s = time.perf_counter()
        ask(connection, cell)
        latency_s.append(time.perf_counter() - sent_s)
    elapsed_s, cpu_s = time.perf_counter() - began_s, cpu_seconds(pids) - cpu_s
    connection.close()
    return Run(latency_s, elapsed_s, cpu_s, None if beside is None else read_beside(beside))


def ask(connection: http.client.HTTPConnection, cell: Cell) -> None:
    """Send one query, and check the answer."""
    connection.request("POST", f"/{cell.app}/predict", cell.body, dict(cell.headers))
    reply = connection.getresponse()
    said = reply.read()
    assert reply.status == 200, said
    answer = json.loads(said)
    assert answer["default"] is False, answer
    assert answer["output"] == cell.expected, (answer, cell.expected)


def peak_memory(daemon: Daemon, cell: Cell, input_bytes: int) -> dict[str, float]:
    """Return the most memory that the frontend and the replica of a new daemon take for a query, beyond what they had.

    As multiples of ``input_bytes``.
    """
    status = daemon.status()
    [version] = status["models"][cell.app]["versions"]
    pids = {"frontend": status["frontends"][0]["pid"], "replica": version["pids"][0]}
    before = {name: _status_bytes(pid, "VmRSS") for name, pid in pids.items()}
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=120)
    ask(connection, cell)
    connection.close()
    return {name: max(0, _status_bytes(pid, "VmHWM") - before[name]) / input_bytes for name, pid in pids.items()}


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status has no {name}")


def start_beside(daemon: Daemon, duration_s: float) -> subprocess.Popen[bytes]:
    """Have another process ask small queries at a fixed rate."""
    command = [sys.executable, "-m", "clipperfs.cli", "bench", "beside", json.dumps([0.5] * 10), "--json"]
    command += ["--url", f"http://127.0.0.1:{daemon.port}", "--rate", str(BESIDE_RATE), "--connections", "8"]
    command += ["--duration", f"{max(0.5, duration_s):g}s", "--warm-up", "0s"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def read_beside(process: subprocess.Popen[bytes]) -> float:
    """Return the 99th percentile in ms that the client beside has seen."""
    said, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints.decode()
    return float(json.loads(said)["latency_ms"]["p99"])


def summarise(size: int, name: str, cell: Cell) -> dict[str, Any]:
    """Return one row: medians of the rounds, with extremes."""
    rates = [len(run.latency_s) / run.elapsed_s for run in cell.runs]
    beside = [run.beside_ms for run in cell.runs if run.beside_ms is not None]
    return {
        "numbers": size,
        "form": name,
        "body_bytes": len(cell.body),
        "requests_per_s": spread(rates).document(),
        "latency_ms": spread([median(run.latency_s) * 1000 for run in cell.runs]).document(),
        "cpu_us": spread([run.cpu_s / len(run.latency_s) * 1e6 for run in cell.runs]).document(),
        "input_mb_per_s": spread([rate * 4 * size / 1e6 for rate in rates]).document(),
        "beside_p99_ms": spread(beside).document() if beside else None,
        "peak": cell.peaks,
    }


def render_bodies(result: dict[str, Any]) -> str:
    """Return the table that people read."""
    columns = ["floats, form", "body", "req/s", "latency ms", "CPU µs/req", "MB/s of input", "frontend ×", "replica ×",
               "p99 beside ms"]  # fmt: skip
    rows = [
        [
            f"{row['numbers']:,}, {row['form']}",
            _size(row["body_bytes"]),
            f"{row['requests_per_s']['median']:,.1f}",
            f"{row['latency_ms']['median']:,.2f} ({row['latency_ms']['low']:,.2f}–{row['latency_ms']['high']:,.2f})",
            f"{row['cpu_us']['median']:,.0f}",
            f"{row['input_mb_per_s']['median']:,.1f}",
            *(f"{row['peak'][name]:.2f}" if row["peak"] else "-" for name in ("frontend", "replica")),
            f"{row['beside_p99_ms']['median']:.1f}" if row["beside_p99_ms"] else "-",
        ]
        for row in result["rows"]
    ]
    plan = result["plan"]
    head = f"bodies: one client, median (lowest–highest) of {plan['rounds']} rounds of {plan['duration_s']} s"
    return f"{head}\n\n{render_table(columns, rows)}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes:,} B" if size_bytes < 100_000 else f"{size_bytes / 1e6:,.1f} MB"


def _add(registry: Registry, files: Path, name: str, input_type: str, sample: list[Any]) -> None:
    files.mkdir()
    (files / "wrapper.py").write_text(WRAPPER)
    (files / "model.yaml").write_text(json.dumps({"wrapper": "python", "input_type": input_type, "sample": sample}))
    registry.policy(name, {"cache": "off", "allow_code": True})
    registry.publish(name, "1", files, activate=True)
    registry.app_register(name, input_type=input_type, default_output="none", slo_us=20 * SLO_US, link=name)
