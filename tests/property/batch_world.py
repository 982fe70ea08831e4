"""The real dispatcher in virtual time, with random arrivals and replicas that take as long as a function says."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from clipperfs.serverd import dispatch
from clipperfs.serverd.cache import PredictionCache
from clipperfs.serverd.counters import Counters
from clipperfs.serverd.pending import Query, QueryOwner
from clipperfs.serverd.routing import AppRoute, ModelRoute, RoutingTable, VersionRoute
from clipperfs.serverd.served import ServedVersion
from clipperfs.serverd.slow import SlowLog

from clipperfs import wire
from tests.property.frontend_world import Loop, live_by

WAY_S = 0.0003
"""From a frontend to a replica, or back."""


class Sink:
    """Counts the answers that came in time."""

    connection: object = object()

    def __init__(self, tally: Tally, loop: Loop, arrived: float, slo_s: float) -> None:
        self._tally, self._loop, self._arrived, self._slo_s = tally, loop, arrived, slo_s

    def send(self, raw: bytes) -> None:
        latency_s = self._loop.now - self._arrived
        self._tally.answered += 1
        self._tally.latency_s.append(latency_s)
        self._tally.within += latency_s <= self._slo_s and b'"default":false' in raw


@dataclass
class Tally:
    """What came of the queries of a run."""

    asked: int = 0
    answered: int = 0
    within: int = 0
    latency_s: list[float] = field(default_factory=list)


Hear = Callable[[bytes, list[bytes]], None]


class Replicas:
    """Replicas that answer their batches one by one, whichever frontend they come from."""

    def __init__(self, loop: Loop, cost_s: Callable[[int], float]) -> None:
        self.cost_s = cost_s
        self.sizes: list[int] = []
        self.asked: list[bytes] = []
        """Which replica each of these batches went to."""
        self._loop = loop
        self._waiting: dict[bytes, deque[tuple[int, int, Hear]]] = {}
        self._busy: set[bytes] = set()

    def arrive(self, identity: bytes, number: int, count: int, hear: Hear) -> None:
        """Take a batch in."""
        self._waiting.setdefault(identity, deque()).append((number, count, hear))
        if identity not in self._busy:
            self._begin(identity)

    def _begin(self, identity: bytes) -> None:
        number, count, hear = self._waiting[identity].popleft()
        self._busy.add(identity)
        self.sizes.append(count)
        self.asked.append(identity)
        spent_s = self.cost_s(count)
        self._loop.call_later(spent_s, self._end, identity, number, count, spent_s, hear)

    def _end(self, identity: bytes, number: int, count: int, spent_s: float, hear: Hear) -> None:
        header = wire.pack_header(wire.OUTPUT, number, int(spent_s * 1e6), [1] * count)
        self._loop.call_later(WAY_S, hear, identity, [header, b"0" * count])
        self._busy.discard(identity)
        if self._waiting[identity]:
            self._begin(identity)


class Wire:
    """One frontend's way to the replicas."""

    def __init__(self, loop: Loop, replicas: Replicas, hear: Hear) -> None:
        self._loop, self._replicas, self._hear = loop, replicas, hear

    def send(self, identity: bytes, header: bytes, body: bytes) -> bool:
        _, number, _, count, _ = wire.unpack_header(header)
        self._loop.call_later(WAY_S, self._replicas.arrive, identity, number, count, self._hear)
        return True

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


class BatchWorld:
    """One version with its replicas, one application, and the dispatchers of one frontend or several."""

    def __init__(
        self,
        cost_s: Callable[[int], float],
        slo_s: float,
        seed: int = 1,
        replicas: int = 1,
        frontends: int = 1,
        **route: Any,
    ) -> None:
        self.loop = Loop()
        self.replicas = Replicas(self.loop, cost_s)
        self.slo_s = slo_s
        self._random = random.Random(seed)
        self._stack = ExitStack()

        def transport(_endpoint: str, hear: Hear, *_: Any) -> Wire:
            return Wire(self.loop, self.replicas, hear)

        live_by(self.loop, transport, self._stack)
        self.counters = Counters()
        self.dispatchers = [
            dispatch.Dispatcher(
                "",
                PredictionCache(0),
                self.counters,
                lambda _: None,
                lambda *_: None,
                lambda _: None,
                SlowLog(None, lambda _: None),
                position,
            )
            for position in range(frontends)
        ]
        self.only: int | None = None if frontends > 1 else 0
        """The frontend that is asked; None: any, at random."""
        self._identities = tuple(f"{number:04x}" for number in range(replicas))
        self.version: ServedVersion
        self.load("1", **route)

    def load(self, name: str, **route: Any) -> None:
        """Have a (new) version answer from now on."""
        version = VersionRoute(f"load{name}", name * 64, "bytes", self._identities, **route)
        app = AppRoute("bytes", int(self.slo_s * 1e6), "none", "m")
        model = ModelRoute(active=name, cache=False, versions={name: version})
        table = RoutingTable(1, True, {"a": app}, {"m": model}, len(self.dispatchers))
        self._sides = [
            (
                dispatcher,
                dispatcher.apply(table)["m", name],
                QueryOwner(
                    "a", self.slo_s, b'"none"', self.counters.app("a"), None, dispatcher.deadline_lane(self.slo_s)
                ),
            )
            for dispatcher in self.dispatchers
        ]
        self.version = self._sides[0][1]
        self.loop.settle()

    def run(self, rate: float, seconds: float) -> Tally:
        """Ask at a rate with random gaps; return what came of it once all is answered."""
        tally = Tally()
        end = self.loop.now + seconds
        while self.loop.now < end:
            gap = self._random.expovariate(rate)
            self.loop.advance(gap)
            self.submit(tally)
            self.loop.settle()
        self.loop.advance(2 * self.slo_s)
        return tally

    def submit(self, tally: Tally) -> None:
        """Ask once, at any of the frontends."""
        tally.asked += 1
        sink: Any = Sink(tally, self.loop, self.loop.now, self.slo_s)
        now = self.loop.now
        side = self._random.randrange(len(self._sides)) if self.only is None else self.only
        dispatcher, version, owner = self._sides[side]
        dispatcher.submit(Query(owner, version, b"x", tally.asked, now, now + self.slo_s, sink, -1))

    def close(self) -> None:
        for dispatcher in self.dispatchers:
            dispatcher.close()
        self._stack.close()
