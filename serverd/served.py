"""One served version in a frontend: its queue, its replicas, the batches that are out, and the count of its leases."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from clipperfs import wire

from .batch_limit import BASE_FACTOR, CROWDED_SHARE, SLO_SHARE, BatchLimit
from .batching import MAX_QUEUED, DeadlineQueue, bearable_rows
from .cache import cache_prefix
from .counters import VersionCounter
from .hedging import Pace
from .latency_model import LatencyModel
from .pending import Query
from .query import reply_head
from .routing import VersionRoute

DEPTH: Final = 2
"""Batches that are out to one replica at most: one is predicted while the next is on its way."""
SMOOTHING: Final = 0.2
"""The weight of a new measurement of a version's predict time."""
NEVER: Final = float("-inf")
"""Before all times."""
SHARE_RISE: Final = 1 / 4
SHARE_FALL: Final = 1 / 32
"""The weight of a batch that came back later than the share says, and of one that came sooner: nearly all should be in
time, not half of them."""
CROWDED_AT: Final = 0.05
"""The part of all queries that is refused from which a version is held to be crowded."""
REFUSED_SMOOTHING: Final = 1 / 16
"""The weight of a batch in that part."""
MOST_REFUSED: Final = 0.5
"""The part of a batch that counts at most: one stall, in which hundreds are refused, does not make a crowd."""
CALM_AFTER: Final = 16
"""Batches in a row without a query refused after which a version is crowded no more."""
DEADLINE_RESERVE_S: Final = 0.001
"""How much before its deadline a query is given up, so that the default output arrives in time."""
LEAD_S: Final = 0.001
"""How long before a batch should end the next one goes to the same replica."""
SHORT_S: Final = 0.002
"""Under this predict time the way costs as much as predicting, and a second batch at a replica is worth it at any time.
Above it, waiting makes fuller batches: 29 % more answers a second where a batch costs 3 ms however full it is (measured
with 32 clients)."""

WAY_S: Final = 0.0001
"""What a batch costs beside its predicting, about: two messages, and two processes that are woken up."""
HERE_S: Final = 30e-6
"""What a query costs this process, about."""
LONGEST_PART_S: Final = 0.01
"""Longer parts are not sent ahead: what this process has to do meanwhile is little beside them, and a query that still
waits here can go elsewhere, or be given up."""

TEXT_S: Final = 20e-6
"""A model that takes less than this for a query has its replicas read long lists of numbers. Without reading them, a
frontend spends some 30 µs on such a query and a replica, beside the model, 10 (measured): a cheaper model leaves the
replica the less busy of the two, a dearer one has nothing to give away."""


class Replica:
    """One replica as this frontend sees it."""

    __slots__ = (
        "batches",
        "has_spoken",
        "heard_before",
        "identity",
        "is_reachable",
        "last_heard",
        "lost_at",
        "sent_at",
        "sent_rows",
        "text_peers",
        "version",
    )

    def __init__(self, identity: bytes, version: ServedVersion) -> None:
        self.identity = identity
        self.version = version
        self.batches = 0
        self.is_reachable = True
        """False after a send that failed, until it speaks or is tried again."""
        self.has_spoken = False
        """Since it was last reported as lost, if it was."""
        self.last_heard = self.heard_before = 0.0
        """When it gave the outputs, or the fault, of a batch last, and the time before that."""
        self.lost_at = NEVER
        """When its lane ended: most likely it has died, and the next table will not name it."""
        self.sent_at = 0.0
        self.sent_rows = 0
        """Of the batch that went there last."""
        self.text_peers = 0
        """How many frontends share it, if it can read texts; 0: it cannot."""


