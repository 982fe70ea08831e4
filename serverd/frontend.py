"""The frontend process: takes queries over HTTP, routes them to served versions, and follows the controller.

It never touches the registry, runs no model code and writes no log on the request path. The controller starts it (see
``control``), tells it what to serve, and is the only one who ends it: signals for the whole group are left to it.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import uvloop

from clipperfs.wire import Body

from . import control
from .cache import PredictionCache
from .counters import Counters
from .dispatch import Dispatcher
from .exchange import Exchange
from .form import BodyForm
from .forms import FormHandler
from .heap import set_start_aside
from .http import HttpLimits, HttpServer
from .passing import Passing, Taking
from .predict import PredictHandler
from .routing import RoutingTable
from .shared_page import PageAskers
from .slow import SlowLog

BACKLOG: Final = 2048
CACHE_BYTES: Final = 64 * 1024 * 1024
GC_THRESHOLD: Final = 50_000
PR_SET_PDEATHSIG: Final = 1
LIMITS: Final = HttpLimits()
ALLOW_GET: Final = b"Allow: GET, HEAD\r\n"
ALLOW_POST: Final = b"Allow: POST\r\n"
CONTROLLER_GONE: Final = 70
"""The exit code when the control channel ended."""


class Frontend:
    """One frontend on a running loop."""

    def __init__(
        self, endpoint: str, index: int, limits: HttpLimits, cache_bytes: int, slow_s: float | None = None
    ) -> None:
        self.counters = Counters()
        self.cache = PredictionCache(cache_bytes)
        self.server = HttpServer(self.handle, limits, self.handle_form)
        self.table = RoutingTable()
        self.drained = asyncio.Event()
        self._may_listen = asyncio.Event()
        self._waits_for_accepting = False
        self._listeners: list[asyncio.Server] = []
        self._taking: Taking | None = None
        self._channel: control.ControlChannel | None = None
        self._askers = PageAskers(lambda number: self._send(control.ASK, id=number, what="metrics"))
        self._index = index
        self._released: list[str] = []
        self._dispatcher = Dispatcher(
            endpoint,
            self.cache,
            self.counters,
            self._take_release,
            self._tell_hang,
            self._tell_lost,
            SlowLog(slow_s, self._tell_slow),
            index,
        )
        self._predict = PredictHandler(self._dispatcher, self.cache, first_query_id(index, time.time()))
        self._forms = FormHandler(self._predict, limits.body_bytes)

    async def start(
        self,
        listeners: Sequence[socket.socket],
        control_end: socket.socket,
        *,
        has_clients: bool = False,
        heir_of: str | None = None,
    ) -> None:
        """Listen, join the controller, and say so.

        Args:
            listeners: Bound sockets.
            control_end: The frontend's end of the control channel.
            has_clients: The sockets listen already, so clients may wait in their queues: nobody is answered before the
                first table says what is served.
            heir_of: Where to take over the connections of another daemon's frontends. That daemon answers for now:
                nobody is answered before a table accepts.
        """
        loop = asyncio.get_running_loop()
        self._waits_for_accepting = heir_of is not None
        self._channel = await control.open_channel(control_end, self._obey, _exit_at_once)
        if self.table.epoch:  # it may have come before the channel was there to say so
            self._channel.send(control.APPLIED, epoch=self.table.epoch, released=[])
        self.server.start()
        if heir_of is not None:
            self._taking = Taking(self.server, heir_of)
        if has_clients:
            await self._may_listen.wait()
        if self.server.draining:  # before it was its turn: whoever waits in the queues is another one's
            return
        for listener in listeners:
            self._listeners.append(await loop.create_server(self.server, sock=listener, backlog=BACKLOG))
        self._channel.send(control.READY, pid=os.getpid(), port=listeners[0].getsockname()[1])

    async def serve(self) -> None:
        """Serve until drained."""
        await self.drained.wait()
        if self._taking is not None:
            self._taking.close()
        self.server.stop()
        self._forms.close()
        self._dispatcher.close()

    # -- HTTP

    def handle(self, exchange: Exchange, method: bytes, target: bytes, body: Body) -> None:
        """Answer one request."""
        route = self._predict.routes.get(target)
        if route is not None and method == b"POST":
            self._predict.handle(route, exchange, body)
        else:
            self._handle_other(exchange, method, target.partition(b"?")[0], body)

    def handle_form(self, exchange: Exchange, method: bytes, target: bytes, body: Body, form: BodyForm) -> None:
        """Answer one request whose body is not plain JSON."""
        path = target.partition(b"?")[0]
        if method == b"POST" and path in self._predict.routes:
            self._forms.handle(path, exchange, body, form)
        else:
            self._handle_other(exchange, method, path, body)

    def _handle_other(self, exchange: Exchange, method: bytes, path: bytes, body: Body) -> None:
        route = self._predict.routes.get(path)
        if route is not None:
            if method == b"POST":
                self._predict.handle(route, exchange, body)
            else:
                exchange.fail(405, "Method not allowed", "a prediction is asked for with POST", ALLOW_POST)
        elif path in (b"/metrics", b"/livez", b"/readyz"):
            if method not in (b"GET", b"HEAD"):
                exchange.fail(405, "Method not allowed", f"{path.decode()} is read with GET", ALLOW_GET)
            elif path == b"/metrics":
                self._askers.add(exchange)
            elif path == b"/livez":
                exchange.reply_json(200, {"status": "live"})
            else:
                self._tell_readiness(exchange)
        else:
            parts = path.strip(b"/").split(b"/")
            name = parts[0].decode("ascii", "backslashreplace")[:64]
            if len(parts) == 2 and parts[1] == b"predict":
                cause = f"there is no application {name}; 'clipperfs app list' shows those there are"
            else:
                cause = "the paths are /<application>/predict, /metrics, /livez and /readyz"
            exchange.fail(404, "Not found", cause)

    def _tell_readiness(self, exchange: Exchange) -> None:
        if self.server.draining and not self.server.lingers:
            exchange.fail(503, "Not ready", "the daemon is stopping")
        elif not self.table.accepting:
            exchange.fail(503, "Not ready", "the daemon has not loaded what it is to serve yet")
        else:
            exchange.reply_json(200, {"status": "ready", "epoch": self.table.epoch})

    # -- the controller's messages

    def _obey(self, message: control.Message) -> None:
        kind = message["t"]
        if kind == control.TABLE:
            self._apply(RoutingTable.from_plain(message))
        elif kind == control.TEXT:
            self._askers.take(message)
        elif kind == control.METRICS:
            self._send(control.METRICS, id=message["id"], data=self.snapshot())
        elif kind == control.DRAIN and not self.server.draining:
            self._may_listen.set()
            listeners, self._listeners = self._listeners, []
            for listener in listeners:
                listener.close()
            if heirs := message.get("heirs"):
                Passing(self.server, heirs, self._index, self.drained.set)
            else:
                self.server.drain(self.drained.set)

    def _apply(self, table: RoutingTable) -> None:
        released, self._released = self._released, []
        served = self._dispatcher.apply(table)
        self._predict.follow(table, served, self.counters)
        self.server.posts = self._predict.posts
        self.table = table
        if table.accepting or not self._waits_for_accepting:
            self._may_listen.set()
        released += self._released
        self._released = []
        self._send(control.APPLIED, epoch=table.epoch, released=released)

    def _take_release(self, key: str) -> None:
        """A version that left the table has no query left: tell, after whatever else ends in this turn of the loop."""
        self._released.append(key)
        if len(self._released) == 1:
            asyncio.get_running_loop().call_soon(self._tell_released)

    def _tell_released(self) -> None:
        if self._released:
            released, self._released = self._released, []
            self._send(control.APPLIED, epoch=self.table.epoch, released=released)

    def _tell_hang(self, identity: str, batch_s: float) -> None:
        self._send(control.HANG, replica=identity, batch_s=batch_s)

    def _tell_lost(self, identity: str) -> None:
        self._send(control.LOST, replica=identity)

    def _tell_slow(self, facts: dict[str, Any]) -> None:
        self._send(control.SLOW, facts=facts)

    def _send(self, kind: str, **fields: Any) -> None:
        if self._channel is not None:
            self._channel.send(kind, **fields)

    def snapshot(self) -> dict[str, Any]:
        """Return all counters as plain data (``counters.Counters.snapshot`` says in what form)."""
        return {
            "pid": os.getpid(),
            **self.counters.snapshot(),
            "http": self.server.snapshot(),
            "cache": self.cache.snapshot(),
            "queues": self._dispatcher.snapshot(),
        }


def first_query_id(index: int, unix_s: float) -> int:
    """Return where a frontend starts to count queries: unique among frontends and restarts, below 2**53 for JSON.

    A restart comes at least a second later, and no frontend answers 131,072 queries a second.
    """
    return (index << 46) + (int(unix_s - 1_735_689_600) << 17)


def open_listener(host: str, port: int) -> socket.socket:
    """Return a bound socket that other frontends may share the port of."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    return listener


