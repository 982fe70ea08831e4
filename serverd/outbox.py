"""Batches on their way to replicas: what is out, how it is sent, and which replicas can be reached."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from time import monotonic
from typing import Final

from clipperfs import wire

from .agenda import Agenda
from .control import lane_path
from .lookout import Lookout
from .pending import Query
from .served import Batch, Replica, ServedVersion
from .transport import ReplicaTransport

REACH_AGAIN_S: Final = 0.02
LOST_S: Final = 0.5
"""How long a replica whose lane has ended is left alone, unless it speaks: dead ones leave the table in less."""


class Outbox:
    """The replicas of all served versions, and the batches that are out to them.

    ``bind`` comes before the first batch, and apart: who hears the replicas must know this outbox first.

    Args:
        loop: the loop of the timer.
        agenda: where versions are marked whose replicas are to be tried again.
        on_lost: called with a replica that cannot be reached, once until it speaks again.
    """

    transport: ReplicaTransport

    def __init__(self, loop: asyncio.AbstractEventLoop, agenda: Agenda, on_lost: Callable[[str], None]) -> None:
        self.batches: dict[int, Batch] = {}
        """Those that are out, by their numbers on the wire."""
        self.replicas: dict[bytes, Replica] = {}
        self.text_peers: dict[bytes, int] = {}
        """What replicas said of texts when they greeted, which may be before a table names them."""
        self.lookout = Lookout(loop, self.batches)
        self._loop = loop
        self._agenda = agenda
        self._on_lost = on_lost
        # Not 0: a replica may still send outputs that were meant for a frontend that died at this endpoint.
        self._next_batch = int.from_bytes(os.urandom(7), "big")
        self._reach_timer: asyncio.TimerHandle | None = None

    def bind(
        self, endpoint: str, on_message: Callable[[bytes, list[bytes]], None], on_lost: Callable[[bytes], None]
    ) -> None:
        """Open the wire. Replicas are heard from then on (``ReplicaTransport`` says what is called with what)."""
        self.transport = ReplicaTransport(endpoint, on_message, lane_path(endpoint), on_lost)

    def close(self) -> None:
        """Let go of the wire and the timer."""
        if self._reach_timer is not None:
            self._reach_timer.cancel()
        self.transport.close()

    def add_replica(self, identity: bytes, version: ServedVersion) -> Replica:
        """Know a replica from now on, as that of a version."""
        replica = self.replicas[identity] = Replica(identity, version)
        replica.text_peers = self.text_peers.get(identity, 0)
        return replica

    def drop_replica(self, replica: Replica) -> None:
        """Know a replica no more. The batches that are out to it stay."""
        if self.replicas.get(replica.identity) is replica:  # else another load has taken the process over
            del self.replicas[replica.identity]

    def forget(self, version: ServedVersion) -> None:
        """Let go of a version's replicas and batches: nobody waits for them."""
        for replica in version.replicas:
            self.drop_replica(replica)
        version.replicas.clear()  # they point back, and this process looks for cycles once in many thousand switches
        for number in [number for number, batch in self.batches.items() if batch.version is version]:
            del self.batches[number]

    def send(self, version: ServedVersion, replica: Replica, queries: list[Query], now: float) -> Batch | None:
        """Send a batch. Returns None when the replica cannot be reached."""
        is_text = version.has_texts and queries[0].is_text
        size = 1 if is_text else version.element_bytes
        parts = [query.packed for query in queries]
        first_bytes = len(parts[0])
        lengths: int | list[int] = first_bytes // size
        for part in parts:
            if len(part) != first_bytes:
                lengths = [len(part) // size for part in parts]
                break
        number = self._next_batch
        if is_text:
            elements = version.route.input_size or 0
            header = wire.pack_header(wire.PREDICT, number, version.text_code, len(parts), lengths, elements)
        else:
            header = wire.pack_header(wire.PREDICT, number, version.input_code, len(parts), lengths)
        body = parts[0] if len(parts) == 1 else b"".join(parts)  # one input is sent from where it lies
        if not self.transport.send(replica.identity, header, body):
            self.cut_off(replica)
            return None
        self._next_batch = number + 1
        batch = self.batches[number] = Batch(version, replica, queries, now)
        batch.is_text = is_text
        replica.batches += 1
        self.lookout.sent(now)
        return batch

    def cut_off(self, replica: Replica) -> None:
        """Send a replica nothing until it speaks or is tried again, and report it once."""
        replica.is_reachable = False
        if replica.has_spoken:
            replica.has_spoken = False
            self._on_lost(replica.identity.hex())
        self._reach_later()

    def _reach_later(self) -> None:
        if self._reach_timer is None:
            self._reach_timer = self._loop.call_later(REACH_AGAIN_S, self._reach_again)

    def _reach_again(self) -> None:
        """Try the replicas again that could not be reached: one that connects says nothing until it is asked."""
        self._reach_timer = None
        is_over = monotonic() - LOST_S
        for replica in self.replicas.values():
            if replica.is_reachable:
                continue
            if replica.lost_at > is_over:
                self._reach_later()
                continue
            replica.is_reachable = True
            if not replica.version.is_dirty:
                self._agenda.mark(replica.version)
