"""A frontend's dispatcher and predict handler with a clock, a loop and replicas that only do what they are told."""

from __future__ import annotations

import heapq
import itertools
import json
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import msgpack
from clipperfs.serverd import (
    deadline,
    dispatch,
    hedging,
    inbox,
    lookout,
    outbox,
    pending,
    predict,
    pump,
    served,
    setback,
    staged,
    straggler,
    table_follower,
)
from clipperfs.serverd.cache import PredictionCache
from clipperfs.serverd.counters import Counters
from clipperfs.serverd.pending import Query
from clipperfs.serverd.query import version_of
from clipperfs.serverd.routing import RoutingTable
from clipperfs.serverd.served import ServedVersion
from clipperfs.serverd.slow import SlowLog

from clipperfs import wire

SMALL = (
    (served, "MAX_QUEUED", 6),
    (staged, "SHADOW_LIVE", 3),
    (pending, "COMPACT_FROM", 8),
    (hedging, "BATCHES_KNOWN", 2),
    (hedging, "BATCHES_PER_HEDGE", 2),
)
"""Bounds that a short run shall reach too."""
CLOCKED = (deadline, dispatch, inbox, lookout, outbox, predict, pump, setback, straggler, table_follower)
"""The modules that look at the clock."""


class Timer:
    """What ``call_later`` returns."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    """A clock that goes on when told to, and what is to be called then."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._soon: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[..., None], *arguments: Any) -> None:
        self._soon.append(lambda: call(*arguments))

    def call_later(self, delay_s: float, call: Callable[..., None], *arguments: Any) -> Timer:
        timer = Timer(lambda: call(*arguments))
        heapq.heappush(self._timers, (self.now + delay_s, next(self._order), timer))
        return timer

    def settle(self) -> None:
        """Do what is to be done in this turn."""
        while self._soon:
            self._soon.popleft()()

    def advance(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            at, _, timer = heapq.heappop(self._timers)
            self.now = max(self.now, at)
            if timer.call is not None:
                timer.call()
            self.settle()
        self.now = until


def live_by(loop: Loop, transport: Callable[..., Any], stack: ExitStack) -> None:
    """Have dispatchers and predict handlers live by a loop and its clock, and send by a transport, until the end."""
    for module in CLOCKED:
        stack.enter_context(patch.object(module, "monotonic", loop.time))
    stack.enter_context(patch.object(lookout, "LOOK_S", -1.0))  # its clock stands still while it looks
    stack.enter_context(patch.object(dispatch, "asyncio", SimpleNamespace(get_running_loop=lambda: loop)))
    stack.enter_context(patch.object(outbox, "ReplicaTransport", transport))


@dataclass
class Message:
    """A batch as a replica has got it."""

    number: int
    parts: list[bytes]


class Transport:
    """Keeps what is sent until a test has the replica answer."""

    def __init__(
        self,
        _endpoint: str,
        hear: Callable[[bytes, list[bytes]], None],
        _lane_path: str,
        lose: Callable[[bytes], None],
    ) -> None:
        self.hear = hear
        self.lose = lose
        self.unreachable: set[bytes] = set()
        self.got: dict[bytes, list[Message]] = {}

    def send(self, identity: bytes, header: bytes, body: bytes) -> bool:
        if identity in self.unreachable:
            return False
        _, number, code, count, lengths = wire.unpack_header(header)
        size = wire.ELEMENT_BYTES[wire.INPUT_TYPES[code]]
        sizes = [lengths * size] * count if isinstance(lengths, int) else [one * size for one in lengths]
        ends = list(itertools.accumulate(sizes))
        assert ends[-1] == len(body)
        parts = [body[end - one : end] for end, one in zip(ends, sizes, strict=True)]
        self.got.setdefault(identity, []).append(Message(number, parts))
        return True

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


class Request:
    """Stands in for an exchange: what was asked, and every reply that came."""

    def __init__(self, loop: Loop, app: str, inputs: list[float], due: float, by: set[str] | None) -> None:
        self.connection: object | None = object()
        self.app = app
        self.inputs = inputs
        self.due = due
        self.by = by
        """The versions that may answer; ``None``: any, under a canary."""
        self.replies: list[tuple[bytes, list[dict[str, Any]]]] = []
        self.has_left = False
        self._loop = loop

    def send(self, raw: bytes) -> None:
        if self.has_left:
            return
        head, _, body = raw.partition(b"\r\n\r\n")
        plain = json.loads(body)
        answers = plain.get("batch_predictions", [plain])
        self.replies.append((head, answers))
        self.connection = None
        assert len(self.replies) == 1, "answered twice"
        assert self._loop.now <= self.due + 1e-9, f"answered {self._loop.now - self.due:.4f} s after its deadline"
        assert len(answers) == len(self.inputs)
        named = version_of(head + b"\r\n")
        for value, answer in zip(self.inputs, answers, strict=True):
            if answer["default"]:
                assert answer["output"] == f"default of {self.app}"
                continue
            version, given = answer["output"]
            assert given == value, "another input's output"
            assert self.by is None or version in self.by, f"answered by {version}, not by {self.by}"
            assert answer.get("version", version) == version and version in named.split(", ")

    def leave(self) -> None:
        self.connection = None
        self.has_left = True


@dataclass
class Harm:
    """What happened to a query on its way."""

    was_out: bool = False
    faults: int = 0
    losses: int = 0


@dataclass
class World:
    """Everything of a frontend that decides about queries, with small bounds."""

    loop: Loop = field(default_factory=Loop)

    def __post_init__(self) -> None:
        self._stack = ExitStack()
        live_by(self.loop, Transport, self._stack)
        for module, name, value in SMALL:
            self._stack.enter_context(patch.object(module, name, value))
        self.counters = Counters()
        self.cache = PredictionCache(100_000)
        self.released: list[str] = []
        self.seen: dict[int, ServedVersion] = {}
        self.harms: dict[int, tuple[Query, Harm]] = {}
        slow = SlowLog(None, lambda facts: None)
        self.dispatcher = dispatch.Dispatcher(
            "", self.cache, self.counters, self._release, lambda *_: None, lambda _: None, slow
        )
        self.handler = predict.PredictHandler(self.dispatcher, self.cache, 1)
        self.transport: Transport = self.dispatcher._outbox.transport  # type: ignore[assignment]
        self.table = RoutingTable()

    def close(self) -> None:
        self.dispatcher.close()
        self._stack.close()

    def _release(self, key: str) -> None:
        assert key not in self.released, f"{key} was released twice"
        assert not [query for query in self.unanswered() if query.version.route.key == key], f"{key} is leased"
        self.released.append(key)

    def apply(self, table: RoutingTable) -> None:
        """Follow a table as a frontend does."""
        lost = {one for model in table.models.values() for version in model.versions.values() for one in
                version.replicas}  # fmt: skip
        staying = {version.key for model in table.models.values() for version in model.versions.values()}
        for batch in self.dispatcher._outbox.batches.values():
            if batch.version.route.key in staying and batch.replica.identity.hex() not in lost and batch.twin is None:
                for query in batch.queries:
                    self.harm(query).losses += 1
        self.table = table
        self.handler.follow(table, self.dispatcher.apply(table), self.counters)
        self.seen |= {id(version): version for version in self.dispatcher.versions.values()}
        self.loop.settle()

    def harm(self, query: Query) -> Harm:
        return self.harms.setdefault(id(query), (query, Harm()))[1]

    def answer(self, identity: bytes, at: int, how: str, output: Callable[[bytes], bytes]) -> None:
        """Have a replica answer one of the batches that it has."""
        message = self.transport.got[identity].pop(at)
        if how == "fault":
            frames = [msgpack.packb((wire.FAULT, message.number, "it raised"))]
        else:
            outputs = [output(part) for part in message.parts]
            lengths = [len(one) for one in outputs]
            frames = [msgpack.packb((wire.OUTPUT, message.number, 500, lengths)), b"".join(outputs)]
            if how == "malformed":
                frames[1] += b"x"
        batch = self.dispatcher._outbox.batches.get(message.number)
        if how != "output" and batch is not None:
            for query in batch.queries:
                self.harm(query).faults += 1
        self.transport.hear(identity, frames)
        self.loop.settle()

    def lose(self, identity: bytes) -> None:
        """Have a replica's lane end, as when it dies: what it has got is lost."""
        self.transport.got.pop(identity, None)
        for batch in self.dispatcher._outbox.batches.values():
            if batch.replica.identity == identity:
                for query in batch.queries:
                    self.harm(query).losses += 1
        self.transport.lose(identity)
        self.loop.settle()

    def unanswered(self) -> list[Query]:
        """Return every query that waits for an answer: each has its deadline watched."""
        lanes = self.dispatcher._deadlines.lanes._lanes.values()
        return [query for lane in lanes for query in lane if not query.is_done]
