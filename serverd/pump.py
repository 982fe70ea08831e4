"""From waiting queries to batches: when one goes, how large it is, and to which replica."""

from __future__ import annotations

import asyncio
from time import monotonic

from . import texts
from .agenda import Agenda
from .lease import Leases
from .outbox import Outbox
from .routing import SLO_MISSED
from .served import DEADLINE_RESERVE_S, DEPTH, LEAD_S, Replica, ServedVersion
from .straggler import Stragglers


class Pump:
    """Sends what waits for a version, and comes back to it when it is worth waiting a moment."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, agenda: Agenda, outbox: Outbox, leases: Leases, stragglers: Stragglers
    ) -> None:
        self._loop = loop
        self._agenda = agenda
        self._outbox = outbox
        self._leases = leases
        self._stragglers = stragglers

    def run(self, version: ServedVersion) -> None:
        """Send batches while a replica has room and queries wait."""
        queue = version.queue
        while queue.rows or version.retries:
            now = monotonic()
            part = version.part = version.find_part()
            replica = version.pick_replica() or self._pick_ending(version, now)
            if replica is None:
                return
            if version.retries:
                batch = [query for query in version.retries.popleft() if not query.is_done]
            else:
                if version.route.batch_delay_ms and self._is_delayed(version, now):
                    return
                limit = version.batch_limit.limit
                idle = sum(1 for other in version.replicas if not other.batches and other.is_reachable)
                if idle > 1 and version.route.fixed_batch is None:
                    limit = min(limit, -(-queue.rows // idle))
                if part:
                    limit = min(limit, part)
                soonest = now
                if queue.rows > limit:  # fewer are all taken
                    soonest += version.free_in(replica, now) + version.takes_s(limit)
                batch, doomed = queue.take(limit, soonest)
                version.counter.observe_waits(batch, now)
                if doomed:
                    version.counter.observe_waits(doomed, now)
                for query in doomed:
                    if query.is_text and texts.settle_text(query) is None:
                        self._leases.release(version, 1)
                    elif query.is_gone:
                        query.abandon()
                        self._leases.succeed(query)
                        self._leases.release(version, 1)
                    else:
                        self._leases.settle_default(query, "slo", SLO_MISSED, now)
            if version.has_texts and not (replica.text_peers and texts.are_texts(batch)):
                batch = self._leases.pack(version, batch)
            if batch:
                if self._outbox.send(version, replica, batch, now) is None:
                    version.retries.appendleft(batch)
                else:
                    self._stragglers.watch(version)
                    replica.sent_at, replica.sent_rows = now, len(batch)

    def _pick_ending(self, version: ServedVersion, now: float) -> Replica | None:
        """Return a replica that is about to end its batch, for a full one that waits; a timer else comes back then."""
        if version.queue.rows < version.batch_limit.limit:
            return None
        replica, left_s = version.pick_ending(now)
        if replica is None or left_s <= LEAD_S:
            return replica
        if version.delay_timer is None:
            version.delay_timer = self._loop.call_later(left_s - LEAD_S, self._end_delay, version)
        return None

    def _is_delayed(self, version: ServedVersion, now: float) -> bool:
        """Return whether the model asks to wait for a larger batch; a timer then comes back to it.

        Never so long that the answer would come too late: what is left then is the time of two batches, one of which
        may be on its way already, and at least the part of the SLO that one may take.
        """
        limit = version.batch_limit.limit
        if version.queue.rows >= limit:
            return False
        needed_s = max(DEPTH * version.takes_s(limit), version.budget_s) + DEADLINE_RESERVE_S
        wait_s = version.queue.latest_start(version.route.batch_delay_ms / 1000, needed_s) - now
        if wait_s <= 0.0005:  # the loop's timers count milliseconds
            return False
        if version.delay_timer is None:
            version.delay_timer = self._loop.call_later(wait_s, self._end_delay, version)
        return True

    def _end_delay(self, version: ServedVersion) -> None:
        version.delay_timer = None
        if not version.is_dirty:
            self._agenda.mark(version)
