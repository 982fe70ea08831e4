"""Open-loop load from processes of its own: the generator of ``clipperfs bench``, several applications at a time.

Run as ``python -m benchmarks.open_loop RESULT`` with a load plan on standard input; writes what came back as arrays.
A query that is due is sent however slow the answers are, and its latency counts from when it was due.
"""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.server import ROOT
from clipperfs.bench import LoadPlan, run_load

BODY = b'{"input": [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]}'
"""What ``serving.noop_files`` takes."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A connection that was cut: when by ``time.perf_counter``, with a query out or not, and its last answer's id."""

    at_s: float
    had_query: bool
    query_id: int | None


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of one run. Times in seconds; ``due_s`` by ``time.perf_counter``, the same clock in all processes."""

    rate: float
    seconds: float
    due_s: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    default_number: NDArray[np.uint8]
    """For each answer 0: a prediction, n: the default output with the nth explanation in ``defaults``."""
    defaults: dict[str, int]
    failures: dict[str, int]
    unfinished: int
    losses: tuple[Loss, ...]
    late_s: float
    """How far the generator itself fell behind at worst."""
    waited: int = 0
    """Queries that had to wait for a connection, out of the server's sight: above 0 the loop was not quite open."""

    @property
    def failed(self) -> int:
        """Queries without an answer, or with another status than 200."""
        return sum(self.failures.values()) + self.unfinished

    @property
    def asked(self) -> int:
        """All queries after the warm-up."""
        return len(self.latency_s) + self.failed

    @property
    def is_default(self) -> NDArray[np.bool_]:
        """Which answers are default outputs."""
        return self.default_number > 0

    def explained(self, explanation: str) -> NDArray[np.bool_]:
        """Return which answers are default outputs whose explanation holds a text."""
        numbers = [number for number, text in enumerate(self.defaults, 1) if explanation in text]
        return np.isin(self.default_number, numbers)

    def good(self, slo_s: float) -> int:
        """Return how many queries got a prediction within the SLO."""
        return int(((self.latency_s <= slo_s) & ~self.is_default).sum())

    def share_good(self, slo_s: float) -> float:
        """Return the share of all queries that got a prediction within the SLO."""
        return self.good(slo_s) / max(1, self.asked)

    def latency_ms(self, percent: float, of: NDArray[np.bool_] | None = None) -> float:
        """Return a percentile (100: the maximum) of the answers' latencies, or of some of them; NaN of none."""
        chosen = self.latency_s if of is None else self.latency_s[of]
        return float(np.percentile(chosen, percent, method="inverted_cdf")) * 1000 if len(chosen) else float("nan")


def plan_load(port: int, app: str, rate: float, seconds: float, **settings: Any) -> LoadPlan:
    """Return a run of ten floats a query against an application of a daemon on this host."""
    return LoadPlan("127.0.0.1", port, f"/{app}/predict", [BODY], rate, seconds, **settings)


class Offer:
    """Load in progress: a process for each plan, which ends with this one."""

    def __init__(self, plans: Sequence[LoadPlan]) -> None:
        self._plans = plans
        self._folder = tempfile.TemporaryDirectory(prefix="clipperfs-load-")
        self._results = [Path(self._folder.name) / f"{number}.npz" for number in range(len(plans))]
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Offer:
        for plan, result in zip(self._plans, self._results, strict=True):
            command = [sys.executable, "-m", "benchmarks.open_loop", str(result)]
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._processes.append(process)
            assert process.stdin is not None
            process.stdin.write(_to_json(plan))
            process.stdin.close()
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError("the load generator did not start")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self._folder.cleanup()

    @property
    def is_over(self) -> bool:
        """Whether every process has ended."""
        return all(process.poll() is not None for process in self._processes)

    def answers(self) -> list[Answers]:
        """Wait for the end and return what came of each plan."""
        for plan, process in zip(self._plans, self._processes, strict=True):
            if process.wait(timeout=plan.warm_up_s + plan.seconds + plan.timeout_s + 30) != 0:
                raise RuntimeError("the load generator failed")
        return [_read(plan, result) for plan, result in zip(self._plans, self._results, strict=True)]


def offer(*plans: LoadPlan) -> list[Answers]:
    """Run plans side by side to their end."""
    with Offer(plans) as running:
        return running.answers()


def find_capacity(try_rate: Callable[[float], bool], first: float, *, steps: int = 4) -> float:
    """Return the highest rate that is known to be borne: doubled until one is not, then halved in between.

    Args:
        try_rate: Whether a rate is borne. One that is not is tried again: a hiccup of the machine is no limit.
        first: Where to begin; returned halved until one is borne.
        steps: How often the interval is halved.
    """

    def is_borne(rate: float) -> bool:
        return try_rate(rate) or try_rate(rate)

    low, high = 0.0, first
    while low == 0.0 and high >= 1.0:
        if is_borne(high):
            low = high
        else:
            high /= 2
    if low == 0.0:
        raise RuntimeError("not even one query a second is answered in time")
    if low == first:
        high = low * 2
        while is_borne(high) and high < 100_000:
            low, high = high, high * 2
    else:
        high = low * 2
    for _ in range(steps):
        middle = (low + high) / 2
        if is_borne(middle):
            low = middle
        else:
            high = middle
    return low


def _to_json(plan: LoadPlan) -> bytes:
    fields = {name: getattr(plan, name) for name in plan.__slots__}
    return json.dumps(fields | {"bodies": [body.decode() for body in plan.bodies]}).encode()


def _from_json(data: bytes) -> LoadPlan:
    fields = json.loads(data)
    return LoadPlan(**fields | {"bodies": [body.encode() for body in fields["bodies"]]})


def _read(plan: LoadPlan, result: Path) -> Answers:
    with np.load(result) as arrays:
        rest = json.loads(arrays["rest"].tobytes())
        return Answers(
            rate=plan.rate,
            seconds=plan.seconds,
            due_s=arrays["due_s"] + rest["start_s"],
            latency_s=arrays["latency_s"],
            default_number=arrays["default_number"],
            defaults=rest["defaults"],
            failures=rest["failures"],
            unfinished=rest["unfinished"],
            losses=tuple(Loss(rest["start_s"] + at_s, had_query, number) for at_s, had_query, number in rest["losses"]),
            late_s=rest["late_s"],
            waited=rest["waited"],
        )


def _query_id(body: bytes) -> int | None:
    try:
        number = json.loads(body)["query_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return int(number)


def main() -> None:
    """Run one plan."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the benchmark
    plan = _from_json(sys.stdin.buffer.read())
    print("ready", flush=True)
    sample = run_load(plan)
    rest = {
        "start_s": sample.start_s,
        "defaults": sample.defaults,
        "failures": sample.failures,
        "unfinished": sample.unfinished,
        "losses": [(loss.at_s, loss.had_query, _query_id(loss.last_answer)) for loss in sample.losses],
        "late_s": sample.late_s,
        "waited": sample.waited,
    }
    np.savez(
        sys.argv[1],
        due_s=np.array(sample.due_s),
        latency_s=np.array(sample.latency_s),
        default_number=np.frombuffer(bytes(sample.default_number), dtype=np.uint8),
        rest=np.frombuffer(json.dumps(rest).encode(), dtype=np.uint8),
    )


if __name__ == "__main__":
    main()
