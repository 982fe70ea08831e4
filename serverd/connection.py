"""One client's HTTP connection as it is read: parsing, limits, times. What leaves on it is ``replying``'s matter."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

import httptools

from clipperfs.wire import Body

from .exchange import BARE, LAST, OLD, Exchange
from .form import BodyForm, read_form
from .replying import BODY, CLOSED, HEAD, IDLE, REFUSED, ReplySide

if TYPE_CHECKING:
    from .http import HttpServer

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LENGTH_LINE: Final = re.compile(rb"\r\ncontent-length: ?([0-9]{1,8})\r\n", re.IGNORECASE)
TOO_LARGE: Final = "the body is larger than %d bytes; 'start --max-body' sets the limit"
TOO_MUCH: Final = "bodies of more than %d bytes are on their way at once; send large ones a little later"
PLAIN_BYTES: Final = 64 * 1024
"""A body up to this size is handed on as ``bytes``; a larger one as it was gathered, if it came in pieces."""
TURN_BYTES: Final = 512 * 1024
"""What is read of a body before others get their turn. The loop by itself reads 8 MiB: 25 ms (measured)."""
HEADS_LEARNED: Final = 4
"""How many different heads a connection remembers before it stops trying: a client that varies them gains nothing."""


class RefusedError(Exception):
    """Ends a parse from inside one of its callbacks; the reason is in the connection's ``refusal``."""


