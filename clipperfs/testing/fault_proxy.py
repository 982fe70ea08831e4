"""An HTTP proxy on loopback that misbehaves on demand: late, silent, cut off, refusing, or losing answers.

It stands between a store and a real server, so that what is tested is the store's own client, to the last socket.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

Mode = Literal["late", "hang", "reset", "cut", "stall", "500", "503", "lost"]
"""``late``: the answer comes after a while. ``hang``: nothing ever comes. ``reset``: the connection breaks before the
request has reached the server. ``cut``: half of the answer's body comes. ``stall``: half of it comes, then nothing, and
the connection stays. ``500``, ``503``: the proxy refuses. ``lost``: the server carries the request out, and the
connection breaks before the answer."""

REFUSALS = {"500": b"500 Internal Server Error", "503": b"503 Slow Down"}

LONGEST_S = 60.0


@dataclass(slots=True)
class _Trouble:
    mode: Mode
    method: str
    path: str
    times: int
    delay_s: float


class FaultProxy:
    """Forwards to ``upstream`` (such as ``http://127.0.0.1:9000``) for as long as the context lasts.

    ``requests`` holds the method and path of every request that came.

    Args:
        upstream: the server.
        onward: what to write in place of another server's ``host:port`` where an answer redirects to it, such as that
            of a proxy in front of it.
    """

    def __init__(self, upstream: str, *, onward: Mapping[str, str] | None = None) -> None:
        self._onward = {one.encode(): other.encode() for one, other in (onward or {}).items()}
        target = urlsplit(upstream)
        self._upstream = (target.hostname or "127.0.0.1", target.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._trouble: _Trouble | None = None
        self._closed = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.requests: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def meet(self, mode: Mode, *, method: str = "", path: str = "", times: int = 1, delay_s: float = 0.5) -> None:
        """Let the next ``times`` requests of this method whose path holds ``path`` meet ``mode``."""
        with self._lock:
            self._trouble = _Trouble(mode, method, path, times, delay_s)

    def behave(self) -> None:
        """Forward everything from now on."""
        with self._lock:
            self._trouble = None

    def __enter__(self) -> FaultProxy:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LONGEST_S)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            connection.settimeout(LONGEST_S)
            self._answer(connection)
        with self._lock:
            self._open.discard(connection)
        connection.close()

    def _answer(self, connection: socket.socket) -> None:
        head, rest = _read_head(connection)
        if not head:
            return
        lines = head.split(b"\r\n")
        method, path, _ = lines[0].decode("latin-1").split(" ", 2)
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        if b"100-continue" in headers.get(b"expect", b"").lower():
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
            body = _read_chunked(connection, rest)
        else:
            missing = int(headers.get(b"content-length", b"0")) - len(rest)
            body = rest + _read_exactly(connection, missing)
        mode, delay_s = self._take(method, path)
        if mode == "hang":
            self._closed.wait(LONGEST_S)
            return
        if mode == "reset":
            _break(connection)
            return
        if mode in REFUSALS:
            answer = b"HTTP/1.1 " + REFUSALS[mode] + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            connection.sendall(answer)
            return
        kept = [line for line in lines[1:] if not line.lower().startswith((b"expect:", b"connection:"))]
        answer = self._forward(b"\r\n".join([lines[0], *kept, b"Connection: close", b"", b""]) + body)
        if mode == "lost":
            _break(connection)
        elif mode in ("cut", "stall"):
            start = answer.find(b"\r\n\r\n") + 4
            connection.sendall(answer[: start + (len(answer) - start) // 2])
            if mode == "stall":
                self._closed.wait(LONGEST_S)
        else:
            time.sleep(delay_s if mode == "late" else 0)
            connection.sendall(answer)

    def _take(self, method: str, path: str) -> tuple[Mode | None, float]:
        with self._lock:
            self.requests.append((method, path))
            trouble = self._trouble
            if trouble is None or trouble.method not in ("", method) or trouble.path not in path or not trouble.times:
                return None, 0.0
            trouble.times -= 1
            return trouble.mode, trouble.delay_s

    def _forward(self, request: bytes) -> bytes:
        with socket.create_connection(self._upstream, timeout=LONGEST_S) as server:
            server.sendall(request)
            chunks = []
            while chunk := server.recv(1 << 16):
                chunks.append(chunk)
        head, separator, body = b"".join(chunks).partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"connection:", b"keep-alive:"))]
        for number, line in enumerate(lines):
            if line.lower().startswith(b"location:"):
                for one, other in self._onward.items():
                    lines[number] = lines[number].replace(one, other)
        return b"\r\n".join([*lines, b"Connection: close"]) + separator + body


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(1 << 16)
        if not chunk:
            return b"", b""
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _read_exactly(connection: socket.socket, count: int) -> bytes:
    chunks = []
    while count > 0:
        chunk = connection.recv(min(count, 1 << 16))
        if not chunk:
            raise ConnectionResetError("the client went away")
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def _read_chunked(connection: socket.socket, rest: bytes) -> bytes:
    """Return a body in chunks as it is spelled, up to its end; without trailers."""
    data = bytearray(rest)
    at = 0
    while True:
        while (end := data.find(b"\r\n", at)) < 0:
            data += _read_some(connection)
        size_bytes = int(data[at:end].partition(b";")[0], 16)
        at = end + 2 + size_bytes + 2
        while len(data) < at:
            data += _read_some(connection)
        if size_bytes == 0:
            return bytes(data)


def _read_some(connection: socket.socket) -> bytes:
    chunk = connection.recv(1 << 16)
    if not chunk:
        raise ConnectionResetError("the client went away")
    return chunk


def _break(connection: socket.socket) -> None:
    """Close with a reset, as a server does that dies."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