def die_with(parent_pid: int) -> None:
    """Have the kernel end this process when the controller is gone, however it went."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it went before the call
        os._exit(CONTROLLER_GONE)


def _exit_at_once() -> None:
    os._exit(CONTROLLER_GONE)


async def run(options: argparse.Namespace) -> None:
    """Serve as the command line says until the controller has it drained."""
    listeners = [socket.socket(fileno=number) for number in options.listen_fd]
    has_clients = bool(listeners)
    if not listeners:
        listeners.append(open_listener(options.host, options.port))
    limits = HttpLimits(body_bytes=options.max_body_bytes, connections=options.max_connections)
    endpoint = control.frontend_endpoint(options.runtime, options.index)
    frontend = Frontend(endpoint, options.index, limits, options.cache_bytes, options.slow_s)
    control_end = socket.socket(fileno=options.control_fd)
    heir_of = control.heir_socket(options.runtime, options.index) if options.heir else None
    await frontend.start(listeners, control_end, has_clients=has_clients, heir_of=heir_of)
    set_start_aside()
    gc.set_threshold(GC_THRESHOLD, 50, 100)
    await frontend.serve()


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Return the settings that the controller gives on the command line."""
    parser = argparse.ArgumentParser(prog="clipperfs.serverd.frontend")
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--runtime", required=True, help="the daemon's private directory for sockets")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1337)
    parser.add_argument(
        "--listen-fd", type=int, action="append", default=[], help="a listening socket, instead of host and port"
    )
    parser.add_argument("--heir", action="store_true", help="another daemon answers until this one's table accepts")
    parser.add_argument("--max-body-bytes", type=int, default=LIMITS.body_bytes)
    parser.add_argument("--max-connections", type=int, default=LIMITS.connections)
    parser.add_argument("--slow-s", type=float, help="queries that take longer are told of")
    parser.add_argument("--cache-bytes", type=int, default=CACHE_BYTES)
    return parser.parse_args(arguments)


def main() -> None:
    """Run a frontend process."""
    options = parse_arguments(sys.argv[1:])
    die_with(options.parent_pid)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(options))


if __name__ == "__main__":
    main()
