"""The tasks of a daemon: one group owns every one of them, and one that is not vital fails without harm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

LOG = logging.getLogger("clipperfs.serverd")


class Tasks:
    """Starts tasks in a group."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group

    def spawn(self, work: Coroutine[Any, Any, Any], name: str, *, vital: bool = False) -> asyncio.Task[Any]:
        """Start a task that the group owns. The failure of one that is not vital is logged, and that is all."""
        return self._group.create_task(work if vital else self._guarded(work, name), name=name)

    async def unless(self, event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
        """Do some work; say whether it was done before the event came."""
        doing = self._group.create_task(work)
        stopping = self._group.create_task(_wait(event))
        await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        is_done = doing.done()
        for task in (doing, stopping):
            task.cancel()
        if is_done:
            await doing
        return is_done

    async def _guarded(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        try:
            await work
        except Exception:
            LOG.exception("task %r failed", name)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
