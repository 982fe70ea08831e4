"""What a daemon does now and then so that nothing grows for ever: its log, the local cache, hints in the registry."""

from __future__ import annotations

import asyncio
import logging
import random
from concurrent.futures import Executor

from clipperfs.serverd.statedir import StateDir

from clipperfs.collect import prune_hints
from clipperfs.errors import ClipperfsError
from clipperfs.workspace import Workspace

LOG = logging.getLogger("clipperfs.serverd")

LOG_LIMIT_BYTES = 64 * 1024 * 1024
TRIM_S = 60.0
"""How often the log's size is looked at."""
TIDY_S = 600.0
"""How often the cache and the hints are looked at, with jitter: many daemons share a registry."""


class Upkeep:
    """Runs beside everything else and fails without harm.

    Args:
        executor: for what blocks.
        cache_limit_bytes: what the local cache may hold beside the versions that are in use.
    """

    def __init__(self, state: StateDir, workspace: Workspace, executor: Executor, cache_limit_bytes: int) -> None:
        self._state = state
        self._workspace = workspace
        self._executor = executor
        self._cache_limit_bytes = cache_limit_bytes

    async def run(self) -> None:
        """Go on until cancelled."""
        loop = asyncio.get_running_loop()
        tidy_at_s = loop.time() + TRIM_S
        while True:
            self._state.trim_log(LOG_LIMIT_BYTES)
            if loop.time() >= tidy_at_s:
                await loop.run_in_executor(self._executor, self.tidy)
                tidy_at_s = loop.time() + TIDY_S * (0.75 + random.random() / 2)  # noqa: S311
            await asyncio.sleep(TRIM_S)

    def tidy(self) -> None:
        """Drop what the cache holds beyond its limit, and hints that are a day old. Blocks on the storage."""
        try:
            freed_bytes = self._workspace.cache.evict(self._cache_limit_bytes)
            if freed_bytes:
                LOG.info("the cache gave %d bytes back", freed_bytes)
            prune_hints(self._workspace)
        except (ClipperfsError, OSError) as error:
            LOG.warning("upkeep: %s", error)
