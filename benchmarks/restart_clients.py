"""Open-loop clients that say how each request ended: the load of ``restart``.

Run as ``python -m benchmarks.restart_clients URL BODY_FILE RATE RESULT_FILE``: prints ``ready`` after a first answer,
sends ``RATE`` requests a second until TERM, then writes the counts as JSON. Every fifth request has a connection of its
own; the others share connections that are kept, and given up when a reply says ``Connection: close``. Times count from
when a request was due.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import signal
import sys
from collections import Counter, deque
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import uvloop

FRESH_EVERY = 5
LONGEST_WAIT_S = 10.0
OUTCOMES = ("answered", "default", "reset", "refused", "no reply", "not 200", "timeout")

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Clients:
    """All requests of a run, and what came of them."""

    def __init__(self, host: str, port: int, path: str, body: bytes) -> None:
        self.outcomes: Counter[str] = Counter()
        self.latency_s: list[float] = []
        self.asked_to_close = 0
        self.closed_idle = 0
        """Kept connections that ended while no request was on them."""
        self._host, self._port = host, port
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        self._kept = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._fresh = f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        self._idle: deque[Connection] = deque()

    async def ask(self, number: int, due_s: float) -> None:
        """Send one request and note how it ended."""
        is_fresh = number % FRESH_EVERY == 0
        connection: Connection | None = None
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                connection = await self._connection(is_fresh)
                outcome, stays = await self._exchange(connection, self._fresh if is_fresh else self._kept)
        except (ConnectionResetError, BrokenPipeError):
            outcome, stays = "reset", False
        except ConnectionRefusedError:
            outcome, stays = "refused", False
        except asyncio.IncompleteReadError:
            outcome, stays = "no reply", False
        except TimeoutError:
            outcome, stays = "timeout", False
        self.outcomes[outcome] += 1
        self.latency_s.append(asyncio.get_running_loop().time() - due_s)
        if connection is not None:
            if stays and not is_fresh:
                self._idle.append(connection)
            else:
                self.asked_to_close += not is_fresh and outcome == "answered"
                connection[1].close()

    def close(self) -> None:
        """Close the connections that are kept."""
        for _, writer in self._idle:
            writer.close()

    async def _connection(self, is_fresh: bool) -> Connection:
        while not is_fresh and self._idle:
            reader, writer = self._idle.popleft()  # the one that rested longest: none is forgotten
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            self.closed_idle += 1
            writer.close()
        return await asyncio.open_connection(self._host, self._port)

    @staticmethod
    async def _exchange(connection: Connection, request: bytes) -> tuple[str, bool]:
        """Return how the request ended, and whether the connection may be used again."""
        reader, writer = connection
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        stays = b"\r\nconnection: close\r\n" not in head
        if head[9:12] != b"200":
            return "not 200", stays
        return "answered" if b'"default":false' in body else "default", stays


async def run(url: str, body: bytes, rate: float, result: Path) -> None:
    """Send requests until TERM, then write what came of them."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    clients = Clients(parts.hostname, parts.port, parts.path, body)
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await clients.ask(0, loop.time())
    print("ready", flush=True)
    tasks: set[asyncio.Task[None]] = set()
    start_s, sent = loop.time(), 0
    while not stopped.is_set():
        while (due_s := start_s + sent / rate) <= loop.time():
            sent += 1
            task = asyncio.create_task(clients.ask(sent, due_s))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(due_s - loop.time()):
                await stopped.wait()
    await asyncio.gather(*tasks)
    clients.close()
    latency_ms = np.array(clients.latency_s) * 1000
    found = {
        "outcomes": {outcome: clients.outcomes[outcome] for outcome in OUTCOMES},
        "asked_to_close": clients.asked_to_close,
        "closed_idle": clients.closed_idle,
        "p50_ms": float(np.percentile(latency_ms, 50)),
        "p99_ms": float(np.percentile(latency_ms, 99)),
        "longest_ms": float(latency_ms.max()),
    }
    result.write_text(json.dumps(found))


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the benchmark
    uvloop.run(run(sys.argv[1], Path(sys.argv[2]).read_bytes(), float(sys.argv[3]), Path(sys.argv[4])))
