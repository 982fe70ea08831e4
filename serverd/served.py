"""One served version in a frontend: its queue, its replicas, the batches that are out, and the count of its leases."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from clipperfs import wire

from .batching import MAX_QUEUED, BatchLimit, DeadlineQueue, bearable_rows
from .cache import cache_prefix
from .counters import VersionCounter
from .hedging import Pace
from .pending import Query
from .query import reply_head
from .routing import VersionRoute

DEPTH: Final = 2
"""Batches that are out to one replica at most: one is predicted while the next is on its way."""
SHORT_S: Final = 0.002
"""Under this predict time the way costs as much as predicting, and a second batch that is not full yet is worth it.
Above it, waiting makes fuller batches: 29 % more answers a second where a batch costs 3 ms however full it is (measured
with 32 clients)."""


class Replica:
    """One replica as this frontend sees it."""

    __slots__ = ("batches", "has_spoken", "identity", "is_reachable", "last_heard", "version")

    def __init__(self, identity: bytes, version: ServedVersion) -> None:
        self.identity = identity
        self.version = version
        self.batches = 0
        self.is_reachable = True
        """False after a send that failed, until it speaks or is tried again."""
        self.has_spoken = False
        """Since it was last reported as lost, if it was."""
        self.last_heard = 0.0


class Batch:
    """Queries that are out to one replica together."""

    __slots__ = ("is_hanging", "is_paired", "queries", "replica", "sent_at", "twin", "version")

    def __init__(self, version: ServedVersion, replica: Replica, queries: list[Query], sent_at: float) -> None:
        self.version = version
        self.replica = replica
        self.queries = queries
        self.sent_at = sent_at
        self.is_hanging = False
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
        "counter",
        "delay_timer",
        "element_bytes",
        "faults_in_row",
        "input_code",
        "is_dirty",
        "is_leaving",
        "live",
        "model",
        "name",
        "pace",
        "predict_s",
        "queue",
        "replicas",
        "reply_head",
        "retries",
        "route",
        "slo_s",
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
        self.batch_limit = BatchLimit(route.max_batch)
        self.follow(route)
        self.slo_s = 1.0
        """The shortest SLO of the applications that this version answers."""
        self.predict_s = 0.0
        """The smoothed time that predicting a batch takes."""
        self.pace = Pace()
        self.live = 0
        self.is_dirty = False
        self.is_leaving = False
        self.faults_in_row = 0
        self.delay_timer: asyncio.TimerHandle | None = None
        self.reply_head = reply_head(name)
        self.uses_cache = False

    def follow(self, route: VersionRoute) -> None:
        """Take on a new table's settings (the replicas are the dispatcher's matter)."""
        self.route = route
        self.batch_limit.set_ceiling(route.max_batch)
        self.cache_prefix = cache_prefix(route.manifest, route.input_type)
        self.element_bytes = wire.ELEMENT_BYTES.get(route.input_type, 1)
        self.input_code = wire.INPUT_TYPES.index(route.input_type) if route.input_type in wire.INPUT_TYPES else -1

    def learn_bearable(self) -> None:
        """Work out anew how many queries may wait. While batches still grow, nobody knows what could be answered."""
        if self.batch_limit.is_growing:
            self.bearable = MAX_QUEUED
        else:
            self.bearable = bearable_rows(self.batch_limit.limit, self.predict_s, len(self.replicas), self.slo_s)

    def pick_replica(self) -> Replica | None:
        """Return the reachable replica with the fewest batches out, or None when each has enough."""
        best = None
        fewest = DEPTH if self.predict_s < SHORT_S or self.queue.rows >= self.batch_limit.limit else 1
        for replica in self.replicas:
            if replica.batches < fewest and replica.is_reachable:
                best, fewest = replica, replica.batches
        return best

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
