"""The frontend's HTTP side without sockets, processes or time: real code from the first byte to the query."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from clipperfs.serverd import frontend
from clipperfs.serverd.http import HttpLimits
from clipperfs.serverd.routing import AppRoute, ModelRoute, RolloutRoute, RoutingTable, VersionRoute
from clipperfs.serverd.served import ServedVersion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clipperfs.serverd.pending import Query

INPUT_TYPES: Final = ("ints", "floats", "doubles", "bytes", "strings")
LIMITS: Final = HttpLimits(header_bytes=2048, headers=24, body_bytes=4096, pipeline=8, connections=16)
"""Small, so that short inputs cross them."""


class Outcome:
    """What a thread would have brought: here it is there at once."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._value: Any = None
        self._error: Exception | None = None
        try:
            self._value = function(*arguments)
        except Exception as error:
            self._error = error

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    def cancelled(self) -> bool:
        return False

    def exception(self) -> Exception | None:
        return self._error

    def result(self) -> Any:
        return self._value


class Timer:
    """A timer that is never due."""

    def cancel(self) -> None:
        pass


class InlineLoop:
    """The few things that the HTTP side asks of its loop. What it would log as a bug is kept in ``bugs``."""

    def __init__(self) -> None:
        self.bugs: list[dict[str, Any]] = []

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.bugs.append(context)

    def call_soon(self, function: Callable[..., None], *arguments: Any) -> None:
        function(*arguments)

    def call_later(self, delay_s: float, function: Callable[..., None], *arguments: Any) -> Timer:
        return Timer()

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *arguments: Any) -> Outcome:
        return Outcome(function, arguments)


@contextmanager
def running(loop: InlineLoop) -> Iterator[None]:
    """Make ``loop`` the running one."""
    asyncio._set_running_loop(loop)  # type: ignore[arg-type]
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


class FakeTransport:
    """Remembers what a connection does with its transport; after ``close`` or ``write_eof`` nothing may be written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = self.aborted = self.paused = self.ended = False
        self.late = 0
        """Writes after the end."""

    def write(self, data: bytes) -> None:
        if self.closed or self.ended:
            self.late += not self.aborted  # else the loop has not yet told of the end
            raise RuntimeError("the transport is closed")
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return 0


class EchoDispatcher:
    """Answers a query with its version, length and checksum: at once, or when it is released, in any order."""

    def __init__(self, *_: Any) -> None:
        self.holds = False
        self.held: list[Query] = []

    def apply(self, table: RoutingTable) -> dict[tuple[str, str], ServedVersion]:
        from clipperfs.serverd.counters import VersionCounter

        return {
            (model, name): ServedVersion(model, name, route, VersionCounter())
            for model, staged in table.models.items()
            for name, route in staged.versions.items()
        }

    def deadline_lane(self, slo_s: float) -> deque[Query]:
        return deque(maxlen=0)  # nothing comes late here

    def submit(self, query: Query) -> None:
        if self.holds:
            self.held.append(query)
        else:
            _answer(query)

    def release(self, random: Random, count: int) -> None:
        """Answer so many of the queries that are held."""
        for _ in range(min(count, len(self.held))):
            _answer(self.held.pop(random.randrange(len(self.held))))


def _answer(query: Query) -> None:
    output = b'"%b %d %08x"' % (query.version.name.encode(), len(query.packed), zlib.crc32(query.packed))
    query.answer(output, query.arrived)


class _Channel:
    """Stands for the controller: answers what it is asked."""

    def __init__(self) -> None:
        self.frontend: Any = None

    def send(self, kind: str, **fields: Any) -> None:
        if "what" in fields:
            self.frontend._obey({"t": "text", "id": fields["id"], "status": 200, "body": b"", "ctype": "text/plain"})


class Site:
    """One frontend. Applications are called like their input types; ``canary`` and ``shadow`` have rollouts, ``sized``
    takes three numbers, ``off`` has no model."""

    def __init__(self) -> None:
        self.loop = InlineLoop()
        with mock.patch.object(frontend, "Dispatcher", EchoDispatcher), running(self.loop):
            self.frontend = frontend.Frontend("", 0, LIMITS, 0)
            channel = _Channel()
            channel.frontend = self.frontend
            self.frontend._channel = channel  # type: ignore[assignment]
            self.frontend._apply(_table())
        self.frontend._forms.close()
        self.server = self.frontend.server
        self.dispatcher: EchoDispatcher = self.frontend._dispatcher  # type: ignore[assignment]

    def reset(self) -> None:
        """Forget every query, so that the next connection meets a new site."""
        self.server.draining = False
        self.server.held_bytes = 0
        self.server.connections.clear()
        self.dispatcher.held.clear()
        self.frontend._predict._next_id = 0
        self.loop.bugs.clear()


def _table() -> RoutingTable:
    apps = {name: AppRoute(name, 100_000, "-1", name) for name in INPUT_TYPES}
    apps |= {name: AppRoute("doubles", 100_000, "no", name) for name in ("canary", "shadow", "sized")}
    apps["off"] = AppRoute("doubles", 100_000, '{"none":1}')
    models = {}
    for name, app in apps.items():
        if app.model is not None:
            routes = {
                one: VersionRoute(f"{name}-{one}", "d", app.input_type, ("00",), 3 if name == "sized" else None)
                for one in ("1", "2")
            }
            rollout = RolloutRoute(name, "2", 50.0, "salt") if name in ("canary", "shadow") else None
            models[name] = ModelRoute("1", {"other": "2"}, None, False, routes, rollout)
    return RoutingTable(1, True, apps, models)
