"""From waiting queries to batches on replicas and back: sending, retries, deadlines and the drain of old versions."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from clipperfs import wire

from . import sharing, texts
from .batching import MAX_QUEUED_BYTES
from .cache import PredictionCache
from .control import lane_path
from .counters import Counters
from .pending import DeadlineLanes, Query
from .routing import SLO_MISSED, RoutingTable, VersionRoute, explain_crashed, explain_failed, explain_overload
from .served import DEADLINE_RESERVE_S, DEPTH, LEAD_S, Batch, Replica, ServedVersion
from .slow import SlowLog
from .transport import HELLO_START, ReplicaTransport

MAX_FAULTS_SPLIT: Final = 8
"""Faults in a row after which a version's failed batches are no longer split to find the query that fails."""
SPLIT_SHARE: Final = 0.3
"""The part of its SLO after which a canary's query is no longer tried in half a batch, but by the active version."""
HANG_CHECK_S: Final = 0.25
REACH_AGAIN_S: Final = 0.02
LOST_S: Final = 0.5
"""How long a replica whose lane has ended is left alone, unless it speaks: dead ones leave the table in less."""
HEDGE_CHECK_S: Final = 0.1
MAX_GREETED: Final = 4096
"""Replicas whose greetings are kept."""
HEDGE_AGAIN_S: Final = 0.005


