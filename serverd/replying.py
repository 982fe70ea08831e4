"""The way back on one client's connection: the order of replies, back-pressure, closing."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from .exchange import LAST, Exchange

if TYPE_CHECKING:
    from .http import HttpServer

IDLE: Final = 0
HEAD: Final = 1
BODY: Final = 2
REFUSED: Final = 3
CLOSED: Final = 4
"""What a connection is reading. REFUSED: whatever comes is thrown away until the client has read why; CLOSED: it is
thrown away because no reply will follow those that are owed."""


class ReplySide:
    """What of a connection its exchanges and its server know: who is owed a reply, and whether more is read.

    Guarantees: replies leave in the order of the requests; nothing is read while the client does not take its replies.
    """

    __slots__ = (
        "blocked",
        "blocked_tick",
        "first",
        "limits",
        "phase",
        "phase_tick",
        "reading_paused",
        "rest",
        "server",
        "transport",
    )

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.limits = server.limits
        self.transport: Any = None
        self.first: Exchange | None = None
        """The exchange whose reply leaves next."""
        self.rest: deque[Exchange] = deque()
        self.phase = IDLE
        self.phase_tick = server.tick
        self.blocked = False
        """The client does not read."""
        self.blocked_tick = 0
        self.reading_paused = False

    # -- back-pressure: the first two are the transport's calls

    def pause_writing(self) -> None:
        self.blocked = True
        self.blocked_tick = self.server.tick
        self._pause_reading()

    def resume_writing(self) -> None:
        self.blocked = False
        self.resume_reading()

    def _pause_reading(self) -> None:
        if not self.reading_paused and self.transport is not None and not self.transport.is_closing():
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading, unless there is still a reason not to."""
        if self.reading_paused and not self.blocked and len(self.rest) <= self.limits.pipeline // 2:
            self.reading_paused = False
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()

    # -- writing

    def finish_first(self, raw: bytes) -> None:
        """Write the end of the first exchange's reply, and the replies behind it that are ready."""
        exchange = self.first
        assert exchange is not None
        while True:
            exchange.detach()
            self._write(raw)
            if exchange.flags & LAST:
                self._close_after_last()
                return
            if not self.rest:
                self.first = None
                break
            exchange = self.first = self.rest.popleft()
            if exchange.raw is None:
                break
            raw, exchange.raw = exchange.raw, None
            if exchange.stream_reply is not None:
                self._write(raw)
                break
        if self.reading_paused:
            self.resume_reading()

    def finish_or_keep(self, exchange: Exchange, raw: bytes) -> None:
        """End an exchange with its last bytes, now or when it is its turn."""
        if self.first is exchange:
            self.finish_first(raw)
        else:
            exchange.raw = (exchange.raw or b"") + raw

    def write_part(self, raw: bytes, max_buffer_bytes: int) -> None:
        """Write a part of the first exchange's reply; cut the connection when it has fallen too far behind."""
        self._write(raw)
        if self.transport is not None and self.transport.get_write_buffer_size() > max_buffer_bytes:
            self.abort()

    def _write(self, raw: bytes) -> None:
        transport = self.transport
        if transport is None:
            return
        try:
            transport.write(raw)
        except (RuntimeError, OSError):  # uvloop raises when the transport has closed meanwhile
            self.abort()

    # -- closing

    def _is_last(self) -> bool:
        """Return whether the connection closes after the replies that are owed already."""
        last = self.rest[-1] if self.rest else self.first
        return last is not None and bool(last.flags & LAST)

    def _close_after_last(self) -> None:
        """Close. A client may still be sending, and closing at once would reset its reply away: let one read that was
        refused, or that cannot know yet that its daemon is being replaced.
        """
        self.first = None
        while self.rest:
            self.rest.popleft().leave()
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if (self.phase == REFUSED or self.server.lingers) and transport.can_write_eof():
            self.phase = REFUSED
            self.phase_tick = self.server.tick
            try:
                transport.write_eof()
            except (RuntimeError, OSError):
                self.abort()
            self.resume_reading()  # what is left unread would reset the reply away all the same
        else:
            self._close()

    def _close(self) -> None:
        self.phase = CLOSED
        self.phase_tick = self.server.tick
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        if self.transport is not None:
            self.transport.abort()

    # -- the server's calls

    def drain(self) -> None:
        """Close now if nothing is in flight and the server does not linger, else after the last reply."""
        last = self.rest[-1] if self.rest else self.first
        if last is None:
            if self.phase == IDLE and not self.server.lingers:
                self._close()
        elif self.phase == IDLE and last.stream_reply is None:
            last.flags |= LAST

    def end_linger(self) -> None:
        """Close if nothing is in flight: say so first, and read what the client says until it has heard."""
        if self.first is None and self.phase == IDLE:
            self._close_after_last()

    @property
    def is_between_requests(self) -> bool:
        """Whether the client is owed nothing and no part of a request has been read."""
        return (
            self.phase == IDLE
            and self.first is None
            and not self.blocked
            and self.transport is not None
            and not self.transport.is_closing()
            and self.transport.get_write_buffer_size() == 0
        )
