"""Runs the hooks of a request in a child process, holds each to its time limit, and keeps every verdict."""

from __future__ import annotations

from clipperfs.checking.request import CheckRequest
from clipperfs.documents import Verdict


def run_hooks(request: CheckRequest) -> list[Verdict]:
    """Run all hooks of ``request`` in order and return all their verdicts in that order.

    Whatever a hook does, a verdict comes back for it: ``timeout`` when it takes longer than its limit (its processes
    are killed), ``error`` when it raises, dies or answers nonsense. After the run the copies of the candidate and of the active version are
    compared with what they were; a change adds a refusal of the pseudo hook ``unchanged``.

    Guarantees: blocking; no process that was started survives the call, also when it is interrupted.
    """
    raise NotImplementedError
