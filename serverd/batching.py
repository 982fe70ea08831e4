"""Which waiting queries go into a batch, and how many may wait: a version's deadline-ordered queue. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .pending import Query

WAIT_SHARE: Final = 0.9
"""The part of an SLO in which a query should have its output: one that would take longer is refused when it comes."""
BATCHES_AHEAD: Final = 1
"""Batches that a query may find at a replica before those that wait with it."""
MAX_QUEUED: Final = 16_384
"""Queries that may wait for a version in one frontend."""
MAX_QUEUED_BYTES: Final = 256 * 1024 * 1024
MAX_BATCH_BYTES: Final = 64 * 1024 * 1024
"""A batch ends before the input that would take it over this, unless it is the first."""


def bearable_rows(limit: int, predict_s: float, replicas: int, slo_s: float, *, is_crowded: bool) -> int:
    """Return how many queries may wait so that the last of them can still be answered within its SLO.

    While a version is crowded, that holds even where the replica has only just begun: there are others to fill the
    batch with. Else half a round more may wait, which is in time unless the replica has begun in the last moment.

    Args:
        limit: The most queries in a batch.
        predict_s: How long predicting a batch takes.
        replicas: Replicas that predict side by side.
        slo_s: The SLO.
        is_crowded: Whether more is asked than can be answered.
    """
    if predict_s <= 0.0:
        return MAX_QUEUED
    round_rows = limit * max(1, replicas)
    rounds = int(WAIT_SHARE * slo_s / predict_s) - BATCHES_AHEAD
    return min(MAX_QUEUED, max(1, rounds) * round_rows + (0 if is_crowded else round_rows // 2))


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

    def latest_start(self, delay_s: float, needed_s: float) -> float:
        """Return until when a batch may wait for company; infinity when no query waits.

        Args:
            delay_s: How long a query may be kept waiting for others.
            needed_s: How much of its time each query must have left.
        """
        heads = [lane[0] for lane in self.lanes.values() if lane]
        return min((min(one.arrived + delay_s, one.deadline - needed_s) for one in heads), default=float("inf"))

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
            if self.rows <= limit and self.size_bytes <= MAX_BATCH_BYTES:
                return self._empty(lanes[0])
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

    def _empty(self, lane: deque[Query]) -> tuple[list[Query], list[Query]]:
        """Return what ``take`` does where all that waits is in one lane and fits: the usual case, so the quick one."""
        waiting = [query for query in lane if not query.is_done]
        lane.clear()
        self.rows = self.size_bytes = 0
        gone = [query for query in waiting if query.is_gone]
        return [query for query in waiting if not query.is_gone] if gone else waiting, gone

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
