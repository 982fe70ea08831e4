"""The daemon's status in the registry while another daemon of the same name has the word."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from clipperfs.serverd.herald import Herald

from clipperfs.documents import ReplicaStatus


class Store:
    """Counts what is written."""

    def __init__(self) -> None:
        self.written = 0

    def stat(self, key: str) -> object:
        return self

    def replace(self, key: str, data: bytes) -> None:
        self.written += 1


def status(expires_unix_s: float) -> ReplicaStatus:
    return ReplicaStatus(
        replica="here",
        host="h",
        pid=1,
        software="x",
        time="2026-01-01T00:00:00Z",
        expires_unix_s=expires_unix_s,
        models={},
    )


def test_held_herald_writes_nothing_until_it_is_let_go() -> None:
    async def live() -> list[int]:
        store: Any = Store()
        with ThreadPoolExecutor(1) as executor:
            herald = Herald("here", store, executor, status, lambda: True, period_s=0.01)
            herald.hold()
            running = asyncio.create_task(herald.run())
            counts = []
            for change in (herald.resume, herald.hold):
                await asyncio.sleep(0.1)
                counts.append(store.written)
                change()
            await herald.pause()
            counts.append(store.written)
            await asyncio.sleep(0.1)
            counts.append(store.written)
            running.cancel()
            return counts

    held, written, paused, later = asyncio.run(live())
    assert held == 0
    assert written > 0
    assert paused == later
