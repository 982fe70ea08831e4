"""HTTP/1.1 over asyncio and httptools, without a framework: the server that frontends and the admin interface share.

A handler gets ``(exchange, method, target, body)`` and answers through the exchange, at once or later. ``HttpLimits``
lists what a client may do; ``connection`` enforces it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from clipperfs.wire import Body

from .connection import HttpConnection
from .exchange import Exchange
from .form import BodyForm

Handler: TypeAlias = Callable[[Exchange, bytes, bytes, Body], None]
FormHandler: TypeAlias = Callable[[Exchange, bytes, bytes, Body, BodyForm], None]


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What a client may do. Sizes in bytes, times in seconds; times are kept to within ``tick_s``."""

    header_bytes: int = 16 * 1024
    """Request line and headers together."""
    headers: int = 64
    body_bytes: int = 16 * 1024 * 1024
    bodies_bytes: int = 1024 * 1024 * 1024
    """All bodies together that are on their way here, or not answered yet; never less than two of the largest. Beyond
    it bodies of more than 64 KiB are refused."""
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    body_rate_bytes_s: int = 16 * 1024
    """A body gets ``body_timeout_s`` plus the time that it takes at this rate."""
    idle_timeout_s: float = 75.0
    write_timeout_s: float = 30.0
    """How long a client may leave replies unread."""
    linger_s: float = 2.0
    """How long a refused client is given to read why."""
    connections: int = 4096
    pipeline: int = 64
    """Requests of one connection that may wait for replies before reading stops."""
    tick_s: float = 0.5


class HttpServer:
    """All connections of one listener. Call it to make a protocol for ``loop.create_server``."""

    def __init__(
        self, handler: Handler, limits: HttpLimits | None = None, form_handler: FormHandler | None = None
    ) -> None:
        self.handler = handler
        self.posts: dict[bytes, Callable[[Exchange, Body], None]] = {}
        """What answers a POST of a plain body to exactly this target, ahead of the handler."""
        self.form_handler = form_handler
        """Takes the bodies that are not plain JSON; without one, compressed bodies are refused."""
        self.limits = limits or HttpLimits()
        self.connections: set[HttpConnection] = set()
        self.draining = False
        self.lingers = False
        """While draining: nobody is turned away yet. Each connection may send one more request, whose reply closes."""
        self.tick = 0
        """Counts ticks of ``tick_s``: the connections' coarse clock, so that no request asks for the time."""
        self.held_bytes = 0
        """Of bodies that are on their way here, or not answered yet (those with a known head aside, which are read in
        one piece)."""
        self.most_held_bytes = max(self.limits.bodies_bytes, 2 * self.limits.body_bytes)
        self.requests = 0
        self.connections_total = 0
        self.refused: dict[int, int] = {}
        """Requests that the protocol itself turned away, by status code."""
        self._on_drained: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._linger_ticks = 0

    def __call__(self) -> Any:
        """Return a new ``HttpConnection``. (The types of asyncio ask for a class that inherits from theirs.)"""
        return HttpConnection(self)

    def start(self) -> None:
        """Start the clock that enforces the times. Call it on the loop."""
        self._timer = asyncio.get_running_loop().call_later(self.limits.tick_s, self._beat)

    def stop(self) -> None:
        """Stop the clock and cut every connection."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self.connections):
            connection.abort()

    def drain(self, on_drained: Callable[[], None], linger_s: float = 0.0) -> None:
        """Finish what is in flight, close each connection after its last reply, then call ``on_drained`` once.

        Args:
            on_drained: called when no connection is left.
            linger_s: how long a connection without a request may still send one, which is answered; then it is closed,
                without resetting what is under way (RFC 9112 §9.6). 0: it is closed at once.
        """
        self.draining = True
        self.lingers = linger_s > 0
        self._linger_ticks = self.tick + math.ceil(linger_s / self.limits.tick_s)
        self._on_drained = on_drained
        for connection in list(self.connections):
            connection.drain()
        self.forget(None)

    def forget(self, connection: HttpConnection | None) -> None:
        """Take a closed connection off the list."""
        if connection is not None:
            self.connections.discard(connection)
        if self.draining and not self.connections and self._on_drained is not None:
            asyncio.get_running_loop().call_soon(self._on_drained)
            self._on_drained = None

    def count_refused(self, status: int) -> None:
        """Count a request that the protocol turned away."""
        self.refused[status] = self.refused.get(status, 0) + 1

    def snapshot(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        return {
            "connections": len(self.connections),
            "connections_total": self.connections_total,
            "requests": self.requests,
            "refused": {str(status): count for status, count in self.refused.items()},
        }

    def _beat(self) -> None:
        self.tick += 1
        if self.lingers and self.tick >= self._linger_ticks:
            for connection in list(self.connections):
                connection.end_linger()
        for connection in list(self.connections):
            connection.check_times()
        self._timer = asyncio.get_running_loop().call_later(self.limits.tick_s, self._beat)
