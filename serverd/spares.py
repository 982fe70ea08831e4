"""The warm spares of a daemon: made when it is calm, given out once, replaced when they have died or are stale.

The start of a Python process with numpy and ZeroMQ is the longest part of a switch to a model that loads quickly.
Everything happens on the event loop's thread, with which spares die as replicas do.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from clipperfs.serverd.easing import ease

from clipperfs.replica.process import ReplicaProcess
from clipperfs.replica.spare import Spare, birthmark, start_spare
from clipperfs.replica.spec import ReplicaSpec

LOG = logging.getLogger("clipperfs.serverd")

CALM_S = 0.3
"""So long after a load nothing is done for the next one."""
BUSY_S = 10.0
"""So long a spare is put off while something loads."""
AGAIN_LAST_S = 600.0
"""So long at most after spares that died unused."""


def spares_wanted(replicas: Iterable[int], cores: int) -> int:
    """Return how many spares to keep: what the widest model needs for a switch, as far as there are cores. Pure.

    Args:
        replicas: how many replicas each served model has.
        cores: how many the daemon may use.
    """
    return min(max(replicas, default=0), cores)


class Spares:
    """Keeps as many spares as it is told to, from the first :meth:`keep` to :meth:`close`."""

    def __init__(self) -> None:
        self._spares: list[Spare] = []
        self._count = 0
        self._deaths = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_put_off = False
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._spares)

    @property
    def pids(self) -> list[int]:
        """Return the processes of the spares."""
        return [spare.pid for spare in self._spares]

    def keep(self, count: int, *, is_calm: bool) -> None:
        """Keep so many spares from now on. What is missing is made soon when it is calm, else in a while.

        Call it whenever either may have changed.
        """
        self._count = 0 if self._is_closed else count
        while len(self._spares) > self._count:
            self._let_go(self._spares[-1]).close()
        if self._timer is not None and (len(self._spares) >= self._count or (self._is_put_off and is_calm)):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and len(self._spares) < self._count:
            self._is_put_off = not is_calm
            wait_s = CALM_S if is_calm else BUSY_S
            wait_s = max(wait_s, min(AGAIN_LAST_S, 2.0**self._deaths)) if self._deaths else wait_s
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._make)

    def take(self, spec: ReplicaSpec, log_path: Path) -> ReplicaProcess | None:
        """Make a spare a replica; return ``None`` when there is none that would do. Raises LoadFailed."""
        mark = birthmark(os.environ, spec.threads)
        for spare in sorted(self._spares, key=lambda one: not one.is_warm):
            self._let_go(spare)
            if not spare.fits(mark):
                spare.close()
            elif (process := spare.become(spec, log_path)) is not None:
                return process
        return None

    def close(self) -> None:
        """End every spare; there will be no more."""
        self._is_closed = True
        self.keep(0, is_calm=True)

    def _make(self) -> None:
        self._timer = None
        try:
            spare = start_spare()
        except OSError as error:
            self._note_death(f"cannot be started: {error}")
            return
        ease(spare.pid, can_wait=True)
        self._spares.append(spare)
        asyncio.get_running_loop().add_reader(spare.fileno(), self._hear, spare)

    def _hear(self, spare: Spare) -> None:
        if not spare.hear():
            self._let_go(spare).close()
            self._note_death("ended before it was used")
        elif spare.is_warm:
            self._deaths = 0
            ease(spare.pid)  # now, for what it will load: the kernel takes such changes ten times a second only
            self.keep(self._count, is_calm=True)

    def _note_death(self, how: str) -> None:
        self._deaths += 1
        LOG.warning("a spare replica process %s; replicas start without one meanwhile", how)
        self.keep(self._count, is_calm=True)

    def _let_go(self, spare: Spare) -> Spare:
        asyncio.get_running_loop().remove_reader(spare.fileno())
        self._spares.remove(spare)
        return spare
