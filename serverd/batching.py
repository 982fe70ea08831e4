"""How many queries go into a batch, and which first: the AIMD rule and a version's deadline-ordered queue. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .pending import Query

SLO_SHARE: Final = 0.3
"""The part of an application's SLO that predicting a batch may take: a query may wait for the batch before its own, and
its own behind another one at the replica."""
WAIT_SHARE: Final = 0.8
"""The part of its SLO after which a query should have its answer: one that would not is refused when it comes."""
AHEAD: Final = 2
"""Batches that a replica has taken already when a query joins the queue: one that it predicts, one on its way."""
CUT: Final = 0.9
"""What is left of the limit after a batch that took too long. Source: Clipper (NSDI 2017), section 4.3.1."""
MAX_QUEUED: Final = 16_384
"""Queries that may wait for a version in one frontend."""
MAX_QUEUED_BYTES: Final = 256 * 1024 * 1024
MAX_BATCH_BYTES: Final = 64 * 1024 * 1024
"""A batch ends before the input that would take it over this, unless it is the first."""


def bearable_rows(limit: int, predict_s: float, replicas: int, slo_s: float) -> int:
    """Return how many queries may wait so that the last of them is still answered within its SLO.

    Args:
        limit: The most queries in a batch.
        predict_s: How long predicting a batch takes.
        replicas: Replicas that predict side by side.
        slo_s: The SLO.
    """
    if predict_s <= 0.0:
        return MAX_QUEUED
    batches = WAIT_SHARE * slo_s / predict_s - AHEAD
    return min(MAX_QUEUED, max(limit * max(1, replicas), int(batches * limit * replicas)))


class BatchLimit:
    """The largest batch that is sent: additive increase, multiplicative decrease.

    A full batch that came back within its budget raises the limit: twice as much until the first one that did not, one
    more after that. A batch over its budget lowers it, once for all batches that were out at that moment.
    """

    __slots__ = ("ceiling", "is_doubling", "limit", "lowered_at")

    def __init__(self, ceiling: int) -> None:
        self.ceiling = max(1, ceiling)
        self.limit = 1
        self.is_doubling = True
        self.lowered_at = float("-inf")

    @property
    def is_growing(self) -> bool:
        """Whether it is still looking for the first batch that takes too long."""
        return self.is_doubling and self.limit < self.ceiling

    def set_ceiling(self, ceiling: int) -> None:
        """Change what the limit never exceeds."""
        self.ceiling = max(1, ceiling)
        self.limit = min(self.limit, self.ceiling)

    def observe(self, size: int, sent_at: float, now: float, predict_s: float, budget_s: float) -> None:
        """Learn from a batch that came back.

        Args:
            size: The number of queries in it.
            sent_at: When it was sent, in seconds.
            now: The same clock now.
            predict_s: How long predicting it took. Not the whole time until its outputs came: when this process lags
                behind its clients, smaller batches would only make it worse.
            budget_s: How long predicting may take.
        """
        if predict_s > budget_s:
            if sent_at >= self.lowered_at:
                self.limit = max(1, self.limit // 2 if self.is_doubling else int(self.limit * CUT))
                self.lowered_at = now
                self.is_doubling = False
        elif size >= self.limit < self.ceiling:
            self.limit = min(self.ceiling, self.limit * 2 if self.is_doubling else self.limit + 1)


class DeadlineQueue:
    """The queries that wait for one version, one FIFO for each application.

    An application's queries come in the order of their deadlines. While all that waits fits into a batch, the earliest
    deadline of all goes first; when more waits, every application that has queries gets an equal part of the batch
    before the rest goes by deadlines: one that asks for more than there is takes nothing from the others.
    """

    __slots__ = ("lanes", "rows", "size_bytes")

    def __init__(self) -> None:
        self.lanes: dict[str, deque[Query]] = {}
        self.rows = 0
        self.size_bytes = 0

    def put(self, query: Query, app: str) -> None:
        """Add a query of an application."""
        lane = self.lanes.get(app)
        if lane is None:
            lane = self.lanes[app] = deque()
        lane.append(query)
        self.rows += 1
        self.size_bytes += len(query.packed)

    def is_full_for(self, app: str, rows: int) -> bool:
        """Return whether a further query of an application must be refused where ``rows`` are bearable.

        An application that has less than its part waiting may go on, so that another cannot take all the places.
        """
        rows = min(rows, MAX_QUEUED)
        if self.rows < rows and self.size_bytes < MAX_QUEUED_BYTES:
            return False
        waiting = len(lane) if (lane := self.lanes.get(app)) else 0
        others = sum(1 for name, lane in self.lanes.items() if lane and name != app)
        return waiting * (others + 1) >= rows or self.size_bytes >= 2 * MAX_QUEUED_BYTES

    def drop_settled(self) -> None:
        """Forget the queries at the heads that have their answer (they have expired), and lanes that are empty."""
        for app, lane in list(self.lanes.items()):
            while lane and lane[0].is_done:
                self.rows -= 1
                self.size_bytes -= len(lane.popleft().packed)
            if not lane:
                del self.lanes[app]

    def oldest_arrival(self) -> float:
        """Return when the longest-waiting query came; infinity when none waits."""
        return min((lane[0].arrived for lane in self.lanes.values() if lane), default=float("inf"))

    def take(self, limit: int, doomed_before: float) -> tuple[list[Query], list[Query]]:
        """Return the next batch, and the queries that were passed over because they cannot make it any more.

        Args:
            limit: The most queries in the batch.
            doomed_before: A query whose deadline is earlier is passed over, but only while so many wait that the
                batch is full without it: an estimate must not keep an idle replica from trying.
        """
        batch: list[Query] = []
        doomed: list[Query] = []
        lanes = [lane for lane in self.lanes.values() if lane]
        if len(lanes) == 1:
            self._fill(batch, doomed, lanes[0], limit, limit, doomed_before, 0)
            return batch, doomed
        size_bytes = 0
        if self.rows > limit:
            lanes.sort(key=_head_deadline)
            share = max(1, limit // len(lanes))
            for lane in lanes:
                until = min(limit, len(batch) + share)
                size_bytes = self._fill(batch, doomed, lane, until, limit, doomed_before, size_bytes)
            lanes = [lane for lane in lanes if lane]
        while lanes and len(batch) < limit and size_bytes >= 0:
            lane = min(lanes, key=_head_deadline)
            size_bytes = self._fill(batch, doomed, lane, limit, limit, doomed_before, size_bytes, entries=1)
            if not lane:
                lanes.remove(lane)
        return batch, doomed

    def _fill(
        self,
        batch: list[Query],
        doomed: list[Query],
        lane: deque[Query],
        until: int,
        limit: int,
        doomed_before: float,
        size_bytes: int,
        entries: int = MAX_QUEUED * 2,
    ) -> int:
        """Move queries of one lane until the batch has ``until``, or so many entries are gone from the lane.

        Returns the batch's size in bytes, -1 when it has no room.
        """
        while lane and entries and len(batch) < until and size_bytes >= 0:
            entries -= 1
            query = lane[0]
            query_bytes = len(query.packed)
            if query.is_done:
                pass
            elif query.is_gone or (query.deadline < doomed_before and self.rows > limit):
                doomed.append(query)
            elif size_bytes + query_bytes > MAX_BATCH_BYTES and batch:
                return -1
            else:
                batch.append(query)
                size_bytes += query_bytes
            del lane[0]
            self.rows -= 1
            self.size_bytes -= query_bytes
        return size_bytes

    def take_all(self) -> list[Query]:
        """Return every query that still wants an answer; the queue is empty after that."""
        queries = [query for lane in self.lanes.values() for query in lane if not query.is_done]
        self.lanes.clear()
        self.rows = self.size_bytes = 0
        return queries


def _head_deadline(lane: deque[Query]) -> float:
    return lane[0].deadline