class Batch:
    """Queries that are out to one replica together."""

    __slots__ = ("is_hanging", "is_paired", "is_text", "queries", "replica", "sent_at", "twin", "version")

    def __init__(self, version: ServedVersion, replica: Replica, queries: list[Query], sent_at: float) -> None:
        self.version = version
        self.replica = replica
        self.queries = queries
        self.sent_at = sent_at
        self.is_hanging = False
        self.is_text = False
        """Whether it went out as texts: its outputs then say which of them could be read."""
        self.twin: Batch | None = None
        """The same queries, out to another replica."""
        self.is_paired = False
        """Whether it has, or had, a twin."""

    def pair(self, twin: Batch) -> None:
        """Have two batches of the same queries know each other: the first to come back counts."""
        self.twin, twin.twin = twin, self
        self.is_paired = twin.is_paired = True

    def leave_to_twin(self) -> bool:
        """End this batch's part. Returns whether a twin is still out with its queries."""
        twin, self.twin = self.twin, None
        if twin is None:
            return False
        twin.twin = None
        return True


class ServedVersion:
    """One load of a version: its queue, its replicas and the queries that lease it (``live``)."""

    __slots__ = (
        "asked",
        "batch_limit",
        "bearable",
        "cache_prefix",
        "calm_batches",
        "cost",
        "counter",
        "delay_timer",
        "element_bytes",
        "faults_in_row",
        "frontends",
        "has_texts",
        "input_code",
        "is_crowded",
        "is_dirty",
        "is_leaving",
        "late_before",
        "live",
        "model",
        "model_s",
        "name",
        "pace",
        "part",
        "predict_s",
        "queue",
        "reads_texts",
        "refused",
        "refused_share",
        "replicas",
        "reply_head",
        "retries",
        "route",
        "rows",
        "share",
        "slo_s",
        "slow_at",
        "takes_texts",
        "text_code",
        "uses_cache",
    )

    def __init__(self, model: str, name: str, route: VersionRoute, counter: VersionCounter) -> None:
        self.model = model
        self.name = name
        self.counter = counter
        self.replicas: list[Replica] = []
        self.queue = DeadlineQueue()
        self.retries: deque[list[Query]] = deque()
        """Batches that go out again as they are."""
        self.asked: dict[bytes, Query] = {}
        """The unanswered query for each key of the cache: equal ones follow it."""
        self.bearable = MAX_QUEUED
        """Queries that may wait; more would not be answered in time."""
        self.refused = 0
        """Queries that were, since the last batch came back."""
        self.refused_share = 0.0
        self.calm_batches = 0
        """Batches in a row, up to the last, without a query refused."""
        self.slow_at = NEVER
        """When a batch last took longer than any may."""
        self.is_crowded = False
        """Whether more is asked than can be answered."""
        self.cost = LatencyModel()
        self.batch_limit = BatchLimit(route.max_batch, route.fixed_batch)
        self.frontends = 1
        """The frontends that share the replicas, this one included."""
        self.share = 1.0
        """How many times as long as predicting it takes until a batch has come back: others' batches go before it."""
        self.late_before = NEVER
        """Queries with earlier deadlines would come too late: others' batches go before theirs."""
        self.slo_s = 0.0
        """The shortest SLO of the applications that this version answers."""
        self.follow(route)
        self.predict_s = 0.0
        """The smoothed time that predicting a batch takes."""
        self.model_s = 0.0
        self.rows = 0.0
        """The smoothed time of a batch without the reading of texts, and its queries, while ``reads_texts``."""
        self.reads_texts = False
        """Whether its replicas can read texts, and are as many as the frontends that share them."""
        self.takes_texts = False
        """Whether they should, now."""
        self.has_texts = False
        """Whether it ever had a query with a text."""
        self.pace = Pace()
        self.live = 0
        self.is_dirty = False
        self.is_leaving = False
        self.faults_in_row = 0
        self.delay_timer: asyncio.TimerHandle | None = None
        self.part = 0
        """What ``find_part`` found when queries last waited."""
        self.reply_head = reply_head(name)
        self.uses_cache = False

    def follow(self, route: VersionRoute) -> None:
        """Take on a new table's settings (the replicas are ``TableFollower``'s matter)."""
        self.route = route
        self.batch_limit.set_bounds(route.max_batch, route.fixed_batch)
        if route.warm_up and not self.cost.batches:  # the first tables name a version while it loads
            self.cost.learn_warm_up(route.warm_up)
            self.batch_limit.start(self.cost.largest_within(self.budget_s))
        self.cache_prefix = cache_prefix(route.manifest, route.settings, route.input_type)
        self.element_bytes = wire.ELEMENT_BYTES.get(route.input_type, 1)
        self.text_code = wire.TEXT_CODES.get(route.input_type, -1)
        self.input_code = wire.INPUT_TYPES.index(route.input_type) if route.input_type in wire.INPUT_TYPES else -1

    @property
    def budget_s(self) -> float:
        """How long predicting a batch may take."""
        return max(self.slo_s * SLO_SHARE / self.share, min(self.slo_s, BASE_FACTOR * self.cost.middle_s(1)))

    def takes_s(self, rows: int) -> float:
        """Return how long a batch that goes to an idle replica takes usually; 0 while nothing is known.

        Idle as far as this frontend knows: others' batches are what ``share`` is about.
        """
        return self.cost.middle_s(rows) * self.share

    def follow_slo(self, slo_s: float) -> None:
        """Take on the shortest SLO of the applications. A new one starts the limit at what should meet it."""
        if slo_s != self.slo_s:
            self.slo_s = slo_s
            self.batch_limit.start(self.cost.largest_within(self.budget_s))

    def follow_readers(self) -> None:
        """Decide anew whether the replicas read: they, or the cache, whose keys are packed inputs, have changed.

        Fewer replicas than frontends would be the first to be busy.
        """
        count = len(self.replicas)
        self.reads_texts = (
            count > 0
            and not self.uses_cache
            and self.text_code >= 0
            and all(0 < replica.text_peers <= count for replica in self.replicas)
        )
        self.takes_texts = self.reads_texts and self.model_s < TEXT_S * self.rows

    def learn_share(self, replica: Replica, sent_at: float, predict_s: float) -> None:
        """Learn from a batch that came back how much of a replica is others'."""
        if self.frontends > 1 and predict_s > 0.0:
            took_s = replica.last_heard - max(sent_at, replica.heard_before)
            share = min(float(self.frontends), max(1.0, took_s / predict_s))
            self.share += (share - self.share) * (SHARE_RISE if share > self.share else SHARE_FALL)

    def learn(self, queries: list[Query], sent_at: float, now: float, predict_s: float, read_s: float = 0.0) -> None:
        """Learn from a batch that came back: what batches cost, how large they may be, and how many queries may wait.

        While batches still grow, nobody knows how many could be answered.

        Args:
            queries: The queries in it.
            sent_at: When it was sent, in seconds.
            now: The same clock now.
            predict_s: How long predicting it took.
            read_s: How much of that went by while texts were read.
        """
        rows = len(queries)
        limit = self.batch_limit
        budget_s = self.budget_s
        self.predict_s += (predict_s - self.predict_s) * SMOOTHING
        if self.reads_texts:
            self.model_s += (predict_s - read_s - self.model_s) * SMOOTHING
            self.rows += (rows - self.rows) * SMOOTHING
            self.takes_texts = self.model_s < TEXT_S * self.rows
        self.cost.observe(rows, predict_s)
        share = min(MOST_REFUSED, self.refused / (self.refused + rows))
        self.refused_share += (share - self.refused_share) * REFUSED_SMOOTHING
        self.calm_batches = 0 if self.refused else self.calm_batches + 1
        self.refused = 0
        if not self.is_crowded and self.refused_share > CROWDED_AT:
            self.is_crowded = True
            limit.look_again()
        elif self.is_crowded and self.calm_batches >= CALM_AFTER:
            self.is_crowded = False
            self.refused_share = 0.0
            limit.keep_within(now, budget_s)
        most_s, in_time = 0.0, 1.0
        if self.is_crowded:
            most_s = self.slo_s * CROWDED_SHARE / self.share
            if predict_s > most_s:
                self.slow_at = now
            elif predict_s > budget_s and now > self.slow_at + 2 * self.slo_s:  # else that one made them late
                in_time = _part_in_time(queries, now)
        limit.observe(rows, sent_at, now, predict_s, budget_s, most_s, in_time)
        if limit.is_growing:
            self.bearable = MAX_QUEUED
        else:
            self.bearable = bearable_rows(
                limit.limit,
                self.takes_s(limit.limit),
                len(self.replicas),
                self.slo_s,
                is_crowded=self.is_crowded,
            )

    def find_part(self) -> int:
        """Return how many queries go together though more may wait, so that each replica has some while others are on
        their way; 0: queries are not parted.

        Clients that ask again and again would else wait for one batch all together, and then all for this process: it
        and the replica would stand still in turns. What can go on side by side must be worth one more batch. Where so
        many wait that there is always a full one, nobody stands still.
        """
        route, cost = self.route, self.cost
        rows = -(-self.live // (DEPTH * max(1, len(self.replicas))))
        if rows >= self.batch_limit.limit or route.fixed_batch is not None or route.batch_delay_ms:
            return 0
        if not cost.is_shaped or cost.row_s * rows > LONGEST_PART_S:
            return 0
        return rows if max(0.0, cost.base_s) + WAY_S <= min(cost.row_s, HERE_S) * rows else 0

    def pick_replica(self) -> Replica | None:
        """Return the reachable replica with the fewest batches out, or None when each has enough.

        Where queries are parted, a second one goes to a replica once it has a whole part: smaller ones would cost as
        much each, and leave less for those after them.
        """
        best = None
        has_part = self.queue.rows >= self.part or len(self.retries) > 0
        may_be_second = has_part if self.part else self.predict_s < SHORT_S
        fewest = DEPTH if may_be_second else 1
        for replica in self.replicas:
            if replica.batches < fewest and replica.is_reachable:
                best, fewest = replica, replica.batches
        return best

    def pick_ending(self, now: float) -> tuple[Replica | None, float]:
        """Return the reachable replica whose only batch ends first, and in how many seconds it should.

        A full batch that goes there a moment before keeps it busy; one that goes earlier would only be filled with
        queries that are older by then.
        """
        best, least_s = None, float("inf")
        for replica in self.replicas:
            if replica.batches == 1 and replica.is_reachable:
                left_s = self.free_in(replica, now)
                if left_s < least_s:
                    best, least_s = replica, left_s
        return best, least_s

    def free_in(self, replica: Replica, now: float) -> float:
        """Return in how many seconds a replica should have answered its batch; 0 when it has none or is late."""
        if not replica.batches:
            return 0.0
        began = max(replica.sent_at, replica.last_heard)
        return max(0.0, began + self.takes_s(replica.sent_rows) - now)

    def look_ahead(self, now: float) -> None:
        """Find which queries could not be answered in time if they came now, where replicas are shared.

        With none but this frontend's batches at a replica, ``bearable`` says so. With others' between them those that
        wait longest would be too late when their turn comes, and so would all behind them: they had better never wait.
        """
        if self.frontends == 1:
            return
        self.late_before = NEVER
        if self.is_crowded:
            free_in_s = min((self.free_in(one, now) for one in self.replicas if one.is_reachable), default=0.0)
            if free_in_s > 0.0:  # an estimate must not keep an idle replica from trying
                self.late_before = now + free_in_s + self.takes_s(self.batch_limit.limit)

    def pick_second(self, late: Batch) -> Replica | None:
        """Return a reachable replica that should answer a late batch sooner; None when there is none.

        One that is busy will do if it has answered since: under load none is ever idle. Late batches are few, so that
        one more than ``DEPTH`` may be out to it.
        """
        best = None
        for replica in self.replicas:
            if replica is late.replica or not replica.is_reachable or replica.batches > DEPTH:
                continue
            if replica.batches and replica.last_heard <= late.sent_at:
                continue
            if best is None or replica.batches < best.batches:
                best = replica
        return best


def _part_in_time(queries: list[Query], now: float) -> float:
    """Return the part of a batch's queries that were not given up before it came back."""
    late = 0
    for query in queries:
        if query.deadline < now + DEADLINE_RESERVE_S:
            late += 1
    return 1.0 - late / len(queries)
