"""How far a daemon is: which routing table its frontends have, which records are in effect, and waiting for either."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from clipperfs.serverd.desired import ACTIVE
from clipperfs.serverd.fleet import Fleet
from clipperfs.serverd.frontends import FrontendPool
from clipperfs.serverd.table import build_table

LOOK_AGAIN_S = 0.5
"""A condition that somebody waits for is looked at this often though nothing is told."""


class Progress:
    """The daemon's way from one settled state to the next. Everything happens on the event loop.

    Args:
        refusals: returns (model, version) → hook and reason, for copies that a hook refused.
    """

    def __init__(
        self,
        fleet: Fleet,
        frontends: FrontendPool,
        refusals: Callable[[], Mapping[tuple[str, str], tuple[str, str]]],
    ) -> None:
        self.is_ready = False
        self.epoch = 0
        self.applied: dict[str, int] = {}
        """By model: number of the newest record that is in effect."""
        self._fleet = fleet
        self._frontends = frontends
        self._refusals = refusals
        self._moved = asyncio.Condition()

    def publish(self) -> None:
        """Send the frontends a new table if it differs from the last one, or if somebody waits for one."""
        holdings = self._fleet.holdings.values()
        table = build_table(
            self._fleet.desired,
            [one.view() for one in holdings],
            self._fleet.serving,
            {key: hook for key, (hook, _) in self._refusals().items() if hook},
            epoch=self.epoch + 1,
            accepting=self.is_ready,
            frontends=self._frontends.count,
        )
        before = self._frontends.table
        is_same = (table.apps, table.models, table.accepting) == (before.apps, before.models, before.accepting)
        if is_same and self.epoch and self._fleet.needs_epoch <= self.epoch:
            return
        self.epoch += 1
        for one in holdings:
            one.was_routed = one.was_routed or one.phase in ("loading", "ready")
        self._frontends.publish(table)

    def note_applied(self) -> None:
        """Note which records are in effect: every name answers with what its record says."""
        for name, wanted in self._fleet.desired.models.items():
            if self.applied.get(name) == wanted.seq or not self._fleet.is_settled(name):
                continue
            active = self._fleet.answering(name)
            load = wanted.names.get(ACTIVE)
            if load is None or (active is not None and active.wanted.load == load):
                self.applied[name] = wanted.seq

    def unsettled(self) -> list[str]:
        """Return the models of which something is still being loaded."""
        return [name for name in self._fleet.desired.models if not self._fleet.is_settled(name)]

    def is_routed(self) -> bool:
        """Say whether every frontend goes by the newest table."""
        return self._frontends.has_applied(self.epoch)

    async def tell(self) -> None:
        """Wake whoever waits: something may have moved."""
        async with self._moved:
            self._moved.notify_all()

    async def until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until a condition holds; say whether it does, which it may not after ``timeout_s``."""
        loop = asyncio.get_running_loop()
        give_up_s = None if timeout_s is None else loop.time() + timeout_s
        while not condition():
            if give_up_s is not None and loop.time() >= give_up_s:
                return False
            async with self._moved:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await self._moved.wait()
        return True
