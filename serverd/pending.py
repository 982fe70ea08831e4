"""Queries on their way: what each needs to be answered once, by its output or by its deadline."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, ClassVar, Final

from clipperfs.wire import Packed

from .counters import LATENCY_BOUNDS_S, AppCounter
from .exchange import Exchange
from .query import answer_body, batch_body, default_body, reply_head

if TYPE_CHECKING:
    from .limiter import AppLimiter
    from .served import ServedVersion

PLAIN_HEAD: Final = reply_head(None)
"""The head of a reply that no version answered."""
COMPACT_FROM: Final = 4096
"""Queries that a deadline lane may hold before the answered ones in it are swept out."""


class QueryOwner:
    """What the queries of one application under one table share."""

    __slots__ = ("app", "counter", "deadlines", "default_output", "limiter", "slo_s")

    def __init__(
        self,
        app: str,
        slo_s: float,
        default_output: bytes,
        counter: AppCounter,
        limiter: AppLimiter | None,
        deadlines: deque[Query],
    ) -> None:
        self.app = app
        self.deadlines = deadlines
        """The dispatcher's lane for this SLO (``DeadlineLanes.lane``)."""
        self.limiter = limiter
        self.slo_s = slo_s
        self.default_output = default_output
        self.counter = counter


class Query:
    """One input that leases one version until it is answered.

    One is made for each request, and nobody looks for cycles while requests come: whoever makes it part of a cycle
    must break that cycle (``followers`` do not refer to their leader; an exchange knows nothing of its query).
    """

    __slots__ = (
        "arrived",
        "attempts",
        "deadline",
        "followers",
        "index",
        "is_done",
        "is_text",
        "key",
        "number",
        "owner",
        "packed",
        "sink",
        "version",
    )

    def __init__(
        self,
        owner: QueryOwner,
        version: ServedVersion,
        packed: Packed,
        number: int,
        arrived: float,
        deadline: float,
        sink: Exchange | BatchReply,
        index: int,
        key: bytes | None = None,
        is_text: bool = False,
    ) -> None:
        self.owner = owner
        self.version = version
        self.packed: Packed = packed
        """Its input as a replica takes it, or the body that holds it (``is_text``)."""
        self.number = number
        self.arrived = arrived
        self.deadline = deadline
        self.sink = sink
        self.index = index
        """Its place in a batch reply, -1 alone."""
        self.key = key
        """Its key in the prediction cache."""
        self.followers: list[Query] | None = None
        """Queries of the same key that wait for its output instead of being predicted themselves."""
        self.attempts = 0
        self.is_done = False
        self.is_text = is_text
        """Whether nobody has read its body yet (``texts``)."""

    is_canary: ClassVar[bool] = False
    """Whether a rollout gave it to the candidate, so that the active version may answer it as well."""
    may_lead: ClassVar[bool] = True
    """Whether equal queries may wait for its output: not where it may be answered by another version after all."""

    @property
    def is_gone(self) -> bool:
        """Whether the client has left: nobody wants the answer."""
        return self.sink.connection is None

    def answer(self, output: bytes, now: float) -> None:
        """Give the prediction: JSON text. Call it once, or ``fall_back``."""
        self.is_done = True
        self.packed = b""  # it stays in its deadline lane for a while, and an input may be large
        owner = self.owner
        counter = owner.counter
        latency_s = now - self.arrived
        latency_us = int(latency_s * 1e6)
        bucket = bisect_left(LATENCY_BOUNDS_S, latency_s)
        counter.latency[bucket] += 1
        counter.latency_us += latency_us
        version = self.version
        if latency_s > 0.0:  # else the cache had the output, and nobody was asked
            served = version.counter
            served.answered[bucket] += 1
            served.answered_us += latency_us
        if owner.limiter is not None:
            owner.limiter.in_flight -= 1
        give_answer(self.number, self.sink, self.index, output, version.reply_head)

    def abandon(self) -> None:
        """End the query without an answer: its client has gone."""
        self.is_done = True
        if self.owner.limiter is not None:
            self.owner.limiter.in_flight -= 1

    def fall_back(self, reason: str, explanation: str, now: float) -> None:
        """Give the default output. ``reason`` is one of ``counters.REASONS``."""
        self.owner.counter.observe(now - self.arrived)
        self.abandon()
        give_default(self.owner, self.number, self.sink, self.index, reason, explanation)


