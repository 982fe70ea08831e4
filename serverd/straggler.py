"""Batches that are out for long: late ones go to a second replica as well, and hanging ones are reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from .lease import Leases
from .outbox import Outbox
from .served import ServedVersion

HANG_CHECK_S: Final = 0.25
HEDGE_CHECK_S: Final = 0.1
HEDGE_AGAIN_S: Final = 0.005


class Stragglers:
    """Looks through the batches that are out, now and then. When one is late, its version's ``Pace`` says.

    Args:
        loop: the loop of the timers.
        outbox: the batches.
        leases: what becomes of texts that are not sent a second time.
        on_hang: called once for each hanging batch with its replica and the seconds that it has been silent.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, outbox: Outbox, leases: Leases, on_hang: Callable[[str, float], None]
    ) -> None:
        self._loop = loop
        self._outbox = outbox
        self._leases = leases
        self._on_hang = on_hang
        self._hang_timer = loop.call_later(HANG_CHECK_S, self._check_hangs)
        self._hedge_timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Let go of the timers."""
        self._hang_timer.cancel()
        if self._hedge_timer is not None:
            self._hedge_timer.cancel()

    def watch(self, version: ServedVersion) -> None:
        """Look for late batches from now on: one has gone out, and may become late."""
        if self._hedge_timer is None and len(version.replicas) > 1 and version.route.idempotent:
            self._hedge_timer = self._loop.call_later(min(version.pace.late_after_s, HEDGE_CHECK_S), self._hedge)

    def _hedge(self) -> None:
        """Send batches that are late to another replica as well; look again while any could become late."""
        self._hedge_timer = None
        now = monotonic()
        wait_s = float("inf")
        for batch in list(self._outbox.batches.values()):
            version = batch.version
            if batch.is_paired or len(version.replicas) < 2 or not version.route.idempotent:
                continue
            left_s = batch.sent_at + version.pace.late_after_s - now
            if left_s <= 0:
                left_s = HEDGE_AGAIN_S
                second = version.pick_second(batch)
                waiting = [query for query in batch.queries if not query.is_done]
                if second is not None and waiting and version.pace.spend():
                    if batch.is_text:
                        waiting = self._leases.pack(version, waiting)
                    twin = self._outbox.send(version, second, waiting, now) if waiting else None
                    if twin is not None:
                        self.watch(version)
                        batch.pair(twin)
                        version.counter.hedges += 1
                        continue
            wait_s = min(wait_s, left_s)
        if self._hedge_timer is None and self._outbox.batches and wait_s < float("inf"):
            self._hedge_timer = self._loop.call_later(min(wait_s, HEDGE_CHECK_S), self._hedge)

    def _check_hangs(self) -> None:
        now = monotonic()
        for batch in self._outbox.batches.values():
            out_s = now - max(batch.sent_at, batch.replica.last_heard)
            if out_s > batch.version.route.predict_timeout_s and not batch.is_hanging:
                batch.is_hanging = True
                self._on_hang(batch.replica.identity.hex(), out_s)
        self._hang_timer = self._loop.call_later(HANG_CHECK_S, self._check_hangs)
