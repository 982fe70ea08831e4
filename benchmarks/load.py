"""Closed-loop load on a target with wrk, and what one measurement gives."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import cpu_seconds
from benchmarks.server import Target
from benchmarks.tools import require_tool

SCRIPT = Path(__file__).with_name("post.lua")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of load on one target."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Processor time of all the server's processes, per request."""
    failed: int
    """Connection errors, time-outs and replies other than 2xx."""


def measure(target: Target, body_path: Path, *, connections: int, duration_s: float) -> Measurement:
    """Load ``target`` with the body in a file over keep-alive connections, from one thread.

    Raises:
        RuntimeError: wrk failed, or no request was answered.
    """
    pids = target.pids()
    before_s = cpu_seconds(pids)
    # wrk takes whole seconds only; a shorter run is ended from here, upon which it prints its summary too.
    command = ["timeout", "--signal=INT", f"{duration_s}", require_tool("wrk"), "-t1", f"-c{connections}", "-d60s"]
    result = subprocess.run(
        [*command, "--timeout", "10s", "-s", SCRIPT, target.url],
        env={**os.environ, "BENCH_BODY": str(body_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=duration_s + 30,
        check=False,
    )
    used_s = cpu_seconds(pids) - before_s
    summary = _parse_summary(result.stdout)
    if summary is None or summary["requests"] == 0:
        raise RuntimeError(f"wrk measured nothing on {target.name}: {result.stdout[-500:]} {result.stderr[-500:]}")
    return Measurement(
        requests_per_s=summary["requests"] / summary["duration_us"] * 1e6,
        p50_ms=summary["p50_us"] / 1000,
        p99_ms=summary["p99_us"] / 1000,
        cpu_us=used_s / summary["requests"] * 1e6,
        failed=int(summary["failed"]),
    )


def _parse_summary(output: str) -> dict[str, float] | None:
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            summary: dict[str, float] = json.loads(line)
            return summary
    return None
