"""Turns: only so many loads go on at once, so that fifty models at start-up do not trample on each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

AT_LEAST = 4
"""Loads that wait for a disk or a network need no core; some of them must not keep all others waiting."""


def turns_at_once(cores: int) -> int:
    """Return how many loads may go on at once on a host with so many cores. Pure."""
    return max(AT_LEAST, cores)


class Turn:
    """One load's turn: it waits, then it is here, then it is over."""

    def __init__(self, turns: Turns, go: Callable[[Turn], None], is_urgent: bool) -> None:
        self._turns = turns
        self.go = go
        self.is_urgent = is_urgent
        self.is_here = False

    def end(self) -> None:
        """Make room for the next one, whether the turn was here or not. Idempotent."""
        self._turns.end(self)


class Turns:
    """Who may load now. First come, first served; what is urgent has as many places again, for itself.

    Args:
        at_once: how many turns are here at once, in each of the two lanes.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self._here: dict[bool, set[Turn]] = {False: set(), True: set()}
        self._waiting: dict[bool, deque[Turn]] = {False: deque(), True: deque()}

    def ask(self, go: Callable[[Turn], None], *, is_urgent: bool = False) -> Turn:
        """Have ``go`` called with the turn when it is here: now, if there is room."""
        turn = Turn(self, go, is_urgent)
        self._waiting[is_urgent].append(turn)
        self._advance(is_urgent)
        return turn

    def end(self, turn: Turn) -> None:
        """End a turn. Idempotent."""
        self._here[turn.is_urgent].discard(turn)
        if turn in self._waiting[turn.is_urgent]:
            self._waiting[turn.is_urgent].remove(turn)
        self._advance(turn.is_urgent)

    def _advance(self, is_urgent: bool) -> None:
        here, waiting = self._here[is_urgent], self._waiting[is_urgent]
        while waiting and len(here) < self.at_once:
            turn = waiting.popleft()
            here.add(turn)
            turn.is_here = True
            turn.go(turn)
