"""How many queries go into a batch, and which first: the AIMD rule and a version's deadline-ordered queue. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .pending import Query

SLO_SHARE: Final = 0.4
"""The part of an application's SLO that predicting a batch may take: a query may wait for the batch before its own, and
its own behind another one at the replica."""
BASE_FACTOR: Final = 1.25
"""A batch may take so many times as long as a batch of one, whatever the SLO: where most of the cost does not depend on
the size, smaller batches would answer fewer queries and none of them sooner."""
WAIT_SHARE: Final = 0.9
"""The part of an SLO in which a query should have its output: one that would take longer is refused when it comes."""
BATCHES_AHEAD: Final = 1
"""Batches that a query may find at a replica before those that wait with it."""
CUT: Final = 0.9
"""What is left of the limit after a batch that took too long. Source: Clipper (NSDI 2017), section 4.3.1."""
ROOM: Final = 0.5
"""The part of its budget up to which a full batch says that the cost has fallen: twice the size would fit."""
STRIKES: Final = 2.5
FORGIVEN: Final = 31 / 32
"""A size that has been good is too large when more batches than this took too long; each that did not leaves this part
of the count, so that one in twenty is borne: Clipper's rule bears about ten divided by the limit."""
CALM_AT_ROOM: Final = 8
"""How many batches such a one counts for."""
LEAST_CALM: Final = 8
MOST_CALM: Final = 256
"""Full batches that pass before a size that has failed is tried again, at first and at most."""
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
    rounds = int(WAIT_SHARE * slo_s / predict_s) - BATCHES_AHEAD
    return min(MAX_QUEUED, max(1, rounds) * limit * max(1, replicas))


class BatchLimit:
    """The largest batch that is sent: it grows while full batches meet their budget, and falls when one does not.

    From its start it grows by 1, 2, 4, … a full batch, up to the first that takes too long. It goes back to what has
    been good, and halves the gap with each full batch until the two sizes are neighbours. There it stays for a while
    before it tries one more, and longer each time that fails: a cost that rises in steps would else be paid for again
    and again. A size that has been good is cut to nine tenths when a third batch takes too long soon after two others;
    two in a row cut it to what would have met the budget in proportion. Batches that were out together lower it once.

    Source: Clipper (NSDI 2017), section 4.3.1, for the additive increase and the cut; the search for a bound that is
    not known is that of Bentley and Yao, "An almost optimal algorithm for unbounded searching", IPL 5(3), 1976.
    """

    __slots__ = (
        "_calm", "_faults_in_row", "_good", "_hold", "_step", "_strikes", "_too_many", "ceiling", "fixed", "has_failed",
        "limit", "lowered_at",
    )  # fmt: skip

    def __init__(self, ceiling: int, fixed: int | None = None) -> None:
        self.lowered_at = float("-inf")
        self.has_failed = False
        self.limit = 1
        self._faults_in_row = 0
        self._strikes = 0.0
        """Batches of a good size that took too long nevertheless, fading."""
        self._good = 0
        """The largest batch that met its budget, as far as that still holds."""
        self._too_many = 0
        """The smallest batch that did not; 0: none is known."""
        self._step = 1
        self._calm = LEAST_CALM
        """Full batches to let pass before the next try."""
        self._hold = 0
        """How many of them are left."""
        self.set_bounds(ceiling, fixed)

    @property
    def is_growing(self) -> bool:
        """Whether it is still looking for the first batch that takes too long."""
        return not self.has_failed and self.fixed is None and self.limit < self.ceiling

    def set_bounds(self, ceiling: int, fixed: int | None = None) -> None:
        """Change what the limit never exceeds, or the size that it always has."""
        self.ceiling = max(1, ceiling)
        self.fixed = fixed
        self.limit = min(self.limit if fixed is None else fixed, self.ceiling)

    def start(self, rows: int) -> None:
        """Go on from a size that should meet the budget; nothing that was learned about sizes counts any more."""
        if self.fixed is None:
            self.limit = self._step = max(1, min(rows, self.ceiling))
            self.has_failed = False
            self._good = self._too_many = self._faults_in_row = self._hold = 0
            self._calm = LEAST_CALM
            self._strikes = 0.0

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
        if self.fixed is not None or sent_at < self.lowered_at:
            return
        if predict_s > budget_s:
            self._lower(size, int(size * budget_s / predict_s), now)
            return
        self._faults_in_row = 0
        self._strikes *= FORGIVEN
        if size < self.limit:
            return
        self._good = size
        if self._too_many:
            gap = self._too_many - size
            if gap > 1:
                self.limit = min(self.ceiling, size + gap // 2)
                return
            self._hold -= 1 if predict_s > ROOM * budget_s else CALM_AT_ROOM
            if self._hold > 0:
                return
            self._too_many = 0
            self._step = 1
        self.limit = min(self.ceiling, size + self._step)
        self._step = min(2 * self._step, self.limit)

    def _lower(self, size: int, fitting: int, now: float) -> None:
        """Take in that a batch took too long; ``fitting`` queries would not have, had each cost the same."""
        self._faults_in_row += 1
        is_probe = size >= self.limit and size > self._good
        calm = LEAST_CALM
        if is_probe:
            if size == self._good + 1:
                calm = min(2 * self._calm, MOST_CALM)
            limit = max(self._good, size // 2 if self._faults_in_row == 1 else min(size // 2, fitting))
        else:
            # One that is late where others were not was held up by something else: that says nothing of its size.
            self._strikes += 1.0
            if self._faults_in_row == 1 and (self._strikes < STRIKES or size < self.limit):
                return
            limit = int(self.limit * CUT) if self._faults_in_row == 1 else min(int(self.limit * CUT), fitting)
            self._good = 0
        self._too_many = max(size, self.limit)
        self.limit = max(1, limit)
        self._calm = self._hold = calm
        self._strikes = 0.0
        self._step = 1
        self.lowered_at = now
        self.has_failed = True


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