def give_answer(number: int, sink: Exchange | BatchReply, index: int, output: bytes, head: bytes) -> None:
    """Answer with an output; ``head`` names the version that gave it."""
    body = answer_body(number, output)
    if isinstance(sink, BatchReply):
        sink.fill(index, body, head)
    else:
        sink.send(b"%b%d\r\n\r\n%b" % (head, len(body), body))


def give_default(
    owner: QueryOwner, number: int, sink: Exchange | BatchReply, index: int, reason: str, explanation: str
) -> None:
    """Answer a query that never became one with the default output."""
    owner.counter.defaults[reason] += 1
    body = default_body(number, owner.default_output, explanation)
    if isinstance(sink, BatchReply):
        sink.fill(index, body, None)
    else:
        sink.send(b"%b%d\r\n\r\n%b" % (PLAIN_HEAD, len(body), body))


class BatchReply:
    """Gathers the answers to one ``input_batch``; the reply leaves with the last of them."""

    __slots__ = ("_bodies", "_exchange", "_head", "_missing")

    def __init__(self, exchange: Exchange, count: int) -> None:
        self._exchange = exchange
        self._bodies = [b""] * count
        self._missing = count
        self._head = PLAIN_HEAD

    @property
    def connection(self) -> object:
        """None once the client has gone."""
        return self._exchange.connection

    def fill(self, index: int, body: bytes, head: bytes | None) -> None:
        """Put the answer to one element; ``head`` names the version that gave it, if one did."""
        if head is not None:
            self._head = head
        self._bodies[index] = body
        self._missing -= 1
        if self._missing == 0:
            reply = batch_body(self._bodies)
            self._exchange.send(b"%b%d\r\n\r\n%b" % (self._head, len(reply), reply))


class DeadlineLanes:
    """All unanswered queries by SLO, each lane in the order of the deadlines; says when the next one is due.

    A lane is never replaced, so that the owner of queries may keep the one of its SLO and append to it.
    """

    __slots__ = ("_lanes", "_sweep_at")

    def __init__(self) -> None:
        self._lanes: dict[float, deque[Query]] = {}
        self._sweep_at = COMPACT_FROM

    def lane(self, slo_s: float) -> deque[Query]:
        """Return the lane of an SLO. What is appended to it is watched; ``sweep`` is to be called now and then."""
        lane = self._lanes.get(slo_s)
        if lane is None:
            lane = self._lanes[slo_s] = deque()
        return lane

    def pop_due(self, now: float) -> tuple[list[Query], float | None]:
        """Return the unanswered queries whose deadline has come, and the earliest deadline that is left."""
        due: list[Query] = []
        earliest: float | None = None
        for lane in self._lanes.values():
            while lane and (lane[0].is_done or lane[0].deadline <= now):
                query = lane.popleft()
                if not query.is_done:
                    due.append(query)
            if lane and (earliest is None or lane[0].deadline < earliest):
                earliest = lane[0].deadline
        return due, earliest

    def sweep(self) -> None:
        """Drop answered queries if many may be there: under a long SLO they would pile up behind an unanswered one."""
        for lane in self._lanes.values():
            if len(lane) > self._sweep_at:
                self._sweep()
                return

    def _sweep(self) -> None:
        for lane in self._lanes.values():
            waiting = [query for query in lane if not query.is_done]
            lane.clear()
            lane.extend(waiting)
        self._sweep_at = max(COMPACT_FROM, 2 * max(map(len, self._lanes.values())))
