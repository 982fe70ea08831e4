"""When to look at the registry: a jittered poll always, the system's file events as an accelerator, a call at once.

A look runs on a thread under a deadline of its own, so a storage that hangs never holds up the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

from clipperfs.serverd.adopter import Adopter
from clipperfs.serverd.events import Events
from clipperfs.serverd.reader import Look, RegistryReader
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from clipperfs import layout
from clipperfs.errors import ClipperfsError, StorageUnavailable

LOOK_LIMIT_S = 30.0
"""After this long without a single answer the registry counts as unreachable. A look at thousands of ledgers may take
longer, as long as it gets on."""
GATHER_S = 0.005
"""Events of one change come in bursts. The first is looked after at once, all others by one look so much later."""
SETTLE_SHARE = 0.25
"""Looking for plain copies may take this part of the time between two such looks; other models wait for their turn."""
WATCHED_LOGS = 64
"""Up to this many models have their own log folder watched, too."""


class Watcher:
    """Looks at the registry and hands over what it found.

    Args:
        executor: for looks: they must never wait behind a long fetch.
        slow_executor: for adopting copies.
        on_look: called on the loop after each look that succeeded.
        on_failure: called on the loop after each that did not.
    """

    def __init__(
        self,
        reader: RegistryReader,
        adopter: Adopter,
        executor: Executor,
        slow_executor: Executor,
        events: Events,
        *,
        models: list[str] | None,
        poll_s: float,
        sweep_s: float,
        on_look: Callable[[Look], None],
        on_failure: Callable[[ClipperfsError], None],
    ) -> None:
        self.follows = False
        self.reader = reader
        self._adopter = adopter
        self._executor = executor
        self._slow_executor = slow_executor
        self._events = events
        self._models = models
        self._poll_s = poll_s
        self._sweep_s = sweep_s
        self._on_look = on_look
        self._on_failure = on_failure
        self._poked = asyncio.Event()
        self._lock = asyncio.Lock()
        self._stuck: asyncio.Future[Any] | None = None
        self._settling: asyncio.Future[bool] | None = None
        self._owes_sweep = False
        self._swept_s: float | None = None
        self._observer: Any = None
        self._watched: set[str] = set()
        self._loop = asyncio.get_running_loop()

    def poke(self) -> None:
        """Have a look taken soon. Call it on the loop."""
        self._poked.set()

    def follow(self, follow: bool) -> None:
        """Follow the registry from now on, or no longer."""
        self.follows = follow
        self.poke()

    async def run(self) -> None:
        """Look for ever, as long as the registry is followed."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_s * random.uniform(0.8, 1.2)):  # noqa: S311
                        await self._poked.wait()
                self._poked.clear()
                if self.follows:
                    with contextlib.suppress(ClipperfsError):  # told through on_failure
                        await self.look()
                await asyncio.sleep(GATHER_S)
        finally:
            self._unobserve()

    async def look(self, *, full: bool = False) -> Look:
        """Look now; return what is known. Raises what the reader raises, and StorageUnavailable after the deadline."""
        async with self._lock:
            try:
                look, is_sweep = await self._look(full)
            except ClipperfsError as error:
                self._unobserve()
                self._on_failure(error)
                raise
            self._on_look(look)
            if self.follows:
                self._observe(look)
                # Copies are found by listing models' versions: over a network, all at a sweep, some at a poll.
                self._settle_copies(look, is_sweep or self._is_near)
            return look

    async def _look(self, full: bool) -> tuple[Look, bool]:
        now_s = self._loop.time()
        if self._stuck is not None:
            if not self._stuck.done():
                raise StorageUnavailable("the registry still does not answer an earlier look")
            self._stuck = None
        full = full or self._swept_s is None or now_s - self._swept_s >= self._sweep_s
        working = self._loop.run_in_executor(self._executor, lambda: self.reader.look(full=full))
        answers = -1
        while not working.done() and answers != self.reader.answers:
            answers = self.reader.answers
            await asyncio.wait({working}, timeout=LOOK_LIMIT_S)
        if not working.done():
            self._stuck = working
            working.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise StorageUnavailable(f"the registry does not answer within {LOOK_LIMIT_S:g} s")
        look = working.result()
        if full:
            self._swept_s = now_s
        return look, full

    @property
    def _is_near(self) -> bool:
        return self.reader.workspace.store.capabilities.native_events

    def _settle_copies(self, look: Look, everything: bool) -> None:
        """Have plain copies adopted, on a thread: hashing them and running hooks may take long.

        Looking at everything takes a share of the time until it is due again; the next time goes on where it ended.
        """
        self._owes_sweep = self._owes_sweep or everything
        if self._settling is None or self._settling.done():
            everything, self._owes_sweep = self._owes_sweep, False
            turn_s = SETTLE_SHARE * (self._poll_s if self._is_near else self._sweep_s)
            settle = partial(self._adopter.settle_soon, look.models, self._models, everything=everything, turn_s=turn_s)
            self._settling = self._loop.run_in_executor(self._slow_executor, settle)
            self._settling.add_done_callback(self._take_settled)

    def _take_settled(self, settling: asyncio.Future[bool]) -> None:
        if settling.cancelled():
            return
        error = settling.exception()
        if error is None and settling.result():
            self.poke()
        elif error is not None and not isinstance(error, ClipperfsError):
            self._events.tell("failed", reason=f"adopting copies: {type(error).__name__}: {error}")

    def _observe(self, look: Look) -> None:
        """Have the system tell of changes, where the registry lies on this host. Never needed, only quicker."""
        store = self.reader.workspace.store
        if not store.capabilities.native_events:
            return
        folders = [layout.CHANGES]
        if len(look.models) <= WATCHED_LOGS:
            folders += [layout.log(layout.model_subject(name)) for name in look.models]
        for folder in folders:
            path = store.local_path(folder)
            if folder in self._watched or path is None or not path.is_dir():
                continue
            try:
                if self._observer is None:
                    # It warns when a folder vanishes under it; the poll notices that with a reason.
                    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"watchdog\.")
                    self._observer = Observer()
                    self._observer.daemon = True
                    self._observer.start()
                self._observer.schedule(_Poker(self.poke_from_thread), str(path), recursive=False)
                self._watched.add(folder)
            except (OSError, RuntimeError) as error:  # no inotify instances left, for example
                self._events.tell("polling only", reason=str(error))
                self._watched.add(folder)

    def _unobserve(self) -> None:
        observer, self._observer = self._observer, None
        self._watched.clear()
        if observer is not None:
            observer.stop()

    def poke_from_thread(self) -> None:
        """Have a look taken soon. Any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.poke)


class _Poker(FileSystemEventHandler):
    """Passes on that a record or a hint was created or moved into place; what it says, the look finds out.

    A record is written under another name first. A look at that would find nothing, and hold up the next one.
    """

    def __init__(self, poke: Callable[[], None]) -> None:
        self._poke = poke

    def on_created(self, event: FileSystemEvent) -> None:
        self._take(event.src_path)

    def on_moved(self, event: FileSystemEvent) -> None:
        self._take(event.dest_path)

    def _take(self, path: bytes | str) -> None:
        name = os.path.basename(os.fsdecode(path))
        if layout.slot_seq(name) is not None or layout.is_change(name):
            self._poke()
