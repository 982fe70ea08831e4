"""Open-loop clients that keep every reply's time, version and whether it was one version's whole answer.

Run as ``python -m benchmarks.steady_clients HOST PORT PATH RATE RESULT_FILE``: prints ``ready``, sends RATE queries a
second until INT, then writes the replies as arrays. Three queries of four have one input, the fourth a batch of four.
Times are CLOCK_MONOTONIC, the same in all processes of a machine. The models answer with their own version's name.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from pathlib import Path

import numpy as np

from benchmarks.clients import ANSWERED, DEFAULTED, FAILED
from clipperfs.bench import LoadPlan, Reply, run_load

MIXED = 3
"""A reply of which a part comes from another version than its header says."""
LONGEST_RUN_S = 3600.0
CONNECTIONS = 64
INPUT = [0.5] * 10


class Replies:
    """All replies so far."""

    def __init__(self) -> None:
        self.due_s: list[float] = []
        self.latency_s: list[float] = []
        self.outcome: list[int] = []
        self.version: list[str] = []

    def add(self, reply: Reply) -> None:
        """Keep a reply that has just come."""
        self.due_s.append(reply.due_s)
        self.latency_s.append(reply.latency_s)
        self.outcome.append(judge(reply))
        self.version.append(reply.version)

    def save(self, path: Path, lost: int, late_s: float) -> None:
        """Write everything as one .npz file, with how many queries had no reply and how late the generator was."""
        np.savez(
            path,
            due_s=np.array(self.due_s),
            latency_s=np.array(self.latency_s),
            outcome=np.array(self.outcome, dtype=np.int8),
            version=np.array(self.version, dtype="U64"),
            lost=np.array(lost),
            late_s=np.array(late_s),
        )


def judge(reply: Reply) -> int:
    """Say what a reply is: the answer of the version that its header names, whole, or something else."""
    if reply.status != 200:
        return FAILED
    document = json.loads(reply.body)
    answers = document.get("batch_predictions", [document])
    if any(answer.get("default") for answer in answers):
        return DEFAULTED
    return ANSWERED if all(str(answer.get("output")) == reply.version for answer in answers) else MIXED


def main() -> None:
    """Run the clients until INT."""
    host, port, path, rate, result = sys.argv[1:]
    one, batch = json.dumps({"input": INPUT}).encode(), json.dumps({"input_batch": [INPUT] * 4}).encode()
    plan = LoadPlan(
        host=host,
        port=int(port),
        path=path,
        bodies=[one, one, one, batch],
        rate=float(rate),
        seconds=LONGEST_RUN_S,
        warm_up_s=0.0,
        connections=CONNECTIONS,
    )
    replies = Replies()
    print("ready", flush=True)
    sample = run_load(plan, on_reply=replies.add)
    lost = sum(sample.failures.values()) - replies.outcome.count(FAILED)
    replies.save(Path(result), lost, sample.late_s)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the benchmark
    main()
