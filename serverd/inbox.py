"""What replicas say: outputs go to the queries of their batch, faults to ``setback``, greetings are kept."""

from __future__ import annotations

from time import monotonic
from typing import Any, Final

from clipperfs import wire

from . import sharing, texts
from .agenda import Agenda
from .cache import PredictionCache
from .counters import Counters
from .lease import Leases
from .outbox import Outbox
from .pending import Query
from .pump import Pump
from .served import Batch, Replica
from .setback import Setbacks
from .slow import SlowLog
from .transport import HELLO_START

MAX_GREETED: Final = 4096
"""Replicas whose greetings are kept."""


class Inbox:
    """Takes in the messages of all replicas. What nobody has asked for is counted and dropped."""

    def __init__(
        self,
        cache: PredictionCache,
        counters: Counters,
        slow: SlowLog,
        agenda: Agenda,
        outbox: Outbox,
        leases: Leases,
        setbacks: Setbacks,
        pump: Pump,
    ) -> None:
        self._cache = cache
        self._counters = counters
        self._slow = slow
        self._slow_after_s = slow.limit_s
        self._has_slow = slow.limit_s < float("inf")
        self._agenda = agenda
        self._outbox = outbox
        self._leases = leases
        self._setbacks = setbacks
        self._pump = pump

    def hear(self, identity: bytes, frames: list[bytes]) -> None:
        """Take in one message of a replica."""
        replica = self._outbox.replicas.get(identity)
        if replica is None:
            if frames[0].startswith(HELLO_START, 1):  # a replica may connect before the table names it
                self._note_hello(identity, frames[0])
            elif frames[0]:
                self._counters.dropped_messages += 1
            return
        replica.has_spoken = True
        if not replica.is_reachable:
            replica.is_reachable = True
            if not replica.version.is_dirty:
                self._agenda.mark(replica.version)
        if not frames[0]:
            return
        try:
            fields = wire.unpack_header(frames[0])
        except wire.WireError:
            self._counters.dropped_messages += 1
            return
        kind = fields[0]
        if kind == wire.OUTPUT:
            self._take_outputs(replica, fields, frames)
        elif kind == wire.FAULT:
            self._take_fault(replica, fields)
        elif kind == wire.HELLO:
            self._note_hello(identity, frames[0])
        elif kind not in (wire.STATE, wire.PONG):
            self._counters.dropped_messages += 1

    def _note_hello(self, identity: bytes, hello: bytes) -> None:
        """Keep what a replica says of texts."""
        text_peers = wire.text_peers(hello)
        if text_peers:
            if len(self._outbox.text_peers) >= MAX_GREETED:  # of replicas that no table named
                del self._outbox.text_peers[next(iter(self._outbox.text_peers))]
            self._outbox.text_peers[identity] = text_peers
        replica = self._outbox.replicas.get(identity)
        if replica is not None:
            replica.text_peers = text_peers
            replica.version.follow_readers()

    def _claim(self, replica: Replica, fields: list[Any], count: int) -> Batch | None:
        """Return the batch that a message is about and take it off the list, or None when there is none."""
        batch = None
        if len(fields) >= count and isinstance(fields[1], int):
            batch = self._outbox.batches.get(fields[1])
        if batch is None or batch.replica is not replica:
            self._counters.dropped_messages += 1
            return None
        del self._outbox.batches[fields[1]]
        replica.batches -= 1
        replica.heard_before = replica.last_heard
        replica.last_heard = monotonic()
        self._outbox.lookout.heard()
        return batch

    def _take_outputs(self, replica: Replica, fields: list[Any], frames: list[bytes]) -> None:
        batch = self._claim(replica, fields, 4)
        if batch is None:
            return
        version = batch.version
        queries = batch.queries
        now = replica.last_heard
        body = frames[1] if len(frames) == 2 else b""  # a lane gives no empty body: that of texts of which none is read
        if len(frames) > 2 or not _are_lengths(fields[3], len(queries), len(body), 0 if batch.is_text else 1):
            self._counters.dropped_messages += 1
            self._setbacks.fail(batch, now)
            return
        lengths: list[int] = fields[3]
        unread: list[Query] = []
        if batch.is_text:
            queries, lengths, unread = texts.part_texts(queries, lengths)
            if not queries:
                self._setbacks.read_again(batch, unread)
                return
        latency_s = now - batch.sent_at
        predict_us = fields[2] if isinstance(fields[2], int) and fields[2] > 0 else int(latency_s * 1e6)
        predict_s = min(predict_us / 1e6, latency_s)
        read_s = texts.read_seconds(fields, predict_s) if batch.is_text else 0.0
        version.learn_share(replica, batch.sent_at, predict_s)
        version.learn(queries, batch.sent_at, now, predict_s, read_s)
        version.counter.observe(len(queries), latency_s, predict_us)
        version.pace.observe(latency_s)
        if unread:
            self._setbacks.read_again(batch, unread)
        batch.leave_to_twin()
        if self._has_slow and now - _oldest(queries) > self._slow_after_s:
            self._slow.note_batch(batch, now, predict_s)
        version.faults_in_row = 0
        if version.queue.rows or version.retries:
            self._pump.run(version)  # before answering: the replica need not wait for that
        version.look_ahead(now)
        settled = start = 0
        for index, query in enumerate(queries):  # as many as there are lengths
            end = start + lengths[index]
            output = body[start:end]
            start = end
            if query.key is not None:
                self._cache.put(query.key, output)
                for follower in sharing.part(query):
                    settled += 1
                    follower.answer(output, now)
            if not query.is_done:
                settled += 1
                query.answer(output, now)
            elif not batch.is_paired:
                version.counter.late += 1
        self._leases.release(version, settled)

    def _take_fault(self, replica: Replica, fields: list[Any]) -> None:
        batch = self._claim(replica, fields, 3)
        if batch is not None:
            self._setbacks.fail(batch, replica.last_heard)


def _oldest(queries: list[Query]) -> float:
    """Return when the first of a batch's queries came. It may stand anywhere: they are in the order of deadlines."""
    oldest = queries[0].arrived
    for query in queries:
        if query.arrived < oldest:
            oldest = query.arrived
    return oldest


def _are_lengths(lengths: Any, count: int, body_bytes: int, least: int) -> bool:
    """Return whether a list of lengths cuts a body into ``count`` outputs of at least so many bytes."""
    if not isinstance(lengths, list) or len(lengths) != count or set(map(type, lengths)) != {int}:
        return False
    return min(lengths) >= least and sum(lengths) == body_bytes