class Dispatcher:
    """All served versions of a frontend, and the batches that are out.

    Guarantees: every submitted query is answered exactly once, at the latest at its deadline; the queries of a batch
    lease one version; a version that has left the table is released when its last query is answered.
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
    ) -> None:
        self.versions: dict[str, ServedVersion] = {}
        self._actives: dict[str, ServedVersion] = {}
        """By model: the active version, which answers what a canary's candidate cannot."""
        self._cache = cache
        self._counters = counters
        self._on_released = on_released
        self._on_hang = on_hang
        self._on_lost = on_lost
        self._slow = slow
        self._loop = asyncio.get_running_loop()
        self._transport = ReplicaTransport(endpoint, self._hear, lane_path(endpoint), self._lose)
        self._replicas: dict[bytes, Replica] = {}
        self._text_peers: dict[bytes, int] = {}
        """What replicas said of texts when they greeted, which may be before a table names them."""
        self._batches: dict[int, Batch] = {}
        # Not 0: a replica may still send outputs that were meant for a frontend that died at this endpoint.
        self._next_batch = int.from_bytes(os.urandom(7), "big")
        self._dirty: list[ServedVersion] = []
        self._deadlines = DeadlineLanes()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._hang_timer = self._loop.call_later(HANG_CHECK_S, self._check_hangs)
        self._reach_timer: asyncio.TimerHandle | None = None
        self._hedge_timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Let go of the wire and the timers."""
        self._hang_timer.cancel()
        for timer in (self._timer, self._reach_timer, self._hedge_timer):
            if timer is not None:
                timer.cancel()
        self._transport.close()

    # -- queries in

    def deadline_lane(self, slo_s: float) -> deque[Query]:
        """Return where queries of an SLO are watched: their owners keep it."""
        return self._deadlines.lane(slo_s)

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
        version.live += 1
        version.counter.queries += 1
        queue.put(query, owner.app)
        if query.key is not None and query.may_lead:
            sharing.lead(query)
        owner.deadlines.append(query)
        if query.deadline < self._timer_at:
            self._arm(query.deadline)
        if not version.is_dirty:
            self._mark(version)
        if queue.rows == version.batch_limit.limit:
            self._pump(version)  # with many clients a turn of the loop is long: a full batch need not wait for its end

    def submit_text(self, query: Query) -> None:
        """Take in a query with a text, of a version that takes them and whose queue is not full."""
        version = query.version
        version.has_texts = True
        version.live += 1
        version.queue.put(query, query.owner.app)
        self._watch_deadline(query)
        if not version.is_dirty:
            self._mark(version)
        if version.queue.rows == version.batch_limit.limit:
            self._pump(version)

    def follow(self, leader: Query, query: Query) -> None:
        """Have a query wait for the output of an unanswered one of the same key."""
        version = query.version
        version.live += 1
        version.counter.shared += 1
        sharing.join(leader, query)
        self._watch_deadline(query)

    def _refuse(self, query: Query) -> None:
        """Answer for a version that cannot take in one more query."""
        version = query.version
        version.counter.defaults += 1
        version.refused += 1
        now = monotonic()
        active = self._successor(version) if query.is_canary and query.deadline > now + DEADLINE_RESERVE_S else None
        if active is None:
            query.fall_back("overload", explain_overload(version.model), now)
            return
        # Into the queue: each alone and ahead of it would cost the active version its batches and its fairness.
        self._move([query], version, active)
        active.queue.put(query, query.owner.app)
        self._watch_deadline(query)

    def _watch_deadline(self, query: Query) -> None:
        query.owner.deadlines.append(query)
        if query.deadline < self._timer_at:
            self._arm(query.deadline)

    def _mark(self, version: ServedVersion) -> None:
        """Look at a version at the end of this turn of the loop, so that all that was read in it goes together."""
        version.is_dirty = True
        self._dirty.append(version)
        if len(self._dirty) == 1:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._deadlines.sweep()
        dirty, self._dirty = self._dirty, []
        for version in dirty:
            version.is_dirty = False
            self._pump(version)
        self._transport.settle()

    def _pump(self, version: ServedVersion) -> None:
        """Send batches while a replica has room and queries wait."""
        queue = version.queue
        while queue.rows or version.retries:
            now = monotonic()
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
                soonest = now
                if queue.rows > limit:  # fewer are all taken
                    soonest += version.free_in(replica, now) + version.cost.middle_s(limit)
                batch, doomed = queue.take(limit, soonest)
                version.counter.observe_waits(batch, now)
                if doomed:
                    version.counter.observe_waits(doomed, now)
                for query in doomed:
                    if query.is_text and texts.settle_text(query) is None:
                        self._release(version, 1)
                    elif query.is_gone:
                        query.abandon()
                        self._succeed(query)
                        self._release(version, 1)
                    else:
                        self._settle_default(query, "slo", SLO_MISSED, now)
            if version.has_texts and not (replica.text_peers and texts.are_texts(batch)):
                batch = self._pack(version, batch)
            if batch:
                if self._send(version, replica, batch, now) is None:
                    version.retries.appendleft(batch)
                else:
                    replica.sent_at, replica.sent_rows = now, len(batch)

    def _pack(self, version: ServedVersion, queries: list[Query]) -> list[Query]:
        """Read what is still text here; return the queries without those whose body was bad. None may be queued."""
        sound = texts.pack_texts(queries)
        if len(sound) < len(queries):
            self._release(version, len(queries) - len(sound))
        return sound

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
        needed_s = max(DEPTH * version.cost.middle_s(limit), version.budget_s) + DEADLINE_RESERVE_S
        wait_s = version.queue.latest_start(version.route.batch_delay_ms / 1000, needed_s) - now
        if wait_s <= 0.0005:  # the loop's timers count milliseconds
            return False
        if version.delay_timer is None:
            version.delay_timer = self._loop.call_later(wait_s, self._end_delay, version)
        return True

    def _end_delay(self, version: ServedVersion) -> None:
        version.delay_timer = None
        if not version.is_dirty:
            self._mark(version)

    def _send(self, version: ServedVersion, replica: Replica, queries: list[Query], now: float) -> Batch | None:
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
        if not self._transport.send(replica.identity, header, body):
            self._cut_off(replica)
            return None
        self._next_batch = number + 1
        batch = self._batches[number] = Batch(version, replica, queries, now)
        batch.is_text = is_text
        replica.batches += 1
        if self._hedge_timer is None and len(version.replicas) > 1 and version.route.idempotent:
            self._hedge_timer = self._loop.call_later(min(version.pace.late_after_s, HEDGE_CHECK_S), self._hedge)
        return batch

    def _hedge(self) -> None:
        """Send batches that are late to another replica as well; look again while any could become late."""
        self._hedge_timer = None
        now = monotonic()
        wait_s = float("inf")
        for batch in list(self._batches.values()):
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
                        waiting = self._pack(version, waiting)
                    twin = self._send(version, second, waiting, now) if waiting else None
                    if twin is not None:
                        batch.pair(twin)
                        version.counter.hedges += 1
                        continue
            wait_s = min(wait_s, left_s)
        if self._hedge_timer is None and self._batches and wait_s < float("inf"):
            self._hedge_timer = self._loop.call_later(min(wait_s, HEDGE_CHECK_S), self._hedge)

    def _reach_again(self) -> None:
        """Try the replicas again that could not be reached: one that connects says nothing until it is asked."""
        self._reach_timer = None
        is_over = monotonic() - LOST_S
        for replica in self._replicas.values():
            if replica.is_reachable:
                continue
            if replica.lost_at > is_over:
                self._reach_later()
                continue
            replica.is_reachable = True
            if not replica.version.is_dirty:
                self._mark(replica.version)

    def _cut_off(self, replica: Replica) -> None:
        """Send a replica nothing until it speaks or is tried again, and report it once."""
        replica.is_reachable = False
        if replica.has_spoken:
            replica.has_spoken = False
            self._on_lost(replica.identity.hex())
        self._reach_later()

    def _reach_later(self) -> None:
        if self._reach_timer is None:
            self._reach_timer = self._loop.call_later(REACH_AGAIN_S, self._reach_again)

    def _lose(self, identity: bytes) -> None:
        """Try the batches of a replica whose lane has ended on another one, without waiting for the next table."""
        self._text_peers.pop(identity, None)
        replica = self._replicas.get(identity)
        if replica is None:
            return
        replica.lost_at = monotonic()
        self._cut_off(replica)
        self._retry_batches(replica)
        if not replica.version.is_dirty:
            self._mark(replica.version)

    def _retry_batches(self, replica: Replica) -> None:
        for number in [number for number, batch in self._batches.items() if batch.replica is replica]:
            self._retry_lost(self._batches.pop(number))
        replica.batches = 0

    # -- outputs back

    def _hear(self, identity: bytes, frames: list[bytes]) -> None:
        """Take in one message of a replica."""
        replica = self._replicas.get(identity)
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
                self._mark(replica.version)
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
            if len(self._text_peers) >= MAX_GREETED:  # of replicas that no table named
                del self._text_peers[next(iter(self._text_peers))]
            self._text_peers[identity] = text_peers
        replica = self._replicas.get(identity)
        if replica is not None:
            replica.text_peers = text_peers
            replica.version.follow_readers()

    def _claim(self, replica: Replica, fields: list[Any], count: int) -> Batch | None:
        """Return the batch that a message is about and take it off the list, or None when there is none."""
        batch = None
        if len(fields) >= count and isinstance(fields[1], int):
            batch = self._batches.get(fields[1])
        if batch is None or batch.replica is not replica:
            self._counters.dropped_messages += 1
            return None
        del self._batches[fields[1]]
        replica.batches -= 1
        replica.last_heard = monotonic()
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
            self._fail(batch, now)
            return
        lengths: list[int] = fields[3]
        unread: list[Query] = []
        if batch.is_text:
            queries, lengths, unread = texts.part_texts(queries, lengths)
            if not queries:
                self._read_again(batch, unread)
                return
        latency_s = now - batch.sent_at
        predict_us = fields[2] if isinstance(fields[2], int) and fields[2] > 0 else int(latency_s * 1e6)
        predict_s = min(predict_us / 1e6, latency_s)
        read_s = texts.read_seconds(fields, predict_s) if batch.is_text else 0.0
        version.learn(queries, batch.sent_at, now, predict_s, read_s)
        version.counter.observe(len(queries), latency_s, predict_us)
        version.pace.observe(latency_s)
        if unread:
            self._read_again(batch, unread)
        batch.leave_to_twin()
        if now - queries[0].arrived > self._slow.limit_s:
            self._slow.note_batch(batch, now, predict_s)
        version.faults_in_row = 0
        if version.queue.rows or version.retries:
            self._pump(version)  # before answering: the replica need not wait for that
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
        self._release(version, settled)

    def _read_again(self, batch: Batch, queries: list[Query]) -> None:
        """Read texts the usual way that a replica could not read: a 400, or packed numbers that go out once more."""
        version = batch.version
        if not batch.leave_to_twin():
            sound = self._pack(version, [query for query in queries if not query.is_done])
            if sound:
                version.retries.append(sound)
        if not version.is_dirty:
            self._mark(version)

    def _take_fault(self, replica: Replica, fields: list[Any]) -> None:
        batch = self._claim(replica, fields, 3)
        if batch is not None:
            self._fail(batch, replica.last_heard)

    def _fail(self, batch: Batch, now: float) -> None:
        """Answer for a batch that failed; halve a larger one and try again: one bad query must not hurt the others."""
        version = batch.version
        version.counter.failed_batches += 1
        version.faults_in_row += 1
        if batch.leave_to_twin():
            return
        if batch.is_text:
            batch.queries = self._pack(version, batch.queries)
        waiting = [query for query in batch.queries if not query.is_done]
        is_worth = version.route.idempotent and version.faults_in_row <= MAX_FAULTS_SPLIT + len(waiting).bit_length()
        if len(batch.queries) > 1 and len(waiting) > 0 and is_worth:
            hurried = [one for one in waiting if one.is_canary and now > one.arrived + one.owner.slo_s * SPLIT_SHARE]
            if hurried and self._successor(version) is not None:  # else half a batch is all that is left to try
                self._give_up(version, hurried, "failed", explain_failed(version.model), now)
                waiting = [query for query in waiting if query.version is version and not query.is_done]
            half = (len(waiting) + 1) // 2
            version.counter.retries += bool(waiting)
            version.retries.extend(part for part in (waiting[:half], waiting[half:]) if part)
        else:
            self._give_up(version, waiting, "failed", explain_failed(version.model), now)
        if not version.is_dirty:
            self._mark(version)

    # -- the end of a query's lease

    def _give_up(
        self,
        version: ServedVersion,
        queries: list[Query],
        reason: str,
        explanation: str,
        now: float,
        *,
        have_begun: bool = True,
    ) -> None:
        """Answer for queries that a version failed: a canary's by the active version, others by the default output.

        What a version that is not idempotent has begun is not done again: such queries get the default output.
        """
        waiting = [query for query in queries if not query.is_done]
        if version.has_texts:
            waiting = self._pack(version, waiting)
        version.counter.errors += len(waiting)
        may_repeat = version.route.idempotent or not have_begun
        left = self._hand_over(version, waiting, now) if may_repeat else waiting
        for query in left:
            self._settle_default(query, reason, explanation, now)
        self._release(version, len(waiting) - len(left))

    def _hand_over(self, version: ServedVersion, queries: list[Query], now: float) -> list[Query]:
        """Have the active version answer a canary's queries while there is time; return those that it cannot answer.

        The caller ends the leases of the others on ``version``.
        """
        active = self._successor(version)
        if active is None:
            return queries
        in_time = now + DEADLINE_RESERVE_S
        moved = [query for query in queries if query.is_canary and query.deadline > in_time]
        if not moved:
            return queries
        self._move(moved, version, active)
        step = active.batch_limit.limit
        active.retries.extend(moved[start : start + step] for start in range(0, len(moved), step))
        return [query for query in queries if query.version is version]

    def _successor(self, version: ServedVersion) -> ServedVersion | None:
        """Return the active version if it can take queries over from this one.

        None for the active version itself: what it has taken over, or got as a candidate before it became active, has
        nobody else, and is tried again like any other query.
        """
        active = self._actives.get(version.model)
        if (
            active is None
            or active is version
            or not active.replicas
            or active.queue.rows >= active.bearable
            or active.queue.size_bytes >= MAX_QUEUED_BYTES
            or active.route.input_type != version.route.input_type
        ):
            return None
        return active

    def _move(self, queries: list[Query], version: ServedVersion, active: ServedVersion) -> None:
        """Have queries lease the active version. The caller puts them where they wait, and ends their old leases."""
        for query in queries:
            query.version = active
            query.key = None  # that of the candidate: what the active version says must not be kept under it
        version.counter.moved += len(queries)
        active.live += len(queries)
        active.counter.queries += len(queries)
        if not active.is_dirty:
            self._mark(active)

    def _settle_default(self, query: Query, reason: str, explanation: str, now: float) -> None:
        if query.is_done:
            return
        if query.is_text and texts.settle_text(query) is None:
            self._release(query.version, 1)
            return
        if reason == "slo":
            query.version.counter.defaults += 1
        query.fall_back(reason, explanation, now)
        if query.key is not None:
            if reason == "slo":
                self._succeed(query)
            else:
                for follower in sharing.part(query):
                    self._settle_default(follower, reason, explanation, now)
        self._release(query.version, 1)

    def _succeed(self, leader: Query) -> None:
        """A query was given up without an output: the first of its followers, which may have more time, leads."""
        followers = sharing.part(leader)
        if not followers:
            return
        version = leader.version
        following = version.asked.get(leader.key)  # type: ignore[arg-type]
        if following is None:
            following = followers.pop(0)
            sharing.lead(following)
            version.counter.queries += 1
            version.queue.put(following, following.owner.app)
            if not version.is_dirty:
                self._mark(version)
        for follower in followers:
            sharing.join(following, follower)

    def _release(self, version: ServedVersion, count: int) -> None:
        version.live -= count
        if version.is_leaving and version.live == 0:
            self._forget(version)

    def _forget(self, version: ServedVersion) -> None:
        """Let go of a version that has left the table and has no query left."""
        if self.versions.get(version.route.key) is not version:
            return
        del self.versions[version.route.key]
        for replica in version.replicas:
            self._drop_replica(replica)
        version.replicas.clear()  # they point back, and this process looks for cycles once in many thousand switches
        for number in [number for number, batch in self._batches.items() if batch.version is version]:
            del self._batches[number]
        if version.delay_timer is not None:
            version.delay_timer.cancel()
        self._on_released(version.route.key)

    def _drop_replica(self, replica: Replica) -> None:
        if self._replicas.get(replica.identity) is replica:  # else another load has taken the process over
            del self._replicas[replica.identity]

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        delay_s = deadline - DEADLINE_RESERVE_S - monotonic()
        self._timer = self._loop.call_later(max(0.0, delay_s), self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._timer_at = float("inf")
        due, earliest = self._deadlines.pop_due(monotonic() + DEADLINE_RESERVE_S)
        if due:
            self._slow.note_missed(due, monotonic(), self._batches.values())
        for query in reversed(due):  # a query's followers before itself: else each would take its place for a moment
            self._settle_default(query, "slo", SLO_MISSED, monotonic())
        for version in {id(query.version): query.version for query in due}.values():
            version.queue.drop_settled()
        if earliest is not None:
            self._arm(earliest)

    def _check_hangs(self) -> None:
        now = monotonic()
        for batch in self._batches.values():
            out_s = now - max(batch.sent_at, batch.replica.last_heard)
            if out_s > batch.version.route.predict_timeout_s and not batch.is_hanging:
                batch.is_hanging = True
                self._on_hang(batch.replica.identity.hex(), out_s)
        self._hang_timer = self._loop.call_later(HANG_CHECK_S, self._check_hangs)

    # -- tables

    def apply(self, table: RoutingTable) -> dict[tuple[str, str], ServedVersion]:
        """Follow a new table. Returns what serves each (model, version) of it.

        Versions that stay keep their queries; versions that go finish theirs on the replicas that they have; the
        batches of a replica that has gone from a version that stays are tried once on another replica.
        """
        served: dict[tuple[str, str], ServedVersion] = {}
        shortest: dict[str, float] = {}
        for app in table.apps.values():
            if app.model is not None:
                shortest[app.model] = min(shortest.get(app.model, float("inf")), app.slo_us / 1e6)
        self._actives.clear()  # of a model that has left, too: a released version must not be leased again
        for model_name, model in table.models.items():
            # The active version first: it takes over what a candidate that lost its replicas leaves.
            for name in sorted(model.versions, key=lambda name: name != model.active):
                route = model.versions[name]
                version = self.versions.get(route.key)
                if version is None:
                    version = ServedVersion(model_name, name, route, self._counters.version(model_name, name))
                    self.versions[route.key] = version
                version.is_leaving = False
                version.follow_slo(shortest.get(model_name, 1.0))
                version.uses_cache = model.cache and self._cache.max_bytes > 0
                if name == model.active:
                    self._actives[model_name] = version
                self._follow(version, route, route.unavailable or model.unavailable)
                served[model_name, name] = version
                rollout = model.rollout
                if name != model.active and (rollout is None or rollout.version != name or rollout.kind != "canary"):
                    self._hand_over_waiting(version)  # an alias or a pin may keep what was a candidate
        staying = {version.route.key for version in served.values()}
        for version in list(self.versions.values()):
            if version.route.key not in staying:
                self._hand_over_waiting(version)  # each time: an active version may have come back
                version.is_leaving = True
                self._release(version, 0)
        return served

    def _hand_over_waiting(self, version: ServedVersion) -> None:
        """Have the active version answer what waits for a candidate whose rollout has ended.

        So does what could not be sent, or is to be tried again: the replicas may be why the rollout has ended. What is
        in ``retries`` may be done again: of a version that is not idempotent that is what never left.
        """
        groups = [group for group in version.retries if any(query.is_canary for query in group)]
        if not groups and not any(query.is_canary for lane in version.queue.lanes.values() for query in lane):
            return
        now = monotonic()
        count = 0
        for _ in range(len(version.retries)):
            group = [query for query in version.retries.popleft() if not query.is_done]
            left = self._hand_over(version, group, now)
            count += len(group) - len(left)
            if left:
                version.retries.append(left)
        waiting = version.queue.take_all()
        left = self._hand_over(version, waiting, now)
        for query in left:
            version.queue.put(query, query.owner.app)
        self._release(version, count + len(waiting) - len(left))

    def _follow(self, version: ServedVersion, route: VersionRoute, unavailable: str | None) -> None:
        version.follow(route)
        wanted = {bytes.fromhex(identity) for identity in route.replicas}
        gone = [replica for replica in version.replicas if replica.identity not in wanted]
        version.replicas = [replica for replica in version.replicas if replica.identity in wanted]
        known = {replica.identity for replica in version.replicas}
        for identity in route.replicas:
            key = bytes.fromhex(identity)
            if key not in known:
                replica = self._replicas[key] = Replica(key, version)
                replica.text_peers = self._text_peers.get(key, 0)
                version.replicas.append(replica)
        version.follow_readers()
        for replica in gone:
            self._drop_replica(replica)
            self._retry_batches(replica)
        if not version.replicas:
            now = monotonic()
            explanation = unavailable or explain_crashed(version.model, version.name)
            waiting = [query for group in version.retries for query in group]
            version.retries.clear()
            waiting += version.queue.take_all()
            # Of a version that is not idempotent, only batches that could not be sent wait in ``retries``.
            self._give_up(version, waiting, "unavailable", explanation, now, have_begun=False)
        elif not version.is_dirty:
            self._mark(version)

    def _retry_lost(self, batch: Batch) -> None:
        """Send the batch of a replica that has gone out once more, unless that could do something twice."""
        version = batch.version
        if batch.leave_to_twin():
            return
        waiting = [query for query in batch.queries if not query.is_done]
        if batch.is_text:
            waiting = self._pack(version, waiting)
        if not version.route.idempotent:
            self._give_up(version, waiting, "lost", explain_crashed(version.model, version.name), monotonic())
            return
        can_move = self._successor(version) is not None
        again = [query for query in waiting if query.attempts == 0 and not (query.is_canary and can_move)]
        given_up = [query for query in waiting if query.attempts or (query.is_canary and can_move)]
        for query in again:
            query.attempts += 1
        self._give_up(version, given_up, "failed", explain_failed(version.model), monotonic())
        if again:
            version.counter.retries += 1
            version.retries.append(again)

    def snapshot(self) -> list[dict[str, Any]]:
        """Return the state of the queues as plain data."""
        out: dict[int, int] = {}
        for batch in self._batches.values():
            out[id(batch.version)] = out.get(id(batch.version), 0) + 1
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


def _are_lengths(lengths: Any, count: int, body_bytes: int, least: int) -> bool:
    """Return whether a list of lengths cuts a body into ``count`` outputs of at least so many bytes."""
    if not isinstance(lengths, list) or len(lengths) != count or set(map(type, lengths)) != {int}:
        return False
    return min(lengths) >= least and sum(lengths) == body_bytes
