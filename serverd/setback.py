"""Batches that gave no outputs: halved, tried again on another replica, read here after all, or given up."""

from __future__ import annotations

from time import monotonic
from typing import Final

from .agenda import Agenda
from .lease import Leases
from .outbox import Outbox
from .pending import Query
from .routing import explain_crashed, explain_failed
from .served import Batch, Replica

MAX_FAULTS_SPLIT: Final = 8
"""Faults in a row after which a version's failed batches are no longer split to find the query that fails."""
SPLIT_SHARE: Final = 0.3
"""The part of its SLO after which a canary's query is no longer tried in half a batch, but by the active version."""


class Setbacks:
    """Decides what is tried again. What is not, ``Leases`` gives up."""

    def __init__(self, agenda: Agenda, outbox: Outbox, leases: Leases) -> None:
        self._agenda = agenda
        self._outbox = outbox
        self._leases = leases

    def fail(self, batch: Batch, now: float) -> None:
        """Answer for a batch that failed; halve a larger one and try again: one bad query must not hurt the others."""
        version = batch.version
        version.counter.failed_batches += 1
        version.faults_in_row += 1
        if batch.leave_to_twin():
            return
        if batch.is_text:
            batch.queries = self._leases.pack(version, batch.queries)
        waiting = [query for query in batch.queries if not query.is_done]
        is_worth = version.route.idempotent and version.faults_in_row <= MAX_FAULTS_SPLIT + len(waiting).bit_length()
        if len(batch.queries) > 1 and len(waiting) > 0 and is_worth:
            hurried = [one for one in waiting if one.is_canary and now > one.arrived + one.owner.slo_s * SPLIT_SHARE]
            if hurried and self._leases.successor(version) is not None:  # else half a batch is all that is left to try
                self._leases.give_up(version, hurried, "failed", explain_failed(version.model), now)
                waiting = [query for query in waiting if query.version is version and not query.is_done]
            half = (len(waiting) + 1) // 2
            version.counter.retries += bool(waiting)
            version.retries.extend(part for part in (waiting[:half], waiting[half:]) if part)
        else:
            self._leases.give_up(version, waiting, "failed", explain_failed(version.model), now)
        if not version.is_dirty:
            self._agenda.mark(version)

    def read_again(self, batch: Batch, queries: list[Query]) -> None:
        """Read texts the usual way that a replica could not read: a 400, or packed numbers that go out once more."""
        version = batch.version
        if not batch.leave_to_twin():
            sound = self._leases.pack(version, [query for query in queries if not query.is_done])
            if sound:
                version.retries.append(sound)
        if not version.is_dirty:
            self._agenda.mark(version)

    def lose(self, identity: bytes) -> None:
        """Try the batches of a replica whose lane has ended on another one, without waiting for the next table."""
        self._outbox.text_peers.pop(identity, None)
        replica = self._outbox.replicas.get(identity)
        if replica is None:
            return
        replica.lost_at = monotonic()
        self._outbox.cut_off(replica)
        self.retry_batches(replica)
        if not replica.version.is_dirty:
            self._agenda.mark(replica.version)

    def retry_batches(self, replica: Replica) -> None:
        """Give up waiting for a replica: what is out to it, ``_retry_lost`` sees to."""
        for number in [number for number, batch in self._outbox.batches.items() if batch.replica is replica]:
            self._retry_lost(self._outbox.batches.pop(number))
        replica.batches = 0

    def _retry_lost(self, batch: Batch) -> None:
        """Send the batch of a replica that has gone out once more, unless that could do something twice."""
        version = batch.version
        if batch.leave_to_twin():
            return
        waiting = [query for query in batch.queries if not query.is_done]
        if batch.is_text:
            waiting = self._leases.pack(version, waiting)
        if not version.route.idempotent:
            self._leases.give_up(version, waiting, "lost", explain_crashed(version.model, version.name), monotonic())
            return
        can_move = self._leases.successor(version) is not None
        again = [query for query in waiting if query.attempts == 0 and not (query.is_canary and can_move)]
        given_up = [query for query in waiting if query.attempts or (query.is_canary and can_move)]
        for query in again:
            query.attempts += 1
        self._leases.give_up(version, given_up, "failed", explain_failed(version.model), monotonic())
        if again:
            version.counter.retries += 1
            version.retries.append(again)
