"""How many queries go into a batch, and which first: the AIMD rule and a version's deadline-ordered queue. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .pending import Query

SLO_SHARE: Final = 0.3
"""The part of an application's SLO that predicting a batch may take: a query may wait for the batch before its own, and
its own behind another one at the replica."""
CUT: Final = 0.9
"""What is left of the limit after a batch that took too long. Source: Clipper (NSDI 2017), section 4.3.1."""
MAX_QUEUED: Final = 16_384
"""Queries that may wait for a version in one frontend."""
MAX_QUEUED_BYTES: Final = 256 * 1024 * 1024
MAX_BATCH_BYTES: Final = 64 * 1024 * 1024
"""A batch ends before the input that would take it over this, unless it is the first."""


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
    """The queries that wait for one version, the earliest deadline first.

    All queries under one SLO come in the order of their deadlines, so the queue is one FIFO for each SLO, and the next
    query is the one of the heads whose deadline is earliest.
    """

    __slots__ = ("lanes", "rows", "size_bytes")

    def __init__(self) -> None:
        self.lanes: dict[float, deque[Query]] = {}
        self.rows = 0
        self.size_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether a further query must be refused."""
        return self.rows >= MAX_QUEUED or self.size_bytes >= MAX_QUEUED_BYTES

    def put(self, query: Query, slo_s: float) -> None:
        """Add a query under an SLO."""
        lane = self.lanes.get(slo_s)
        if lane is None:
            lane = self.lanes[slo_s] = deque()
        lane.append(query)
        self.rows += 1
        self.size_bytes += len(query.packed)

    def drop_settled(self) -> None:
        """Forget the queries at the heads that have their answer (they have expired)."""
        for lane in self.lanes.values():
            while lane and lane[0].is_done:
                self.rows -= 1
                self.size_bytes -= len(lane.popleft().packed)

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
        size_bytes = 0
        while lanes and len(batch) < limit:
            lane = lanes[0] if len(lanes) == 1 else min(lanes, key=_head_deadline)
            query = lane[0]
            query_bytes = len(query.packed)
            if query.is_done:
                pass
            elif query.is_gone or (query.deadline < doomed_before and self.rows > limit):
                doomed.append(query)
            elif size_bytes + query_bytes > MAX_BATCH_BYTES and batch:
                break
            else:
                batch.append(query)
                size_bytes += query_bytes
            del lane[0]
            self.rows -= 1
            self.size_bytes -= query_bytes
            if not lane:
                lanes.remove(lane)
        return batch, doomed

    def take_all(self) -> list[Query]:
        """Return every query that still wants an answer; the queue is empty after that."""
        queries = [query for lane in self.lanes.values() for query in lane if not query.is_done]
        self.lanes.clear()
        self.rows = self.size_bytes = 0
        return queries


def _head_deadline(lane: deque[Query]) -> float:
    return lane[0].deadline
