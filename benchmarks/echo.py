"""The yardstick: a fixed reply of 14 bytes from raw uvloop and httptools, with nothing else in between.

Run as ``python -m benchmarks.echo``: binds a port from the system on loopback, prints it, serves until it is ended.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import signal
from typing import cast

import httptools
import uvloop

BODY = b'{"output":1.0}'
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n" + BODY


class Echo(asyncio.Protocol):
    """One connection: every complete request gets the same reply."""

    __slots__ = ("parser", "transport")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start a parser for the connection."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class has the methods, not the parent
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived; the parser calls back."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_complete(self) -> None:
        """Reply, as soon as the whole body is there."""
        self.transport.write(REPLY)


async def serve() -> None:
    """Serve until TERM."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    gc.freeze()
    await stopped.wait()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the benchmark
    uvloop.run(serve())
