"""A frontend's dispatcher: queries come in here, and go from room to room until each has its answer.

The way of a query: ``dispatch`` takes it in, ``pump`` puts it into a batch, ``outbox`` sends that to a replica, and
``inbox`` answers it with the output. What may come between: ``deadline``, ``straggler``, ``setback`` and, with a new
table, ``table_follower``. However it goes, ``lease`` ends its lease.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from . import sharing
from .agenda import Agenda
from .batching import MAX_QUEUED_BYTES
from .cache import PredictionCache
from .counters import Counters
from .deadline import Deadlines
from .inbox import Inbox
from .lease import Leases
from .outbox import Outbox
from .pending import Query
from .pump import Pump
from .routing import RoutingTable, explain_overload
from .served import DEADLINE_RESERVE_S, ServedVersion
from .setback import Setbacks
from .slow import SlowLog
from .straggler import Stragglers
from .table_follower import TableFollower


class Dispatcher:
    """All served versions of a frontend, and the batches that are out.

    Guarantees: every submitted query is answered exactly once, at the latest at its deadline; the queries of a batch
    lease one version; a version that has left the table is released when its last query is answered.

    Args:
        endpoint: where the replicas connect to.
        cache: what outputs are kept in.
        counters: what is counted.
        on_released: called with the key of a load that nobody leases any more.
        on_hang: called with a replica that does not answer, and for how many seconds it has not.
        on_lost: called with a replica that cannot be reached.
        slow: where slow queries are noted.
        position: this frontend's among those that share the replicas, from 0.
    """

    def __init__(
        self,
        endpoint: str,
        cache: PredictionCache,
        counters: Counters,
        on_released: Callable[[str], None],
        on_hang: Callable[[str, float], None],
        on_lost: Callable[[str], None],
        slow: SlowLog,
        position: int = 0,
    ) -> None:
        loop = asyncio.get_running_loop()
        agenda = self._agenda = Agenda(loop, self._flush)
        outbox = self._outbox = Outbox(loop, agenda, on_lost)
        leases = self._leases = Leases(outbox, agenda, on_released)
        self.versions = leases.versions
        """By the key of the load."""
        self._deadlines = Deadlines(loop, leases, outbox, slow)
        self._stragglers = Stragglers(loop, outbox, leases, on_hang)
        pump = self._pump = Pump(loop, agenda, outbox, leases, self._stragglers)
        setbacks = Setbacks(agenda, outbox, leases)
        self._tables = TableFollower(cache, counters, agenda, outbox, leases, setbacks, position)
        inbox = Inbox(cache, counters, slow, agenda, outbox, leases, setbacks, pump)
        outbox.bind(endpoint, inbox.hear, setbacks.lose)

    def close(self) -> None:
        """Let go of the wire and the timers."""
        self._stragglers.close()
        self._deadlines.close()
        self._outbox.close()

    def deadline_lane(self, slo_s: float) -> deque[Query]:
        """Return where queries of an SLO are watched: their owners keep it."""
        return self._deadlines.lanes.lane(slo_s)

    def submit(self, query: Query) -> None:
        """Take a query in; it is answered later, or refused at once when too many wait."""
        version = query.version
        queue = version.queue
        owner = query.owner
        if (queue.rows >= version.bearable or queue.size_bytes >= MAX_QUEUED_BYTES) and queue.is_full_for(
            owner.app, version.bearable
        ):
            self._refuse(query)
            return
        if query.deadline < version.late_before:
            self._refuse(query)
            return
        version.live += 1
        version.counter.queries += 1
        queue.put(query, owner.app)
        if query.key is not None and query.may_lead:
            sharing.lead(query)
        owner.deadlines.append(query)
        if query.deadline < self._deadlines.timer_at:
            self._deadlines.arm(query.deadline)
        if not version.is_dirty:
            self._agenda.mark(version)
        if queue.rows == (version.part or version.batch_limit.limit):
            # With many clients a turn of the loop is long: a full batch, or part, need not wait for its end.
            self._pump.run(version)

    def submit_text(self, query: Query) -> None:
        """Take in a query with a text, of a version that takes them and whose queue is not full."""
        version = query.version
        version.has_texts = True
        version.live += 1
        version.queue.put(query, query.owner.app)
        self._deadlines.watch(query)
        if not version.is_dirty:
            self._agenda.mark(version)
        if version.queue.rows == (version.part or version.batch_limit.limit):
            self._pump.run(version)

    def follow(self, leader: Query, query: Query) -> None:
        """Have a query wait for the output of an unanswered one of the same key."""
        version = query.version
        version.live += 1
        version.counter.shared += 1
        sharing.join(leader, query)
        self._deadlines.watch(query)

    def _refuse(self, query: Query) -> None:
        """Answer for a version that cannot take in one more query."""
        version = query.version
        version.counter.defaults += 1
        version.refused += 1
        now = monotonic()
        may_move = query.is_canary and query.deadline > now + DEADLINE_RESERVE_S
        active = self._leases.successor(version) if may_move else None
        if active is None:
            query.fall_back("overload", explain_overload(version.model), now)
            return
        # Into the queue: each alone and ahead of it would cost the active version its batches and its fairness.
        self._leases.move([query], version, active)
        active.queue.put(query, query.owner.app)
        self._deadlines.watch(query)

    def _flush(self) -> None:
        self._deadlines.lanes.sweep()
        for version in self._agenda.take():
            version.is_dirty = False
            self._pump.run(version)
        self._outbox.transport.settle()

    def apply(self, table: RoutingTable) -> dict[tuple[str, str], ServedVersion]:
        """Follow a new table: ``TableFollower.apply``."""
        return self._tables.apply(table)

    def snapshot(self) -> list[dict[str, Any]]:
        """Return the state of the queues as plain data."""
        out: dict[int, int] = {}
        for batch in self._outbox.batches.values():
            out[id(batch.version)] = out.get(id(batch.version), 0) + len(batch.queries)
        return [
            {
                "model": version.model,
                "version": version.name,
                "queued": version.queue.rows,
                "in_flight": out.get(id(version), 0),
                "live": version.live,
                "batch_limit": version.batch_limit.limit,
            }
            for version in self.versions.values()
        ]
