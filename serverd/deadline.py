"""The timer of the deadlines: what has no answer when its time is up gets the default output."""

from __future__ import annotations

import asyncio
from time import monotonic

from .lease import Leases
from .outbox import Outbox
from .pending import DeadlineLanes, Query
from .routing import SLO_MISSED
from .served import DEADLINE_RESERVE_S
from .slow import SlowLog


class Deadlines:
    """Watches every unanswered query of a frontend with one timer.

    Guarantees: a query that is watched is answered at the latest at its deadline.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, leases: Leases, outbox: Outbox, slow: SlowLog) -> None:
        self.lanes = DeadlineLanes()
        self.timer_at = float("inf")
        """The deadline that the timer is set to. Who watches an earlier one must ``arm``."""
        self._timer: asyncio.TimerHandle | None = None
        self._loop = loop
        self._leases = leases
        self._outbox = outbox
        self._slow = slow

    def close(self) -> None:
        """Let go of the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def watch(self, query: Query) -> None:
        """Watch a query."""
        query.owner.deadlines.append(query)
        if query.deadline < self.timer_at:
            self.arm(query.deadline)

    def arm(self, deadline: float) -> None:
        """Set the timer to the earliest deadline of all."""
        if self._timer is not None:
            self._timer.cancel()
        self.timer_at = deadline
        delay_s = deadline - DEADLINE_RESERVE_S - monotonic()
        self._timer = self._loop.call_later(max(0.0, delay_s), self._expire)

    def _expire(self) -> None:
        self._timer = None
        self.timer_at = float("inf")
        due, earliest = self.lanes.pop_due(monotonic() + DEADLINE_RESERVE_S)
        if due:
            self._slow.note_missed(due, monotonic(), self._outbox.batches.values())
        for query in reversed(due):  # a query's followers before itself: else each would take its place for a moment
            self._leases.settle_default(query, "slo", SLO_MISSED, monotonic())
        for version in {id(query.version): query.version for query in due}.values():
            version.queue.drop_settled()
        if earliest is not None:
            self.arm(earliest)
