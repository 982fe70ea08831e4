"""The admin interface: JSON over HTTP, everything on a unix socket of the owner's, only the pages on loopback TCP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from clipperfs.serverd import metrics
from clipperfs.serverd.events import Events
from clipperfs.serverd.exchange import Exchange, StreamReply
from clipperfs.serverd.http import HttpLimits, HttpServer
from clipperfs.serverd.http_status import status_of
from clipperfs.serverd.passing import LINGER_S

from clipperfs.errors import ClipperfsError, DaemonStartFailed, InvalidInput, InvalidSetting

LIMITS = HttpLimits(body_bytes=64 * 1024, connections=256)
LOOPBACK = "127.0.0.1"
MAX_DRAIN_S = 3600.0

Page = tuple[int, str, bytes]
"""Status code, content type, body."""


class Administered(Protocol):
    """What the interface administers: the controller."""

    @property
    def is_ready(self) -> bool: ...
    def status(self) -> dict[str, Any]: ...
    def successor_settings(self) -> dict[str, Any]: ...
    async def metrics(self) -> bytes: ...
    async def reload(self, model: str | None) -> dict[str, Any]: ...
    def follow(self, follow: bool) -> None: ...
    def stop(self, drain_s: float) -> None: ...


class AdminServer:
    """Both listeners of the interface."""

    def __init__(
        self, subject: Administered, events: Events, spawn_task: Callable[[Coroutine[Any, Any, Any], str], Any]
    ) -> None:
        self._subject = subject
        self._events = events
        self._spawn_task = spawn_task
        self._full = HttpServer(lambda *request: self._handle(*request, may_post=True), LIMITS)
        self._pages = HttpServer(lambda *request: self._handle(*request, may_post=False), LIMITS)
        self._commands: asyncio.Server | None = None
        self._shown: asyncio.Server | None = None
        self._tcp: socket.socket | None = None
        self.port: int | None = None
        """The loopback port."""
        self._streams: set[StreamReply] = set()

    def bind(self, port: int | None) -> int | None:
        """Take the loopback port; return its number. Raises DaemonStartFailed when it is in use."""
        if port is None:
            return None
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((LOOPBACK, port))
            listener.listen(64)
        except OSError as error:
            listener.close()
            raise DaemonStartFailed(
                f"admin port {port} on {LOOPBACK} cannot be used: {error.strerror}",
                hint="choose another with --admin-port; 0 takes any free one",
                port=port,
            ) from error
        return self.take_over(listener)

    def take_over(self, listener: socket.socket) -> int:
        """Go on with the loopback port of another daemon, instead of :meth:`bind`; return its number."""
        self._tcp = listener
        number: int = listener.getsockname()[1]
        self.port = number
        return number

    @property
    def listener(self) -> int | None:
        """Return the descriptor of the socket that listens on the loopback port."""
        return None if self._tcp is None else self._tcp.fileno()

    async def start(self, socket_path: Path) -> None:
        """Listen on the unix socket, mode 0600, and on the port taken before. Called again: on a new unix socket."""
        loop = asyncio.get_running_loop()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(socket_path))
        os.chmod(socket_path, 0o600)
        if self._commands is None:
            self._full.start()
        else:
            self._commands.close()
        self._commands = await loop.create_unix_server(self._full, sock=listener)
        if self._tcp is not None and self._shown is None:
            self._pages.start()
            self._shown = await loop.create_server(self._pages, sock=self._tcp)

    def leave(self) -> None:
        """Hear nobody new: another daemon does. Who follows the events is let go, to follow those of the other one."""
        self._close_listeners()
        for stream in list(self._streams):
            stream.end()
        for server in (self._full, self._pages):
            server.drain(lambda: None, LINGER_S)

    def close(self) -> None:
        """Stop listening and cut every connection."""
        self._close_listeners()
        self._full.stop()
        self._pages.stop()

    def _close_listeners(self) -> None:
        for listener in (self._commands, self._shown):
            if listener is not None:
                listener.close()
        if self._tcp is not None:
            self._tcp.close()

    async def page(self, what: str) -> Page:
        """Return one of the pages by name, for a client of either port."""
        match what:
            case "status":
                return 200, "application/json", _json(self._subject.status())
            case "metrics":
                return 200, metrics.CONTENT_TYPE, await self._subject.metrics()
            case "livez":
                return 200, "application/json", _json({"status": "live"})
            case "readyz":
                ready = self._subject.is_ready
                return 200 if ready else 503, "application/json", _json({"status": "ready" if ready else "not ready"})
        return 404, "application/json", _json({"error": "NotFound", "message": f"there is no page {what}"})

    def _handle(self, exchange: Exchange, method: bytes, target: bytes, body: bytes, *, may_post: bool) -> None:
        name = target.partition(b"?")[0].decode("ascii", "replace").strip("/")
        if method in (b"GET", b"HEAD"):
            if name == "events":
                self._stream(exchange)
            elif name == "settings" and may_post:  # not for everybody who reaches the port
                exchange.reply(200, _json(self._subject.successor_settings()))
            else:
                self._spawn_task(self._answer(exchange, self._show(exchange, name)), f"GET /{name}")
        elif method != b"POST" or name not in ("reload", "watch", "stop"):
            known = name in ("reload", "watch", "stop", "status", "metrics", "livez", "readyz", "events")
            status, text = (405, f"/{name} does not take this method") if known else (404, f"there is no page {name}")
            exchange.reply(status, _json({"error": "NotFound", "message": text}))
        elif not may_post:
            message = "this port only shows; commands go to the daemon's unix socket"
            exchange.reply(403, _json({"error": "StorageDenied", "message": message}))
        else:
            self._spawn_task(self._answer(exchange, self._command(exchange, name, body)), f"POST /{name}")

    async def _answer(self, exchange: Exchange, work: Awaitable[None]) -> None:
        try:
            await work
        except ClipperfsError as error:
            exchange.reply(status_of(error), _json(error.as_document()))

    async def _show(self, exchange: Exchange, name: str) -> None:
        status, content_type, body = await self.page(name)
        exchange.reply(status, body, content_type.encode())

    async def _command(self, exchange: Exchange, name: str, body: bytes) -> None:
        fields = _fields(body)
        match name:
            case "reload":
                model = _field(fields, "model", str | None, None)
                exchange.reply(200, _json(await self._subject.reload(model)))
            case "watch":
                follow = _field(fields, "follow", bool, True)
                self._subject.follow(follow)
                exchange.reply(200, _json({"follow": follow}))
            case "stop":
                drain_s = _field(fields, "drain_s", float | int | None, None)
                if drain_s is not None and not 0 <= drain_s <= MAX_DRAIN_S:
                    raise InvalidSetting(f"drain_s lies between 0 and {MAX_DRAIN_S:g}, not {drain_s}")
                exchange.reply(200, _json({"stopping": True}))
                self._subject.stop(30.0 if drain_s is None else float(drain_s))

    def _stream(self, exchange: Exchange) -> None:
        def leave() -> None:
            forget()
            self._streams.discard(stream)

        stream = exchange.stream(200, b"application/x-ndjson", leave)
        forget = self._events.add(stream.write)
        self._streams.add(stream)
        stream.write(b"\n")  # an empty line: the reader knows that from here on it misses nothing


def _fields(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    with contextlib.suppress(ValueError, RecursionError):
        fields = json.loads(body)
        if isinstance(fields, dict):
            return fields
    raise InvalidInput("the body must be a JSON object")


def _field(fields: dict[str, Any], name: str, kind: Any, default: Any) -> Any:
    value = fields.get(name, default)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InvalidInput(f"field {name!r} has a value that cannot be used: {value!r}")
    return value


def _json(value: Any) -> bytes:
    return json.dumps(value, default=str).encode()
