"""One request's way back: replies, at once or later, whole or streamed, in the order in which the requests came."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from .http_status import REASONS

if TYPE_CHECKING:
    from .replying import ReplySide

JSON: Final = b"application/json"
MAX_STREAM_BUFFER_BYTES: Final = 4 * 1024 * 1024
"""A reader of a stream that is further behind than this is cut off."""

LAST: Final = 1
OLD: Final = 2
BARE: Final = 4
"""Flags of an exchange: the connection closes after it; the request is HTTP/1.0; the reply has no body (HEAD)."""


def build_reply(status: int, body: bytes, content_type: bytes = JSON, headers: bytes = b"") -> bytes:
    """Return a whole HTTP/1.1 reply. ``headers`` are complete lines, each ending in CRLF."""
    return b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
        status,
        REASONS[status],
        content_type,
        headers,
        len(body),
        body,
    )


def error_body(error: str, cause: str) -> bytes:
    """Return the JSON body of every error reply."""
    return msgspec.json.encode({"error": error, "cause": cause})


class Exchange:
    """One request that waits for its reply. One of ``send``, ``reply``, ``reply_json``, ``fail``, ``stream`` is called.

    Guarantees: replies leave in the order of the requests; only the first reply to a request counts; a reply to a
    client that has gone is dropped; no method raises because of the client.
    """

    __slots__ = ("connection", "flags", "held_bytes", "raw", "stream_reply")

    def __init__(self, connection: ReplySide, flags: int) -> None:
        self.connection: ReplySide | None = connection
        """None once the reply has left or the client has gone."""
        self.flags = flags
        self.held_bytes = 0
        """What its body counts for in the server's ``held_bytes``."""
        self.raw: bytes | None = None
        """What is to leave when the replies before this one have left."""
        self.stream_reply: StreamReply | None = None

    def send(self, raw: bytes) -> None:
        """Send a whole reply in the form that ``build_reply`` gives: a status line first, no Connection header."""
        connection = self.connection
        if connection is None or self.raw is not None:
            return
        if self.flags:
            raw = self._adapt(raw)
        if connection.first is not self:
            self.raw = raw
        elif self.flags or connection.rest or self.held_bytes:
            connection.finish_first(raw)
        else:  # the usual one: nothing before it, nothing behind it, and the connection goes on
            self.connection = connection.first = None
            try:
                connection.transport.write(raw)
            except (RuntimeError, OSError):  # uvloop raises when the transport has closed meanwhile
                connection.abort()
            if connection.reading_paused:
                connection.resume_reading()

    def reply(self, status: int, body: bytes, content_type: bytes = JSON, headers: bytes = b"") -> None:
        """Send a reply."""
        self.send(build_reply(status, body, content_type, headers))

    def reply_json(self, status: int, value: Any) -> None:
        """Send a value as JSON."""
        self.reply(status, msgspec.json.encode(value))

    def fail(self, status: int, error: str, cause: str, headers: bytes = b"") -> None:
        """Send an error reply: a JSON object with ``error`` and ``cause``."""
        self.reply(status, error_body(error, cause), JSON, headers)

    def stream(self, status: int, content_type: bytes, on_gone: Callable[[], None]) -> StreamReply:
        """Begin a reply of unknown length: chunked, or for HTTP/1.0 ended by closing.

        Args:
            status: The status code.
            content_type: The value of the Content-Type header.
            on_gone: Called once if the client goes before ``end``.
        """
        head = b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\n" % (status, REASONS[status], content_type)
        is_chunked = not self.flags & OLD
        if is_chunked:
            head += b"Transfer-Encoding: chunked\r\n"
        else:
            self.flags |= LAST
        if self.flags & LAST:
            head += b"Connection: close\r\n"
        head += b"\r\n"
        reply = StreamReply(self, is_chunked, on_gone)
        if self.flags & BARE:
            if self.connection is not None:
                self.connection.finish_or_keep(self, head)
        else:
            self.stream_reply = reply
            reply.push(head)
        return reply

    def leave(self) -> None:
        """Take note that the client has gone."""
        self.detach()
        self.raw = None
        reply, self.stream_reply = self.stream_reply, None
        if reply is not None:
            reply.on_gone()

    def detach(self) -> None:
        """Let go of the connection: the reply has left, or nobody is there for it."""
        connection, self.connection = self.connection, None
        if connection is not None and self.held_bytes:
            connection.server.held_bytes -= self.held_bytes
            self.held_bytes = 0

    def _adapt(self, raw: bytes) -> bytes:
        """Return the reply to what is not the plain case."""
        if self.flags & (LAST | OLD):
            value = b"close" if self.flags & LAST else b"keep-alive"
            line, _, rest = raw.partition(b"\r\n")
            raw = b"%b\r\nConnection: %b\r\n%b" % (line, value, rest)
        if self.flags & BARE:
            raw = raw[: raw.index(b"\r\n\r\n") + 4]
        return raw


class StreamReply:
    """A reply that goes on until ``end`` or until the client leaves. Writing after that does nothing."""

    __slots__ = ("_exchange", "_is_chunked", "on_gone")

    def __init__(self, exchange: Exchange, is_chunked: bool, on_gone: Callable[[], None]) -> None:
        self._exchange = exchange
        self._is_chunked = is_chunked
        self.on_gone = on_gone

    @property
    def is_open(self) -> bool:
        """Whether there is still somebody to write to."""
        return self._exchange.stream_reply is self

    def write(self, data: bytes) -> None:
        """Send a piece. A reader that is too far behind is cut off."""
        if data and self.is_open:
            self.push(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    def end(self) -> None:
        """End the reply."""
        exchange = self._exchange
        if self.is_open and exchange.connection is not None:
            exchange.stream_reply = None
            exchange.connection.finish_or_keep(exchange, b"0\r\n\r\n" if self._is_chunked else b"")

    def push(self, raw: bytes) -> None:
        """Write raw bytes, now or when the replies before this one have left."""
        exchange = self._exchange
        connection = exchange.connection
        if connection is None:
            return
        if connection.first is exchange:
            connection.write_part(raw, MAX_STREAM_BUFFER_BYTES)
        elif len(exchange.raw or b"") > MAX_STREAM_BUFFER_BYTES:
            connection.abort()
        else:
            exchange.raw = (exchange.raw or b"") + raw
