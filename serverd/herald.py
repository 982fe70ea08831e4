"""The daemon's own status in the registry, ``replicas/<name>.json``: for others to see, best effort, and it expires."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Executor

from clipperfs import layout
from clipperfs.documents import ReplicaStatus, canonical_bytes
from clipperfs.errors import StorageError
from clipperfs.store import Store

LIFETIMES = 3
"""A status expires after this many of its periods."""
GATHER_S = 0.05
"""One file for a burst of changes."""
WITHDRAW_S = 1.0


class Herald:
    """Writes the status on every change and once a period, and takes it away in the end.

    Args:
        make: returns the status, given when it expires.
        is_reachable: says whether writing is worth a try.
        period_s: how often it is written though nothing changes.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        executor: Executor,
        make: Callable[[float], ReplicaStatus],
        is_reachable: Callable[[], bool],
        period_s: float,
    ) -> None:
        self._key = layout.replica_status(name)
        self._store = store
        self._executor = executor
        self._make = make
        self._is_reachable = is_reachable
        self._period_s = period_s
        self._due = asyncio.Event()
        self._writing = asyncio.Lock()
        self._is_withdrawn = False
        self._is_paused = False

    def tell_soon(self) -> None:
        """Have the status written soon: something changed."""
        self._due.set()

    async def run(self) -> None:
        """Write for ever."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._period_s):
                    await self._due.wait()
            await asyncio.sleep(min(GATHER_S, self._period_s))
            self._due.clear()
            async with self._writing:
                if self._is_withdrawn or self._is_paused or not self._is_reachable():
                    continue
                data = canonical_bytes(self._make(time.time() + LIFETIMES * self._period_s))
                with contextlib.suppress(StorageError):
                    await loop.run_in_executor(self._executor, self._write, data)

    def hold(self) -> None:
        """Write nothing until :meth:`resume`: another daemon writes under the same name."""
        self._is_paused = True

    async def pause(self) -> None:
        """Hold, and wait for what is being written."""
        self.hold()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WITHDRAW_S), self._writing:
                pass

    def resume(self) -> None:
        """Write again, soon."""
        self._is_paused = False
        self.tell_soon()

    def _write(self, data: bytes) -> None:
        # Where a registry was taken away, or a disk unmounted, nothing is to appear in its place.
        if self._store.stat(layout.REGISTRY) is not None:
            self._store.replace(self._key, data)

    async def withdraw(self) -> None:
        """Take the status away: the daemon is ending."""
        with contextlib.suppress(StorageError, TimeoutError):
            async with asyncio.timeout(WITHDRAW_S), self._writing:
                self._is_withdrawn = True
                await asyncio.get_running_loop().run_in_executor(self._executor, self._store.delete, self._key)
