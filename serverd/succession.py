"""One daemon after another: how a daemon gets its place, from nobody or from the one that runs, and how it gives it on.

The place is the state folder with its lock, the ports, the two sockets that others look for, and the daemon's name in
the registry.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any, Final

from clipperfs.serverd.admin import AdminServer
from clipperfs.serverd.events import Events
from clipperfs.serverd.frontends import FrontendPool
from clipperfs.serverd.hand_over import HandOver
from clipperfs.serverd.herald import Herald
from clipperfs.serverd.listening import close_sockets
from clipperfs.serverd.runtime_folder import RuntimeFolder
from clipperfs.serverd.settings import DaemonSettings
from clipperfs.serverd.statedir import StateDir
from clipperfs.serverd.take_over import Offer, TakeOver
from clipperfs.serverd.tenure import Tenure

from clipperfs.daemon_files import DaemonDocument, runtime_dir, start_ticks

LEAST_DRAIN_S: Final = 5.0
"""What has begun gets at least this time when another daemon goes on: nothing is to fail."""
FAREWELL_S: Final = 5.0
"""How long the other daemon of a hand-over may take to end when both are to."""


class Succession:
    """A daemon's place. Everything happens on the event loop.

    Args:
        offer: what the daemon that runs has sent; ``None``: there is none.
        stop: drains and ends this daemon, given for how long at most.
        hurry: cuts what still drains short, after so many seconds.
        serving: returns by model the versions that answer queries.
        started: when this daemon began, for people.
        on_taken: called when the place was taken over: what the other daemon wrote last can be read.
        tell_starter: passes a JSON object on to whoever started the daemon.
    """

    def __init__(
        self,
        settings: DaemonSettings,
        state: StateDir,
        offer: Offer | None,
        events: Events,
        herald: Herald,
        spawn_task: Callable[..., Any],
        *,
        stop: Callable[[float], None],
        hurry: Callable[[float], None],
        serving: Callable[[], dict[str, set[str]]],
        started: str,
        on_taken: Callable[[], None],
        tell_starter: Callable[[dict[str, Any]], None],
    ) -> None:
        self.runtime = RuntimeFolder(
            runtime_dir(state.path) if settings.takes_over is None else settings.takes_over.parent
        )
        self.is_stopping = False
        self.heirs: list[str] | None = None
        """Where the frontends of the daemon are that goes on in this one's place, once there is one."""
        self._settings = settings
        self._state = state
        self._offer = offer
        self._events = events
        self._herald = herald
        self._spawn_task = spawn_task
        self._stop = stop
        self._hurry = hurry
        self.serving = serving
        self._started = started
        self._on_taken = on_taken
        self._tell_starter = tell_starter
        self._may_abandon = True
        self._was_asked_to_end = False
        self._predecessor: TakeOver | None = None
        self._frontends: FrontendPool
        self._admin: AdminServer
        self._hand_over: HandOver
        self._tenure: Tenure

    @property
    def has_predecessor(self) -> bool:
        """Say whether the place is to be taken over from a daemon that runs."""
        return self._offer is not None

    @property
    def is_waiting(self) -> bool:
        """Say whether another daemon is in the place still: this one has nothing to finish."""
        return self.has_predecessor and (self._predecessor is None or not self._predecessor.is_done)

    @property
    def is_succeeded(self) -> bool:
        """Say whether another daemon is in the place."""
        return self.heirs is not None

    def bind(self, frontends: FrontendPool, admin: AdminServer) -> int | None:
        """Take the ports, from the daemon that runs where they are the same; return the admin port.

        Raises DaemonStartFailed, InvalidSetting.
        """
        self._frontends, self._admin = frontends, admin
        self._hand_over = HandOver(self, self.runtime, self._events, self._spawn_task)
        self._tenure = Tenure(self._state, self.runtime, admin, self._herald, self._hand_over, self._document)
        offer, settings = self._offer, self._settings
        if offer is None:
            frontends.bind()
            return admin.bind(settings.admin_port)
        if (offer.host, offer.port) == (settings.host, settings.port):
            frontends.take_over(offer.listeners)
        else:
            frontends.bind()
            close_sockets(offer.listeners)
        if offer.admin is not None and offer.admin_port == settings.admin_port:
            return admin.take_over(offer.admin)
        if offer.admin is not None:
            offer.admin.close()
        return admin.bind(settings.admin_port)

    def _document(self) -> DaemonDocument:
        pid = os.getpid()
        ticks = start_ticks(pid)
        assert ticks is not None
        return DaemonDocument(
            pid=pid,
            started_ticks=ticks,
            started=self._started,
            host=self._settings.host,
            port=self._frontends.port,
            admin_port=self._admin.port,
            admin_socket=str(self.runtime.admin_socket),
            registry=self._settings.registry,
        )

    # The way in

    async def begin(self) -> None:
        """Take the place if it is free; otherwise begin to take it over. Raises StorageError."""
        loop = asyncio.get_running_loop()
        if self._offer is None:
            await self._tenure.begin()
        else:
            self._herald.hold()
            self._predecessor = TakeOver(self._offer, self.runtime.own, self._take_empty_place, self._stop)
            if self._settings.abandon_fd is not None:
                loop.add_reader(self._settings.abandon_fd, self._take_abandonment)
        if (lifeline := self._lifeline) is not None:
            loop.add_reader(lifeline, self._take_lifeline, lifeline)

    async def ask_to_accept(self, failed: list[dict[str, Any]]) -> None:
        """Ask, when everything is loaded, whether this daemon may answer. Raises what the one that runs objects to."""
        if self._predecessor is not None:
            await self._predecessor.ask("loaded", failed=failed)
            self._may_abandon = False  # clients are connected from here on

    async def take_place(self) -> None:
        """Be the daemon from here on; what answered until now drains and ends."""
        if self._predecessor is not None:
            await self._predecessor.ask("ready")
            if not self._state.is_ours:
                await self._tenure.begin()
                self._on_taken()
            self._predecessor.confirm(self._frontends.heirs)

    def _take_empty_place(self) -> None:
        """The daemon before has died: go on in its place, however far this one is."""
        self._events.tell("took over", reason="the daemon before died")
        self._spawn_task(self._take_at_once(), "take the place", vital=True)

    async def _take_at_once(self) -> None:
        await self._tenure.begin()
        self._on_taken()

    @property
    def _lifeline(self) -> int | None:
        return self._offer.lifeline if self._offer is not None else self._settings.lifeline_fd

    def _take_lifeline(self, lifeline: int) -> None:
        asyncio.get_running_loop().remove_reader(lifeline)
        if not self.is_stopping and not self.is_succeeded:
            self._events.tell("starter gone")
            self._stop(self._settings.drain_s)

    def _take_abandonment(self) -> None:
        assert self._settings.abandon_fd is not None
        asyncio.get_running_loop().remove_reader(self._settings.abandon_fd)
        if self._may_abandon and not self._state.is_ours:
            self._events.tell("starter gone")
            self._stop(0.0)

    # The way out: what a successor asks

    def offer(self) -> tuple[dict[str, Any], dict[str, int], list[int]]:
        """Return where queries are answered, the files by name that belong to the place, and the listening sockets."""
        named = {"lock": self._state.lock, "admin": self._admin.listener, "lifeline": self._lifeline}
        facts = {"host": self._settings.host, "port": self._frontends.port, "admin_port": self._admin.port}
        return facts, {name: one for name, one in named.items() if one is not None}, self._frontends.listeners

    async def yield_place(self) -> None:
        """Write nothing any more that the successor writes."""
        await self._tenure.yield_up()

    def take_back(self) -> None:
        """Go on: the successor has gone."""
        if not self.is_stopping:
            self._spawn_task(self._tenure.begin(), "take the place back", vital=True)

    def leave(self, heirs: list[str]) -> None:
        """Drain and end: everybody who asks reaches the successor."""
        self.heirs = heirs
        self._tenure.leave()
        self._stop(max(self._settings.drain_s, LEAST_DRAIN_S))

    def hurry(self, drain_s: float) -> None:
        """End what still drains within ``drain_s`` seconds: somebody has ended the successor."""
        self._hurry(drain_s)

    # The end

    def begin_end(self, drain_s: float, *, is_asked: bool) -> None:
        """Tell the other daemon of a hand-over, where there is one, that both are to end.

        Args:
            drain_s: how long it may take.
            is_asked: somebody wants the end. A daemon that fails by itself leaves its place to a successor.
        """
        self.is_stopping = True
        self._was_asked_to_end = is_asked
        if is_asked and not self.is_succeeded:
            self._hand_over.dismiss(drain_s)
        if self._predecessor is not None:
            self._predecessor.hurry(drain_s)

    async def await_others(self, drain_s: float) -> None:
        """Wait until the other daemons of a hand-over have ended, which takes ``drain_s`` seconds and a bit at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s + FAREWELL_S):
                if self._predecessor is not None:
                    await self._predecessor.await_end()
                if not self.is_succeeded:
                    await self._hand_over.await_end()

    def end(self) -> None:
        """Let go of the place, or of what is left of it."""
        self._admin.close()
        self._hand_over.close()
        self.runtime.remove(with_common=not self.is_succeeded and not self.is_waiting)
        if self._was_asked_to_end and self.is_waiting:
            self._tell_starter(
                {
                    "state": "failed",
                    "error": {"error": "DaemonStartFailed", "message": "it was told to end before it was ready"},
                }
            )
