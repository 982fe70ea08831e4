"""When a frontend's loop looks for answers before it sleeps."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from clipperfs.serverd import lookout
from clipperfs.serverd.lookout import LOOK_S, Lookout

from clipperfs.patience import MOST_CREDIT, TRY_AGAIN


class Turns:
    """A loop whose turns take 10 µs each, and a clock that they move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def run(self, answered: Callable[[], None] | None = None, after_s: float = 1.0) -> int:
        """Take turns until nobody asks for one; return how many. Something may happen after a time."""
        began, count = self.now, 0
        while self.calls:
            if answered is not None and self.now - began >= after_s:
                answered()
                answered = None
            calls, self.calls = self.calls, []
            for call in calls:
                call()
            self.now += 10e-6
            count += 1
            assert count < 1000, "it looks for ever"
        return count


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    turns = Turns()
    monkeypatch.setattr(lookout, "monotonic", lambda: turns.now)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    return turns


def ask(turns: Turns, looking: Lookout, out: dict[int, Any], after_s: float) -> int:
    """Send a batch that is answered after a time; return how many turns the loop took without a sleep."""

    def answered() -> None:
        looking.heard()
        out.clear()

    out[1] = "a batch"
    looking.sent(turns.now)
    count = turns.run(answered, after_s)
    if out:  # answered while the loop slept
        answered()
    turns.now += 1e-3
    return count


def test_answers_that_come_at_once_are_looked_for_each_time(turns: Turns) -> None:
    out: dict[int, Any] = {}
    looking = Lookout(turns, out)  # type: ignore[arg-type]
    counts = [ask(turns, looking, out, 50e-6) for _ in range(TRY_AGAIN + 100)]
    assert all(5 <= count <= 8 for count in counts[TRY_AGAIN:]), counts


def test_answers_that_take_long_are_hardly_looked_for(turns: Turns) -> None:
    out: dict[int, Any] = {}
    looking = Lookout(turns, out)  # type: ignore[arg-type]
    for _ in range(TRY_AGAIN + 100):
        ask(turns, looking, out, 50e-6)
    counts = [ask(turns, looking, out, 2 * LOOK_S) for _ in range(MOST_CREDIT + 10 * TRY_AGAIN)]
    assert sum(count > 0 for count in counts) <= MOST_CREDIT // 2 + 10


def test_batches_that_follow_each_other_are_one_look_and_it_ends(turns: Turns) -> None:
    out: dict[int, Any] = {1: "never answered"}
    looking = Lookout(turns, out)  # type: ignore[arg-type]
    for _ in range(TRY_AGAIN):
        looking.sent(turns.now)
        assert len(turns.calls) <= 1
    assert turns.run() <= LOOK_S / 10e-6 + 2


def test_single_core_is_left_to_the_replicas(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    out: dict[int, Any] = {1: "a batch"}
    looking = Lookout(turns, out)  # type: ignore[arg-type]
    for _ in range(10 * TRY_AGAIN):
        looking.sent(turns.now)
    assert turns.calls == []
