"""The open loop: sends each query when it is due, on whichever connection is free, and notes what comes back."""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from time import perf_counter
from typing import Any

import httptools

from clipperfs.bench.plan import LoadPlan, Loss, Reply, Sample, empty_sample, request_head
from clipperfs.errors import DaemonNotRunning, ServingError

AGAIN_S = 0.05
"""How long no connection is tried again after one could not be opened."""
CATCH_UP_S = 0.0005
"""A query that is due within this time is sent now: timers are not more precise."""


class LoadFailed(ServingError):
    """Not one query of a load run was answered."""


class _Connection(asyncio.Protocol):
    """One connection with at most one query out."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._transport: Any = None
        self._parser: Any = None
        self._body = bytearray()
        self.due_s = -1.0
        """When the query that is out was due; below 0: none is."""
        self.counts = False
        """Whether it is no part of the warm-up."""
        self.version = ""
        self.last_answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes, due_s: float, counts: bool) -> None:
        """Send a query."""
        self.due_s = due_s
        self.counts = counts
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._load.fail(self, f"not HTTP: {error}")
            self._transport.abort()

    def on_body(self, data: bytes) -> None:
        """A piece of the reply's body has come."""
        self._body += data

    def on_message_complete(self) -> None:
        """The reply is whole."""
        body, self._body = bytes(self._body), bytearray()
        self.last_answer = body
        status, stays = self._parser.get_status_code(), self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        self._load.take(self, status, body, stays)
        if not stays:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lose(self, "the connection was reset" if error else "the connection was closed")

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()