class HttpConnection(ReplySide):
    """One client's connection: an ``asyncio.Protocol`` in all but name, because an interpreted base cannot be compiled.

    Most clients send the same head with every request of a connection. Once httptools has accepted one, requests that
    repeat it byte for byte but for the digits of Content-Length, and that arrive whole, are not parsed again.
    """

    __slots__ = (
        "body",
        "body_bytes",
        "can_repeat",
        "expects",
        "form_headers",
        "header_bytes",
        "headers",
        "heads_left",
        "held_bytes",
        "known_bytes",
        "known_form",
        "known_head",
        "known_prefix",
        "known_suffix",
        "known_target",
        "last_tick",
        "parser",
        "refusal",
        "target",
        "turn_bytes",
        "unread_bytes",
    )

    def __init__(self, server: HttpServer) -> None:
        super().__init__(server)
        self.parser: Any = httptools.HttpRequestParser(self)
        self.last_tick = server.tick
        self.target = b""
        self.body: Any = b""
        """What has come of a body: a single piece as it came, more in one buffer that grows where it lies."""
        self.form_headers: dict[bytes, bytes] | None = None
        """The headers, by names in lower case, that say that the body is not plain JSON."""
        self.body_bytes = self.header_bytes = self.headers = 0
        self.held_bytes = 0
        """What the body that is being read counts for in the server's."""
        self.turn_bytes = 0
        """How much of the body had come when others got their turn last."""
        self.unread_bytes = 0
        """What has come since the last piece of a body and is none of it: chunk extensions, trailers."""
        self.refusal: tuple[int, str] | None = None
        self.known_head = b""
        """The whole head of the request that was repeated last, which had ``known_bytes`` with its body."""
        self.known_bytes = -1
        self.known_prefix: bytes | None = None
        """The head that may be repeated, up to the digits of Content-Length; ``known_suffix`` is what follows them."""
        self.known_suffix = self.known_target = b""
        self.known_form: BodyForm | None = None
        self.heads_left = HEADS_LEARNED
        self.can_repeat = self.expects = False

    # -- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self.server
        self.transport = transport
        server.connections_total += 1
        server.connections.add(self)
        if server.draining and not server.lingers:
            self._refuse(503, "the server is stopping")
        elif len(server.connections) > self.limits.connections:
            self._refuse(503, f"there are more than {self.limits.connections} connections")

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.parser = None
        self.phase = CLOSED
        self._drop_body()
        first, self.first = self.first, None
        if first is not None:
            first.leave()
        while self.rest:
            self.rest.popleft().leave()
        self.server.forget(self)

    def eof_received(self) -> bool:
        """Keep the way back open while replies are owed to a client that has only closed its sending side.

        What it began and did not end is dropped: it does not cost the replies to what came before.
        """
        if self.first is None or self.first.stream_reply is not None:
            return False
        self.phase = CLOSED
        (self.rest[-1] if self.rest else self.first).flags |= LAST
        return True

    def data_received(self, data: bytes) -> None:
        server = self.server
        self.last_tick = server.tick
        if self.phase == IDLE:
            head = self.known_head
            if len(data) == self.known_bytes and data.startswith(head):
                self._answer_known(data[len(head) :])
                return
            prefix = self.known_prefix
            if prefix is not None and data.startswith(prefix):
                start = len(prefix)
                stop = data.find(b"\r", start, start + 9)
                digits = data[start:stop]
                if stop > start and digits.isdigit() and data.startswith(self.known_suffix, stop):
                    start = stop + len(self.known_suffix)
                    if len(data) - start == int(digits) <= self.limits.body_bytes:
                        self.known_head = data[:start]
                        self.known_bytes = len(data)
                        self._answer_known(data[start:])
                        return
        elif self.phase >= REFUSED:
            return
        self._parse(data)

    # -- reading

    def _answer_known(self, body: bytes) -> None:
        """Handle a request whose head has been seen before, by the shortest way there is."""
        server = self.server
        exchange = Exchange(self, LAST if server.draining else 0)
        answer = server.posts.get(self.known_target) if self.known_form is None else None
        if answer is None or self.first is not None:
            self._handle(exchange, b"POST", self.known_target, body, self.known_form)
            return
        server.requests += 1
        self.first = exchange
        try:
            answer(exchange, body)
        except Exception as error:
            self._fail(exchange, error)

    def _parse(self, data: bytes) -> None:
        was_idle = self.phase == IDLE
        requests = self.server.requests
        body_bytes = self.body_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "changing the protocol of the connection is not supported")
        except httptools.HttpParserCallbackError:
            status, cause = self.refusal or (400, "the request cannot be handled")
            self._refuse(status, cause)
        except httptools.HttpParserError as error:
            self._refuse(400, f"the request is not valid HTTP: {error}")
        else:
            if self.phase == HEAD:
                if self.server.requests == requests:  # else other requests came before this head
                    self.header_bytes += len(data)
                if self.header_bytes > 2 * self.limits.header_bytes:
                    self._refuse(431, f"the head is larger than {self.limits.header_bytes} bytes")
            elif self.phase == BODY:
                if self.body_bytes != body_bytes:
                    self.unread_bytes = 0
                    if self.body_bytes - self.turn_bytes >= TURN_BYTES:
                        self._yield_turn()
                else:
                    self.unread_bytes += len(data)
                    if self.unread_bytes > 2 * self.limits.header_bytes + len(data):
                        self._refuse(431, f"the trailers are larger than {self.limits.header_bytes} bytes")
            elif was_idle and self.phase == IDLE and self.can_repeat and self.heads_left:
                self._learn(data)

    def _learn(self, data: bytes) -> None:
        """Remember the head if these bytes are exactly one request with a length."""
        end = data.find(b"\r\n\r\n") + 4
        found = LENGTH_LINE.search(data, 0, end)
        if found is not None and data.startswith(b"POST ") and len(data) - end == int(found[1]):
            self.heads_left -= 1
            self.known_target = self.target
            self.known_form = None if self.form_headers is None else read_form(self.form_headers)
            self.known_bytes = -1
            self.known_prefix = data[: found.start(1)]
            self.known_suffix = data[found.end(1) : end]

    def on_message_begin(self) -> None:
        """A request begins."""
        if self.phase >= REFUSED:  # in the piece that held the last request that is answered
            raise RefusedError
        self.phase = HEAD
        self.phase_tick = self.server.tick
        self.target = b""
        self.body = b""
        self.form_headers = None
        self.body_bytes = self.header_bytes = self.headers = self.turn_bytes = self.unread_bytes = 0
        self.can_repeat = self.expects = False

    def on_url(self, target: bytes) -> None:
        """A piece of the request target has come."""
        self.target = self.target + target if self.target else target
        if len(self.target) > self.limits.header_bytes:
            self._stop(431, f"the head is larger than {self.limits.header_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come."""
        limits = self.limits
        size = len(name)
        self.header_bytes += size + len(value) + 4
        self.headers += 1
        if self.header_bytes > limits.header_bytes or self.headers > limits.headers:
            self._stop(431, f"the head is larger than {limits.header_bytes} bytes or has over {limits.headers} headers")
        if self.phase == BODY:
            return  # a trailer says nothing (RFC 9110 §6.5.1)
        if size == 6 and name.lower() == b"expect":
            if value.lower() != b"100-continue":
                self._stop(417, "the only expectation that is met is 100-continue")
            self.expects = True
        elif size == 14 and name.lower() == b"content-length":
            if len(value) > 15 or (value.isdigit() and int(value) > limits.body_bytes):
                self._stop(413, TOO_LARGE % limits.body_bytes)
        elif size == 16 and name.lower() == b"content-encoding" and value.lower() != b"identity":
            if self.server.form_handler is None:
                self._stop(415, "bodies with a Content-Encoding are not accepted")
            self._note_form(name, value)
        elif size == 12 and name.lower() == b"content-type":
            if not value.startswith(b"application/json"):
                self._note_form(name, value)
        elif size > 10 and name[:10].lower() == b"clipperfs-":
            self._note_form(name, value)

    def _note_form(self, name: bytes, value: bytes) -> None:
        if self.form_headers is None:
            self.form_headers = {}
        self.form_headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self.phase = BODY
        self.phase_tick = self.server.tick
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            self._stop(505, "the server speaks HTTP/1.1 and HTTP/1.0")
        if self.expects and self.first is None:  # else replies are owed first; a client sends after a while in any case
            self._write(CONTINUE)

    def on_body(self, data: bytes) -> None:
        """A piece of the body has come."""
        self.body_bytes += len(data)
        if self.body_bytes > self.limits.body_bytes:
            self._stop(413, TOO_LARGE % self.limits.body_bytes)
        server = self.server
        self.held_bytes += len(data)
        server.held_bytes += len(data)
        if server.held_bytes > server.most_held_bytes and self.body_bytes > PLAIN_BYTES:
            self._stop(503, TOO_MUCH % server.most_held_bytes)  # small ones go on: a few slow clients may hold it all
        if not self.body:
            self.body = data
            return
        if isinstance(self.body, bytes):
            self.body = bytearray(self.body)
        self.body += data

    def on_message_complete(self) -> None:
        """The request is whole."""
        parser = self.parser
        if parser.should_upgrade():
            self._stop(400, "changing the protocol of the connection is not supported")
        method = parser.get_method()
        flags = 0 if parser.should_keep_alive() and not self.server.draining else LAST
        if parser.get_http_version() == "1.0":
            flags |= OLD
        self.can_repeat = not flags
        if method == b"HEAD":
            flags |= BARE
        body, self.body = self.body, b""
        exchange = Exchange(self, flags)
        exchange.held_bytes, self.held_bytes = self.held_bytes, 0
        form = None if self.form_headers is None else read_form(self.form_headers)
        if len(body) <= PLAIN_BYTES:
            body = bytes(body)
        self._handle(exchange, method, self.target, body, form)

    def _handle(self, exchange: Exchange, method: bytes, target: bytes, body: Body, form: BodyForm | None) -> None:
        server = self.server
        server.requests += 1
        self.phase = IDLE
        if self.first is None:
            self.first = exchange
        else:
            if self._is_last():
                self.phase = CLOSED  # nothing is answered after a reply that closes
                exchange.detach()
                return
            self.rest.append(exchange)
            if len(self.rest) >= self.limits.pipeline:
                self._pause_reading()
        try:
            if form is None or server.form_handler is None:
                server.handler(exchange, method, target, body)
            else:
                server.form_handler(exchange, method, target, body, form)
        except Exception as error:
            self._fail(exchange, error)

    def _fail(self, exchange: Exchange, error: Exception) -> None:
        """Answer for a handler that failed: one request's failure is not its neighbours'."""
        asyncio.get_running_loop().call_exception_handler({"message": "a handler failed", "exception": error})
        exchange.fail(500, "Internal error", "the request could not be handled; the server's log says why")

    def _stop(self, status: int, cause: str) -> NoReturn:
        """End the parse from inside a callback."""
        self.refusal = (status, cause)
        raise RefusedError

    def _refuse(self, status: int, cause: str) -> None:
        """Answer with an error after the replies that are still owed, then close."""
        self._drop_body()
        if self.phase == REFUSED:  # in the piece that held the last request that is answered
            return
        if self.transport is None or self.transport.is_closing() or self._is_last():
            self.phase = CLOSED
            return
        flags = LAST
        if self.phase in (HEAD, BODY) and self.target and self.parser.get_method() == b"HEAD":
            flags |= BARE
        self.server.count_refused(status)
        self.phase = REFUSED
        self.phase_tick = self.server.tick
        exchange = Exchange(self, flags)
        if self.first is None:
            self.first = exchange
        else:
            self.rest.append(exchange)
        exchange.fail(status, "Server unavailable" if status == 503 else "Request refused", cause)

    def _drop_body(self) -> None:
        """Forget what has come of a body."""
        self.body = b""
        self.server.held_bytes -= self.held_bytes
        self.held_bytes = 0

    def _yield_turn(self) -> None:
        """Read on in the next turn of the loop."""
        self.turn_bytes = self.body_bytes
        if not self.reading_paused:
            self._pause_reading()
            asyncio.get_running_loop().call_soon(self.resume_reading)

    # -- the server's call

    def check_times(self) -> None:
        """Close the connection when the client has kept it waiting for too long."""
        limits = self.limits
        tick = self.server.tick
        phase_s = (tick - self.phase_tick) * limits.tick_s
        quiet_s = (tick - self.last_tick) * limits.tick_s
        if self.blocked:
            if (tick - self.blocked_tick) * limits.tick_s > limits.write_timeout_s:
                self.abort()
        elif self.phase == IDLE:
            if self.first is None and quiet_s > limits.idle_timeout_s:
                self._close()
        elif self.phase == HEAD:
            if phase_s > limits.header_timeout_s:
                self._refuse(408, f"the head did not arrive within {limits.header_timeout_s:g} s")
        elif self.phase == BODY:
            if phase_s > limits.body_timeout_s + self.body_bytes / limits.body_rate_bytes_s:
                self._refuse(408, "the body arrives too slowly")
            elif quiet_s > limits.body_timeout_s and not self.reading_paused:
                self._refuse(408, f"nothing of the body arrived for {limits.body_timeout_s:g} s")
        elif self.first is None:
            patience_s = limits.linger_s if self.phase == REFUSED else limits.write_timeout_s
            if phase_s > limits.write_timeout_s or min(phase_s, quiet_s) > patience_s:
                self.abort()
