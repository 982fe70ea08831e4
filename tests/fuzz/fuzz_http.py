"""Fuzzes the query port's HTTP side: ``python -m tests.fuzz.fuzz_http --help``."""

from __future__ import annotations

from random import Random

from tests.fuzz.driver import instrumented, run

with instrumented("clipperfs.serverd"):
    from tests.fuzz.judge import PLAN_BYTES, judge
    from tests.fuzz.site import Site

from tests.fuzz import grammar

SITE = Site()


def check(data: bytes) -> None:
    """Raise for an input that breaks a promise."""
    judge(SITE, data)


def make(random: Random) -> bytes:
    """Return a plan and a stream."""
    return random.randbytes(PLAN_BYTES) + grammar.make_stream(random)


def change(data: bytes, random: Random) -> bytes:
    """Change the plan or the stream."""
    plan, stream = data[:PLAN_BYTES], data[PLAN_BYTES:]
    if random.random() < 0.3:
        plan = random.randbytes(PLAN_BYTES)
    return plan + grammar.change(stream, random)


if __name__ == "__main__":
    run(check, make, change)
