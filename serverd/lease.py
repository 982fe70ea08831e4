"""How a query's lease of its version ends: by an answer, by the default output, or by moving to another version."""

from __future__ import annotations

from collections.abc import Callable

from . import sharing, texts
from .agenda import Agenda
from .batching import MAX_QUEUED_BYTES
from .outbox import Outbox
from .pending import Query
from .served import DEADLINE_RESERVE_S, ServedVersion


class Leases:
    """All served versions, and the ends of what their queries lease.

    Guarantees: a version that has left the table is released when its last query is answered, once.

    Args:
        outbox: what a released version is forgotten by.
        agenda: where versions are marked that get queries.
        on_released: called with the key of a load that nobody leases any more.
    """

    def __init__(self, outbox: Outbox, agenda: Agenda, on_released: Callable[[str], None]) -> None:
        self.versions: dict[str, ServedVersion] = {}
        """By the key of the load."""
        self.actives: dict[str, ServedVersion] = {}
        """By model: the active version, which answers what a canary's candidate cannot."""
        self._outbox = outbox
        self._agenda = agenda
        self._on_released = on_released

    def release(self, version: ServedVersion, count: int) -> None:
        """End so many leases: their queries have their answers, or lease another version."""
        version.live -= count
        if version.is_leaving and version.live == 0:
            self._forget(version)

    def _forget(self, version: ServedVersion) -> None:
        """Let go of a version that has left the table and has no query left."""
        if self.versions.get(version.route.key) is not version:
            return
        del self.versions[version.route.key]
        self._outbox.forget(version)
        if version.delay_timer is not None:
            version.delay_timer.cancel()
        self._on_released(version.route.key)

    def pack(self, version: ServedVersion, queries: list[Query]) -> list[Query]:
        """Read what is still text here; return the queries without those whose body was bad. None may be queued."""
        sound = texts.pack_texts(queries)
        if len(sound) < len(queries):
            self.release(version, len(queries) - len(sound))
        return sound

    def settle_default(self, query: Query, reason: str, explanation: str, now: float) -> None:
        """Give an unanswered query the default output, and end its lease. ``reason`` is one of ``counters.REASONS``."""
        if query.is_done:
            return
        if query.is_text and texts.settle_text(query) is None:
            self.release(query.version, 1)
            return
        if reason == "slo":
            query.version.counter.defaults += 1
        query.fall_back(reason, explanation, now)
        if query.key is not None:
            if reason == "slo":
                self.succeed(query)
            else:
                for follower in sharing.part(query):
                    self.settle_default(follower, reason, explanation, now)
        self.release(query.version, 1)

    def succeed(self, leader: Query) -> None:
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
                self._agenda.mark(version)
        for follower in followers:
            sharing.join(following, follower)

    def give_up(
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
            waiting = self.pack(version, waiting)
        version.counter.errors += len(waiting)
        may_repeat = version.route.idempotent or not have_begun
        left = self.hand_over(version, waiting, now) if may_repeat else waiting
        for query in left:
            self.settle_default(query, reason, explanation, now)
        self.release(version, len(waiting) - len(left))

    def hand_over(self, version: ServedVersion, queries: list[Query], now: float) -> list[Query]:
        """Have the active version answer a canary's queries while there is time; return those that it cannot answer.

        The caller ends the leases of the others on ``version``.
        """
        active = self.successor(version)
        if active is None:
            return queries
        in_time = now + DEADLINE_RESERVE_S
        moved = [query for query in queries if query.is_canary and query.deadline > in_time]
        if not moved:
            return queries
        self.move(moved, version, active)
        step = active.batch_limit.limit
        active.retries.extend(moved[start : start + step] for start in range(0, len(moved), step))
        return [query for query in queries if query.version is version]

    def successor(self, version: ServedVersion) -> ServedVersion | None:
        """Return the active version if it can take queries over from this one.

        None for the active version itself: what it has taken over, or got as a candidate before it became active, has
        nobody else, and is tried again like any other query.
        """
        active = self.actives.get(version.model)
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

    def move(self, queries: list[Query], version: ServedVersion, active: ServedVersion) -> None:
        """Have queries lease the active version. The caller puts them where they wait, and ends their old leases."""
        for query in queries:
            query.version = active
            query.key = None  # that of the candidate: what the active version says must not be kept under it
        version.counter.moved += len(queries)
        active.live += len(queries)
        active.counter.queries += len(queries)
        if not active.is_dirty:
            self._agenda.mark(active)
