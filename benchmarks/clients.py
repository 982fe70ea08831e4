"""Closed-loop clients that keep every reply's time, version and outcome: what wrk's summary cannot tell.

Run as ``python -m benchmarks.clients URL BODY_FILE CONNECTIONS RESULT_FILE``: prints ``ready`` when every connection
has had its first reply, runs until TERM, then writes the replies as arrays. Times are CLOCK_MONOTONIC, the same in all
processes of a machine.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import sys
import time
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop

ANSWERED, DEFAULTED, FAILED = 0, 1, 2
LONGEST_WAIT_S = 10.0


class Record:
    """All replies so far."""

    def __init__(self) -> None:
        self.end_s: list[float] = []
        self.latency_s: list[float] = []
        self.outcome: list[int] = []
        self.version: list[int] = []
        self.versions: list[str] = []

    def add(self, start_s: float, outcome: int, version: str) -> None:
        """Keep one reply that has just come."""
        if version not in self.versions:
            self.versions.append(version)
        now_s = time.monotonic()
        self.end_s.append(now_s)
        self.latency_s.append(now_s - start_s)
        self.outcome.append(outcome)
        self.version.append(self.versions.index(version))

    def save(self, path: Path) -> None:
        """Write everything as one .npz file."""
        np.savez(
            path,
            end_s=np.array(self.end_s),
            latency_s=np.array(self.latency_s),
            outcome=np.array(self.outcome, dtype=np.int8),
            version=np.array(self.version, dtype=np.int16),
            versions=np.array(self.versions, dtype="U64"),
        )


class Client(asyncio.Protocol):
    """One connection: sends the request, waits for the whole reply, sends the next."""

    def __init__(self, request: bytes, record: Record, first_reply: asyncio.Event, lost: asyncio.Event) -> None:
        self._request, self._record = request, record
        self._first_reply, self.lost = first_reply, lost
        self.start_s = 0.0
        self._begin()

    def _begin(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self._version, self._body = "", b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self.transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self.start_s = time.monotonic()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note which version answered."""
        if name.lower() == b"clipperfs-version":
            self._version = value.decode()

    def on_body(self, data: bytes) -> None:
        """Gather the body."""
        self._body += data

    def on_message_complete(self) -> None:
        """Keep the reply and go on."""
        if self.parser.get_status_code() != 200:
            outcome = FAILED
        else:
            outcome = ANSWERED if b'"default":false' in self._body else DEFAULTED
        self._record.add(self.start_s, outcome, self._version)
        self._first_reply.set()
        self._version, self._body = "", b""
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the loop that keeps this connection alive."""
        self.lost.set()


async def keep_asking(host: str, port: int, request: bytes, record: Record, first_reply: asyncio.Event) -> None:
    """Keep one connection busy. One that is lost or hangs counts as one failed request, and is made anew."""
    loop = asyncio.get_running_loop()
    while True:
        start_s, lost, client = time.monotonic(), asyncio.Event(), None
        try:
            _, client = await loop.create_connection(lambda: Client(request, record, first_reply, lost), host, port)  # noqa: B023
            while not lost.is_set():
                start_s = client.start_s
                try:
                    await asyncio.wait_for(lost.wait(), LONGEST_WAIT_S)
                except TimeoutError:
                    if client.start_s == start_s:
                        client.transport.abort()
        except OSError:
            await asyncio.sleep(0.005)
        record.add(client.start_s if client else start_s, FAILED, "")


async def run(url: str, body: bytes, connections: int, result: Path) -> None:
    """Run the clients until TERM, then write what they have seen."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    request = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.hostname}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    record, stopped = Record(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    firsts = [asyncio.Event() for _ in range(connections)]
    tasks = [asyncio.ensure_future(keep_asking(parts.hostname, parts.port, request, record, first)) for first in firsts]
    await asyncio.gather(*(first.wait() for first in firsts))
    print("ready", flush=True)
    await stopped.wait()
    record.save(result)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the benchmark
    uvloop.run(run(sys.argv[1], Path(sys.argv[2]).read_bytes(), int(sys.argv[3]), Path(sys.argv[4])))