class _ReadingConnection(_Connection):
    """One that also reads which version answers: a call for each header, which a plain run does not pay for."""

    def on_message_begin(self) -> None:
        """A reply begins."""
        self.version = ""

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come."""
        if name.lower() == b"clipperfs-version":
            self.version = value.decode("latin-1")


class _Load:
    """The state of one run."""

    def __init__(
        self,
        plan: LoadPlan,
        on_second: Callable[[int, int], None] | None,
        on_reply: Callable[[Reply], None] | None = None,
    ) -> None:
        self.plan = plan
        self._on_reply = on_reply
        self.sample = empty_sample()
        self._requests = [request_head(plan, len(body)) + body for body in plan.bodies]
        self._free: deque[_Connection] = deque()
        self._all: set[_Connection] = set()
        self._waiting: deque[tuple[int, float]] = deque()
        self._due = plan.due_times()
        self._first = bisect_left(self._due, plan.warm_up_s)
        """The first query after the warm-up."""
        self._next = 0
        self._open = 0
        """Queries that are out, or wait for a connection."""
        self._coming = 0
        """Connections that are being opened because none was free."""
        self._try_again_s = 0.0
        self._on_second = on_second
        self._told_s = 0
        self._start = 0.0
        self._is_over = False
        self._done = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> Sample:
        """Send everything, wait for the answers, return what came of it."""
        loop = asyncio.get_running_loop()
        opened = await asyncio.gather(
            *(self._connect() for _ in range(self.plan.first_connections)), return_exceptions=True
        )
        if not self._free:
            error = next((one for one in opened if isinstance(one, BaseException)), None)
            raise DaemonNotRunning(
                f"nothing answers at {self.plan.host}:{self.plan.port}: {error}",
                hint="start a daemon with: clipperfs start",
            )
        self._start = self.sample.start_s = perf_counter()
        loop.call_soon(self._tick)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), self._due[-1] + self.plan.timeout_s)
        sample = self.finish()
        await asyncio.sleep(0)  # for the connections to close
        return sample

    def finish(self) -> Sample:
        """End the run, however far it is."""
        self._is_over = True
        now_s = perf_counter() - self._start if self._start else 0.0
        self.sample.elapsed_s = min(now_s, self.plan.warm_up_s + self.plan.seconds)
        self.sample.unfinished = self._open
        for task in self._tasks:
            task.cancel()
        for connection in list(self._all):
            connection.abort()
        return self.sample

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        kind = _Connection if self._on_reply is None else _ReadingConnection
        _, connection = await loop.create_connection(lambda: kind(self), self.plan.host, self.plan.port)
        self._all.add(connection)
        self.sample.connections = max(self.sample.connections, len(self._all))
        self._release(connection)

    def _tick(self) -> None:
        """Send what is due; come back when the next query is."""
        if self._is_over:
            return
        now_s = perf_counter() - self._start
        due, sample = self._due, self.sample
        while self._next < len(due) and due[self._next] <= now_s + CATCH_UP_S:
            due_s = min(due[self._next], now_s)  # what is sent a moment early counts from then
            sample.late_s = max(sample.late_s, now_s - due_s)
            self._open += 1
            sample.sent += 1
            if self._free:
                self._send(self._free.popleft(), self._next, due_s)
            else:
                self._waiting.append((self._next, due_s))
                self._open_another(self._next >= self._first)
            self._next += 1
        if self._on_second is not None and now_s >= self._told_s + 1:
            self._told_s = int(now_s)
            self._on_second(self._told_s, len(sample.latency_s))
        if self._next < len(due):
            asyncio.get_running_loop().call_later(max(0.0, due[self._next] - now_s), self._tick)
        else:
            self._end_if_done()

    def take(self, connection: _Connection, status: int, body: bytes, stays: bool) -> None:
        """Note an answer."""
        due_s, connection.due_s = connection.due_s, -1.0
        if due_s < 0:
            return
        self._open -= 1
        if self._on_reply is not None:
            latency_s = perf_counter() - self._start - due_s
            self._on_reply(Reply(self._start + due_s, latency_s, status, connection.version, body))
        if status != 200:
            self._count(self.sample.failures, connection, f"status {status}")
        else:
            number = 0
            if b'"default":true' in body:
                explanation = _explanation(body)
                self._count(self.sample.defaults, connection, explanation)
                if connection.counts:
                    number = min(255, list(self.sample.defaults).index(explanation) + 1)
            if connection.counts:
                self.sample.due_s.append(due_s)
                self.sample.latency_s.append(perf_counter() - self._start - due_s)
                self.sample.default_number.append(number)
        if stays:
            self._release(connection)
        self._end_if_done()

    def fail(self, connection: _Connection, what: str) -> None:
        """Note that a query has no answer."""
        due_s, connection.due_s = connection.due_s, -1.0
        if due_s >= 0:
            self._open -= 1
            self._count(self.sample.failures, connection, what)
            self._end_if_done()

    def lose(self, connection: _Connection, what: str) -> None:
        """Replace a connection that has gone."""
        if self._is_over:
            return
        at_s = perf_counter() - self._start
        self.sample.losses.append(Loss(at_s, connection.due_s >= 0, connection.last_answer))
        self.fail(connection, what)
        self._all.discard(connection)
        with suppress(ValueError):
            self._free.remove(connection)
        self._keep(self._replace())

    async def _replace(self) -> None:
        while not self._is_over:
            try:
                await self._connect()
            except OSError:
                await asyncio.sleep(AGAIN_S)
            else:
                return

    def _open_another(self, counts: bool) -> None:
        """Open a connection for a query that finds none free, where the plan allows one."""
        has_room = len(self._all) + self._coming < self.plan.most_connections
        if has_room and perf_counter() >= self._try_again_s:
            self._coming += 1
            self._keep(self._come(counts))
        else:
            self.sample.waited += counts

    async def _come(self, counts: bool) -> None:
        try:
            await self._connect()
        except OSError:
            self.sample.waited += counts  # for one of those that are there
            self._try_again_s = perf_counter() + AGAIN_S
        finally:
            self._coming -= 1

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _release(self, connection: _Connection) -> None:
        if self._waiting and not self._is_over:
            number, due_s = self._waiting.popleft()
            self._send(connection, number, due_s)
        else:
            self._free.append(connection)

    def _send(self, connection: _Connection, number: int, due_s: float) -> None:
        connection.send(self._requests[number % len(self._requests)], due_s, number >= self._first)

    def _count(self, counts: dict[str, int], connection: _Connection, what: str) -> None:
        if connection.counts:
            counts[what] = counts.get(what, 0) + 1

    def _end_if_done(self) -> None:
        if self._next >= len(self._due) and self._open == 0:
            self._done.set()


def _explanation(body: bytes) -> str:
    try:
        return str(json.loads(body).get("default_explanation"))[:200]
    except ValueError:
        return "a reply that is not JSON"


def run_load(
    plan: LoadPlan,
    on_second: Callable[[int, int], None] | None = None,
    on_reply: Callable[[Reply], None] | None = None,
) -> Sample:
    """Send the queries of a plan, and return what came of them. Ctrl-C ends the run early and keeps what there is.

    Args:
        plan: what to send, and when.
        on_second: called about once a second with the seconds since the start and the answers so far.
        on_reply: called with every reply, those of the warm-up too. It takes the generator's time: be quick.

    Raises:
        DaemonNotRunning: nothing listens there.
    """
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    load: _Load | None = None

    async def live() -> Sample:
        nonlocal load
        load = _Load(plan, on_second, on_reply)
        return await load.run()

    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            return runner.run(live())
        except KeyboardInterrupt:
            if load is None:
                raise
            sample = load.sample
            sample.interrupted = True
            sample.elapsed_s = max(sample.due_s, default=plan.warm_up_s)
            return sample
