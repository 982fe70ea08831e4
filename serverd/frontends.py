"""The frontend processes: their listening sockets, their control channels, and which routing table each has applied.

The listening sockets belong to the controller and are inherited by the frontends. While a frontend that died is being
started again, clients that connect wait in its socket's queue instead of being refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipperfs.serverd import control
from clipperfs.serverd.control import ControlChannel, Message, open_channel
from clipperfs.serverd.events import Events
from clipperfs.serverd.life import Life
from clipperfs.serverd.listening import bind_more, bind_query_port, close_sockets, share_out
from clipperfs.serverd.reconciler import BACKOFF_FIRST_S, BACKOFF_LAST_S, CRASH_WINDOW_S
from clipperfs.serverd.routing import RoutingTable
from clipperfs.serverd.totals import Totals

from clipperfs.replica.process import exit_reason

PULSE_S = 5.0
"""How often a frontend is asked for a sign of life."""
SILENCE_S = 15.0
"""How long it may take to give one."""
METRICS_S = 1.0
"""How long a frontend may take to hand over its counters."""


@dataclass(slots=True)
class Frontend:
    """One frontend process."""

    index: int
    process: subprocess.Popen[bytes]
    pidfd: int
    born_epoch: int
    """Number of the first table that it was sent: it knows nothing of what had left before."""
    life: Life = field(default_factory=lambda: Life(time.monotonic()))
    channel: ControlChannel | None = None
    is_ready: bool = False
    is_draining: bool = False
    applied: int = 0
    released: set[str] = field(default_factory=set)
    asked: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)


class FrontendPool:
    """All frontends of a daemon. Everything happens on the event loop.

    Args:
        on_change: called when a frontend became ready, died, applied a table or released a version.
        on_replica: called with ``hang`` or ``lost``, a replica's identity, and the message.
        options: further words of each frontend's command line.
        is_heir: another daemon answers until this one is ready: its frontends wait for a table that accepts, and take
            over the connections of the other's.
        answer: returns status, content type and body for a question that a client put to the query port, and for how
            many seconds others may be given the same answer.
        spawn_task: owns the tasks that this pool starts.
    """

    def __init__(
        self,
        *,
        count: int,
        host: str,
        port: int,
        runtime_dir: str,
        options: Sequence[str] = (),
        is_heir: bool = False,
        events: Events,
        on_change: Callable[[], None],
        on_replica: Callable[[str, str, Message], None],
        answer: Callable[[str], Any],
        spawn_task: Callable[[Any, str], Any],
    ) -> None:
        self.host = host
        self.port = port
        self.count = count
        self.restarts = 0
        self.table = RoutingTable()
        self._totals = Totals()
        self._runtime_dir = runtime_dir
        self._options = (*options, "--heir") if is_heir else tuple(options)
        self._events = events
        self._on_change = on_change
        self._on_replica = on_replica
        self._answer = answer
        self._spawn_task = spawn_task
        self._listeners: list[socket.socket] = []
        self._frontends: dict[int, Frontend] = {}
        self._deaths_s: list[float] = []
        self._is_stopping = False
        self._ask_id = 0

    def bind(self) -> None:
        """Take the query port: the first thing a daemon does, so that a port in use costs nothing.

        Raises DaemonStartFailed, InvalidSetting.
        """
        self._listeners = bind_query_port(self.host, self.port, self.count)
        self.port = self._listeners[0].getsockname()[1]

    def take_over(self, listeners: Sequence[socket.socket]) -> None:
        """Go on with the sockets of another daemon on this host and port, instead of :meth:`bind`.

        The other daemon accepts until the frontends have a table that does. Raises DaemonStartFailed.
        """
        self._listeners = [*listeners, *bind_more(listeners, self.host, self.count)]
        self.port = self._listeners[0].getsockname()[1]

    @property
    def listeners(self) -> list[int]:
        """Return the descriptors of all listening sockets."""
        return [one.fileno() for one in self._listeners]

    @property
    def heirs(self) -> list[str]:
        """Return where each frontend takes connections over from the frontends of another daemon."""
        return [control.heir_socket(self._runtime_dir, index) for index in range(self.count)]

    def start(self) -> None:
        """Start every frontend."""
        for index in range(self.count):
            self._spawn_task(self._start(index), f"frontend {index}")

    @property
    def is_loopback(self) -> bool:
        """Say whether only this host reaches the query port."""
        addresses = {listener.getsockname()[0] for listener in self._listeners}
        return all(ipaddress.ip_address(address).is_loopback for address in addresses)

    @property
    def are_ready(self) -> bool:
        """Say whether every frontend listens."""
        return len(self._frontends) == self.count and all(one.is_ready for one in self._frontends.values())

    @property
    def have_joined(self) -> bool:
        """Say whether every frontend has a table, though it may not listen yet."""
        return len(self._frontends) == self.count and all(one.applied for one in self._frontends.values())

    def publish(self, table: RoutingTable) -> None:
        """Send a table to every frontend."""
        self.table = table
        plain = table.to_plain()
        for one in self._frontends.values():
            self._send_table(one, plain)

    def has_applied(self, epoch: int) -> bool:
        """Say whether every frontend that lives routes by table ``epoch`` or a later one."""
        return all(one.applied >= epoch for one in self._frontends.values())

    def is_released(self, key: str, epoch: int) -> bool:
        """Say whether no frontend has a query of a version that is absent from table ``epoch`` and later ones."""
        return all(
            one.applied >= epoch and (one.born_epoch >= epoch or key in one.released)
            for one in self._frontends.values()
        )

    def forget(self, key: str) -> None:
        """Drop the memory that a version was released: it is gone."""
        for one in self._frontends.values():
            one.released.discard(key)

    async def collect(self) -> list[dict[str, Any]]:
        """Return the counters of every frontend that hands them over in time."""
        asked: list[asyncio.Future[dict[str, Any]]] = []
        self._ask_id += 1
        for one in self._frontends.values():
            if one.channel is not None and one.is_ready:
                answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
                one.asked[self._ask_id] = answer
                one.channel.send(control.METRICS, id=self._ask_id)
                asked.append(answer)
        number = self._ask_id
        if asked:
            await asyncio.wait(asked, timeout=METRICS_S)
        for one in self._frontends.values():
            one.asked.pop(number, None)
        return [answer.result() for answer in asked if answer.done() and not answer.cancelled()]

    async def collect_totals(self) -> list[dict[str, Any]]:
        """Return counters that add up to what all frontends have counted, those that have ended included."""
        await self.collect()
        return self._totals.all([one.process.pid for one in self._frontends.values()])

    def describe(self) -> list[dict[str, Any]]:
        """Return the state of each frontend as plain data."""
        known = [self._frontends.get(index) for index in range(self.count)]
        return [
            {"index": index, "state": "starting", "pid": None, "epoch": 0}
            if one is None
            else {
                "index": index,
                "state": "draining" if one.is_draining else "ready" if one.is_ready else "starting",
                "pid": one.process.pid,
                "epoch": one.applied,
            }
            for index, one in enumerate(known)
        ]

    async def watch_pulse(self) -> None:
        """Ask every frontend for a sign of life now and then; kill one that gives none, so that it is started again."""
        while True:
            await asyncio.sleep(PULSE_S)
            self._ask_id += 1
            number = self._ask_id
            asked = [one for one in self._frontends.values() if one.channel is not None and one.is_ready]
            for one in asked:
                one.asked[number] = asyncio.get_running_loop().create_future()
                assert one.channel is not None
                one.channel.send(control.METRICS, id=number)
            if asked:
                await asyncio.wait([one.asked[number] for one in asked], timeout=SILENCE_S)
            for one in asked:
                if one.asked.pop(number, None) is not None and one.index in self._frontends and not one.is_draining:
                    self._events.tell("frontend hangs", index=one.index, pid=one.process.pid, silent_s=SILENCE_S)
                    self._cut(one)

    async def drain(self, timeout_s: float, heirs: Sequence[str] = ()) -> None:
        """Let every frontend finish what it has, then end; kill those that take longer than ``timeout_s``.

        Args:
            timeout_s: for all of it.
            heirs: where another daemon's frontends take over the connections that no query is under way on.
        """
        self._is_stopping = True
        self._close_listeners()
        for one in self._frontends.values():
            one.is_draining = True
            if one.channel is not None:
                one.channel.send(control.DRAIN, heirs=list(heirs))
        give_up_s = time.monotonic() + timeout_s
        while self._frontends and (left_s := give_up_s - time.monotonic()) > 0:
            waiting = [asyncio.ensure_future(self._ended(one)) for one in self._frontends.values()]
            _, pending = await asyncio.wait(waiting, timeout=left_s)
            for task in pending:
                task.cancel()
        self.kill()

    def kill(self) -> None:
        """Kill every frontend and reap it. Blocks for an instant."""
        self._is_stopping = True
        self._close_listeners()
        for one in list(self._frontends.values()):
            with contextlib.suppress(ProcessLookupError):
                one.process.kill()
            one.process.wait()
            self._forget(one)

    async def _ended(self, one: Frontend) -> None:
        while one.index in self._frontends:
            await asyncio.sleep(0.01)

    def _close_listeners(self) -> None:
        close_sockets(self._listeners)
        self._listeners = []

    async def _start(self, index: int) -> None:
        if self._is_stopping or index in self._frontends:
            return
        mine, its = socket.socketpair()
        mine_of_all = share_out(len(self._listeners), self.count)[index]
        listeners = [self._listeners[number].fileno() for number in mine_of_all]
        try:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "clipperfs.serverd.frontend"),
                    *("--control-fd", str(its.fileno())),
                    *("--parent-pid", str(os.getpid())),
                    *("--index", str(index)),
                    *("--runtime", self._runtime_dir),
                    *("--host", self.host),
                    *("--port", str(self.port)),
                    *(word for one in listeners for word in ("--listen-fd", str(one))),
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(its.fileno(), *listeners),
            )
        except OSError as error:
            mine.close()
            self._events.tell("frontend died", index=index, reason=f"it cannot be started: {error}")
            self._start_later(index)
            return
        finally:
            its.close()
        one = Frontend(index, process, os.pidfd_open(process.pid), born_epoch=self.table.epoch)
        self._frontends[index] = one
        asyncio.get_running_loop().add_reader(one.pidfd, self._reap, one)
        one.channel = await open_channel(mine, lambda message: self._take(one, message), lambda: self._cut(one))
        one.born_epoch = self.table.epoch
        if self.table.epoch:
            self._send_table(one, self.table.to_plain())

    def _send_table(self, one: Frontend, plain: dict[str, Any]) -> None:
        if one.channel is not None:
            one.born_epoch = one.born_epoch or plain["epoch"]
            one.channel.send(control.TABLE, **plain)

    def _take(self, one: Frontend, message: Message) -> None:
        match message["t"]:
            case control.READY:
                one.is_ready = True
                one.life.get_ready(time.monotonic())
                self._on_change()
            case control.APPLIED:
                one.applied = max(one.applied, int(message["epoch"]))
                one.released.update(message.get("released", ()))
                self._on_change()
            case control.METRICS:
                self._totals.note(one.process.pid, message["data"])
                answer = one.asked.pop(message["id"], None)
                if answer is not None and not answer.done():
                    answer.set_result(message["data"])
            case control.ASK:
                self._spawn_task(self._reply(one, message["id"], message["what"]), "answer a client")
            case control.SLOW:
                self._events.tell("slow query", frontend=one.index, **message["facts"])
            case control.HANG | control.LOST:
                self._on_replica(message["t"], message["replica"], message)

    async def _reply(self, one: Frontend, number: int, what: str) -> None:
        status, content_type, body, keep_s = await self._answer(what)
        if one.channel is not None:
            one.channel.send(control.TEXT, id=number, status=status, ctype=content_type, body=body, keep_s=keep_s)

    def _cut(self, one: Frontend) -> None:
        """The channel has ended, so the process ends, or must."""
        one.channel = None
        if not one.is_draining:
            with contextlib.suppress(ProcessLookupError):
                one.process.send_signal(signal.SIGKILL)

    def _reap(self, one: Frontend) -> None:
        code = one.process.poll()
        if code is None:
            return
        self._forget(one)
        if not self._is_stopping:
            self._events.tell("frontend died", index=one.index, pid=one.process.pid, reason=exit_reason(code))
            self._start_later(one.index, one.life)
        self._on_change()

    def _forget(self, one: Frontend) -> None:
        if self._frontends.get(one.index) is one:
            del self._frontends[one.index]
            self._totals.bury(one.process.pid)
            asyncio.get_running_loop().remove_reader(one.pidfd)
            os.close(one.pidfd)
            for answer in one.asked.values():
                answer.cancel()
            if one.channel is not None:
                one.channel.close()

    def _start_later(self, index: int, life: Life | None = None) -> None:
        now_s = time.monotonic()
        self.restarts += 1
        self._deaths_s = [death for death in self._deaths_s if death > now_s - CRASH_WINDOW_S]
        # Clients are in the queue: no wait, unless it died as soon as it was ready, and not for the first time. A loop
        # of deaths must not eat the machine.
        wait_s = 0.0
        if life is None or not life.was_worth_its_start(now_s):
            wait_s = BACKOFF_FIRST_S * 2 ** (len(self._deaths_s) - 1) if self._deaths_s else 0.0
            self._deaths_s.append(now_s)
        wait_s = min(BACKOFF_LAST_S, wait_s) * (1 + random.random() / 4)  # noqa: S311  (spreads restarts, no secret)
        asyncio.get_running_loop().call_later(wait_s, lambda: self._spawn_task(self._start(index), f"frontend {index}"))
