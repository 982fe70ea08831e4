"""The predict handler: from a body to queries that lease a version, or to the reply that needs no version."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Final

from msgspec import UNSET

from clipperfs.replica.text import is_plain
from clipperfs.wire import Body, Packed

from .cache import PredictionCache
from .compare import Comparison
from .counters import Counters
from .dispatch import Dispatcher
from .exchange import Exchange
from .limiter import AppLimiter
from .pending import BatchReply, Query, QueryOwner, give_answer, give_default
from .pieces import LARGE_BYTES, Outcome, PieceReader, read_pieces
from .query import (
    CODECS,
    MAX_BATCH_INPUTS,
    QUERY_ERROR,
    REFUSALS,
    BadQueryError,
    InputCodec,
    check_input,
    nest_output,
)
from .quick import QUICK_BYTES
from .routing import AppRoute, RoutingTable, explain_limit
from .served import ServedVersion
from .staged import CanaryQuery, ShadowCopy, ShadowedQuery, StagedBatchReply, StagedRollout
from .texts import MAX_TEXT_BYTES

MAX_CACHED_INPUT_BYTES: Final = 1024 * 1024
"""Larger inputs are not looked for in the cache: to hash one takes longer than the loop should be held."""


class AppEntry:
    """One application under one table, with everything that its usual query needs looked up in advance."""

    __slots__ = (
        "active",
        "app",
        "codec",
        "explanation",
        "input_bytes",
        "input_size",
        "owner",
        "reason",
        "rollout",
        "table",
        "version",
        "versions",
    )

    def __init__(
        self,
        table: RoutingTable,
        app: AppRoute,
        owner: QueryOwner,
        versions: dict[tuple[str, str], ServedVersion],
    ) -> None:
        self.table = table
        self.app = app
        self.owner = owner
        self.codec: InputCodec = CODECS[app.input_type]
        self.versions = versions
        self.active, self.reason, self.explanation = self.resolve(None)
        self.input_size = None if self.active is None else self.active.route.input_size
        self.input_bytes = (self.input_size or 0) * self.codec.element_bytes
        """How long a packed input is; 0 where any length will do."""
        self.rollout = self._stage()
        self.version = self.active if self.rollout is None else None
        """What answers every usual query. None: a rollout decides, or nothing answers. One test tells, as before."""

    def resolve(self, pin: str | None) -> tuple[ServedVersion | None, str, str]:
        """Return the version that answers, or None with the reason (``counters.REASONS``) and the explanation."""
        choice = self.table.choose(self.app, pin)
        if choice.version is not None:
            return self.versions[choice.model, choice.name], "", ""
        return None, choice.reason, choice.explanation

    def _stage(self) -> StagedRollout | None:
        """Return the rollout that this application's queries meet, where its candidate can answer them."""
        model = None if self.app.model is None else self.table.models.get(self.app.model)
        if model is None or model.rollout is None or self.app.model is None:
            return None
        candidate = self.versions.get((self.app.model, model.rollout.version))
        if candidate is None or not candidate.route.replicas or candidate.route.input_type != self.app.input_type:
            return None
        return StagedRollout(model.rollout, candidate, self.owner)


class PredictHandler:
    """Answers ``POST /<app>/predict``. ``routes`` holds the targets, with and without a trailing slash."""

    def __init__(self, dispatcher: Dispatcher, cache: PredictionCache, first_query_id: int) -> None:
        self.routes: dict[bytes, AppEntry] = {}
        self.posts: dict[bytes, Callable[[Exchange, Body], None]] = {}
        """By target: what answers a plain body."""
        self._followed: tuple[RoutingTable, dict[tuple[str, str], ServedVersion]] = (RoutingTable(), {})
        """The table of the moment, and what serves each (model, version) of it."""
        self._limiters: dict[str, AppLimiter] = {}
        self._dispatcher = dispatcher
        self._cache = cache
        self._next_id = first_query_id
        self._pieces = PieceReader()

    def follow(self, table: RoutingTable, versions: dict[tuple[str, str], ServedVersion], counters: Counters) -> None:
        """Route by a new table from the next query on.

        Most tables change one model of many: the entries of the others stay, for to make a thousand holds up the loop.
        """
        routes: dict[bytes, AppEntry] = {}
        before, was_served = self._followed
        self._followed = (table, versions)
        changed = {
            name
            for name, model in table.models.items()
            if model != before.models.get(name)
            or any(versions.get((name, one)) is not was_served.get((name, one)) for one in model.versions)
        }
        for name, app in table.apps.items():
            target = f"/{name}/predict".encode("ascii")
            known = self.routes.get(target)
            if known is not None and app == known.app and app.model in table.models and app.model not in changed:
                known.table, known.versions = table, versions  # what the old ones hold must not live on
                routes[target] = routes[target + b"/"] = known
                continue
            slo_s = app.slo_us / 1e6
            owner = QueryOwner(
                name,
                slo_s,
                nest_output(app.default_output),
                counters.app(name),
                self._limiter(name, app),
                self._dispatcher.deadline_lane(slo_s),
            )
            entry = AppEntry(table, app, owner, versions)
            routes[target] = routes[target + b"/"] = entry
        self.routes = routes
        self.posts = {target: partial(self.handle, entry) for target, entry in routes.items()}

    def _limiter(self, name: str, app: AppRoute) -> AppLimiter | None:
        """Return what keeps an application within its limits. It outlives tables: queries in flight are counted."""
        limiter = self._limiters.get(name)
        if app.max_concurrent is None and app.max_rate is None and (limiter is None or not limiter.in_flight):
            self._limiters.pop(name, None)
            return None
        if limiter is None:
            limiter = self._limiters[name] = AppLimiter(monotonic())
        limiter.set_limits(app.max_concurrent, app.max_rate)
        return limiter

    def handle(
        self, entry: AppEntry, exchange: Exchange, body: Body, pin: str | None = None, key: str | None = None
    ) -> None:
        """Answer one request, now or later. ``pin`` and ``key``: what headers say, where the body says nothing."""
        arrived = monotonic()
        codec = entry.codec
        if len(body) >= QUICK_BYTES:
            if len(body) >= LARGE_BYTES:
                self._handle_large(entry, exchange, body, pin, key)
                return
            if entry.version is not None and codec.quick is not None and pin is None:
                if entry.version.takes_texts and self._submit_text(entry.owner, entry.version, body, arrived, exchange):
                    return
                packed = codec.quick(body)
                if packed and (not entry.input_bytes or len(packed) == entry.input_bytes):
                    self._submit(entry.owner, entry.version, packed, arrived, exchange, -1)
                    return
        self._handle_whole(entry, exchange, body, pin, key, arrived)

    def _handle_whole(
        self, entry: AppEntry, exchange: Exchange, body: Body, pin: str | None, key: str | None, arrived: float
    ) -> None:
        codec = entry.codec
        try:
            request = codec.decode(body)
            value = request.input
            if pin is not None and request.version is None:
                request.version = pin
            if key is not None and request.key is None:
                request.key = key
            if value is UNSET or request.version is not None:
                self._handle_unusual(entry, exchange, request, arrived)
                return
            packed = codec.pack(value)
            size = len(packed)
            if not size or (entry.input_bytes and size != entry.input_bytes):
                check_input(packed, codec, entry.input_size, entry.app.model)
        except REFUSALS as error:
            self.refuse(entry, exchange, codec.explain(error, body))
            return
        except BadQueryError as error:
            self.refuse(entry, exchange, error)
            return
        version = entry.version
        if version is not None:
            self._submit(entry.owner, version, packed, arrived, exchange, -1)
        elif entry.rollout is not None:
            self._submit_staged(entry, entry.rollout, packed, request.key, arrived, exchange, -1)
        else:
            self._default(entry, exchange, -1, entry.reason, entry.explanation)

    def _handle_large(self, entry: AppEntry, exchange: Exchange, body: Body, pin: str | None, key: str | None) -> None:
        """Read a body piece by piece, so that others are answered meanwhile; its time begins when that is done."""

        def finish(outcome: Outcome) -> None:
            now = self.routes.get(f"/{entry.owner.app}/predict".encode("ascii"))  # the table may have changed
            if now is None:
                exchange.fail(404, "Not found", "the application was deleted a moment ago")
            elif isinstance(outcome, BadQueryError):
                self.refuse(now, exchange, outcome)
            elif outcome is None or now.codec is not entry.codec:
                self._handle_whole(now, exchange, body, pin, key, monotonic())
            else:
                pins, keys = outcome.version or pin, outcome.key or key
                self.handle_packed(now, exchange, outcome.inputs, pins, keys, monotonic())

        self._pieces.read(read_pieces(body, entry.codec), finish, lambda: exchange.connection is None)

    def _handle_unusual(self, entry: AppEntry, exchange: Exchange, request: Any, arrived: float) -> None:
        """Answer a request with a pin or with an ``input_batch``. Raises like ``codec.pack``, and BadQueryError."""
        version, reason, explanation = entry.resolve(request.version)
        input_size = None if version is None else version.route.input_size
        model = entry.app.model
        if request.input is not UNSET:
            packed = entry.codec.pack(request.input)
            check_input(packed, entry.codec, input_size, model)
            if version is None:
                self._default(entry, exchange, -1, reason, explanation)
            else:
                self._submit(entry.owner, version, packed, arrived, exchange, -1)
            return
        values = request.input_batch
        if values is UNSET:
            raise BadQueryError(QUERY_ERROR, "the body must have the field input, or input_batch")
        if not values:
            raise BadQueryError(QUERY_ERROR, "input_batch must not be empty")
        if len(values) > MAX_BATCH_INPUTS:
            raise BadQueryError(QUERY_ERROR, f"input_batch must not have more than {MAX_BATCH_INPUTS} elements")
        inputs: list[Packed] = [entry.codec.pack(value) for value in values]
        self._handle_batch(entry, exchange, inputs, request.version, request.key, arrived)

    def handle_packed(
        self,
        entry: AppEntry,
        exchange: Exchange,
        inputs: Packed | list[Packed],
        pin: str | None,
        key: str | None,
        arrived: float,
    ) -> None:
        """Answer inputs that came packed: one, or a batch of them."""
        try:
            if isinstance(inputs, list):
                self._handle_batch(entry, exchange, inputs, pin, key, arrived)
                return
            version, reason, explanation = entry.resolve(pin)
            input_size = None if version is None else version.route.input_size
            check_input(inputs, entry.codec, input_size, entry.app.model)
        except BadQueryError as error:
            self.refuse(entry, exchange, error)
            return
        if pin is None and entry.rollout is not None:
            self._submit_staged(entry, entry.rollout, inputs, key, arrived, exchange, -1)
        elif version is None:
            self._default(entry, exchange, -1, reason, explanation)
        else:
            self._submit(entry.owner, version, inputs, arrived, exchange, -1)

    def _handle_batch(
        self,
        entry: AppEntry,
        exchange: Exchange,
        inputs: list[Packed],
        pin: str | None,
        key: str | None,
        arrived: float,
    ) -> None:
        """Answer several inputs. Raises BadQueryError."""
        version, reason, explanation = entry.resolve(pin)
        rollout = entry.rollout if pin is None else None
        input_size = None if version is None else version.route.input_size
        model = entry.app.model
        for index, packed in enumerate(inputs):
            try:
                check_input(packed, entry.codec, input_size, model)
            except BadQueryError as error:
                raise BadQueryError(error.error, f"input_batch[{index}]: {error.cause}") from None
        is_staged = rollout is not None and not rollout.is_shadow
        reply = (StagedBatchReply if is_staged else BatchReply)(exchange, len(inputs))
        for index, packed in enumerate(inputs):
            if rollout is not None:
                self._submit_staged(entry, rollout, packed, key, arrived, reply, index)
            elif version is None:
                self._default(entry, reply, index, reason, explanation)
            else:
                self._submit(entry.owner, version, packed, arrived, reply, index)

    def _submit(
        self,
        owner: QueryOwner,
        version: ServedVersion,
        packed: Packed,
        arrived: float,
        sink: Exchange | BatchReply,
        index: int,
    ) -> None:
        """Answer from the cache, or have the version answer."""
        owner.counter.queries += 1
        number = self._next_id
        self._next_id = number + 1
        if owner.limiter is not None and not owner.limiter.admit(arrived):
            owner.counter.observe(0.0)
            give_default(owner, number, sink, index, "limit", explain_limit(owner.app))
            return
        deadline = arrived + owner.slo_s
        if not version.uses_cache or len(packed) > MAX_CACHED_INPUT_BYTES:
            self._dispatcher.submit(Query(owner, version, packed, number, arrived, deadline, sink, index))
            return
        key = version.cache_prefix + packed
        output = self._cache.get(key)
        if output is not None:
            version.counter.cache_hits += 1
            owner.counter.observe(0.0)
            if owner.limiter is not None:
                owner.limiter.in_flight -= 1
            give_answer(number, sink, index, output, version.reply_head)
            return
        version.counter.cache_misses += 1
        query = Query(owner, version, packed, number, arrived, deadline, sink, index, key)
        leader = version.asked.get(key)
        if leader is not None and leader.deadline <= deadline:
            self._dispatcher.follow(leader, query)
        else:
            self._dispatcher.submit(query)

    def _submit_text(
        self, owner: QueryOwner, version: ServedVersion, body: Body, arrived: float, exchange: Exchange
    ) -> bool:
        """Have a replica read the body and answer it. Returns False when it must, or should rather, be read here.

        An application with limits must know what is a query before it may be let in, and so must a full queue.
        """
        queue = version.queue
        if (
            owner.limiter is not None
            or queue.rows >= version.bearable
            or arrived + owner.slo_s < version.late_before
            or queue.size_bytes >= MAX_TEXT_BYTES
            or not isinstance(body, bytes)
            or not is_plain(body)
        ):
            return False
        number = self._next_id
        self._next_id = number + 1
        self._dispatcher.submit_text(
            Query(owner, version, body, number, arrived, arrived + owner.slo_s, exchange, -1, is_text=True)
        )
        return True

    def _submit_staged(
        self,
        entry: AppEntry,
        rollout: StagedRollout,
        packed: Packed,
        key: str | None,
        arrived: float,
        sink: Exchange | BatchReply,
        index: int,
    ) -> None:
        """Have the candidate answer a query of a canary's cohort, or see a copy of one of a shadow's."""
        owner, active, candidate = entry.owner, entry.active, rollout.candidate
        is_in_cohort = (packed if key is None else key.encode()) in rollout.cohort
        if is_in_cohort and not rollout.is_shadow:
            if not self._is_over(owner, arrived, sink, index):
                number, deadline = self._take_id(), arrived + owner.slo_s
                self._submit_query(CanaryQuery(owner, candidate, packed, number, arrived, deadline, sink, index))
        elif active is None:
            self._default(entry, sink, index, entry.reason, entry.explanation)
        elif not is_in_cohort or not rollout.has_room:
            candidate.counter.shadow_dropped += is_in_cohort
            self._submit(owner, active, packed, arrived, sink, index)
        elif not self._is_over(owner, arrived, sink, index):
            number, deadline, comparison = self._take_id(), arrived + owner.slo_s, Comparison(candidate.counter)
            shadowed = ShadowedQuery(
                owner, active, packed, number, arrived, deadline, sink, index, comparison=comparison
            )
            copy = ShadowCopy(
                rollout.copies, candidate, packed, -1, arrived, deadline, sink, index, comparison=comparison
            )
            self._submit_query(shadowed)  # first: the caller's answer waits for nothing
            self._submit_query(copy)

    def _submit_query(self, query: Query) -> None:
        """Answer a query from the cache, or have its version answer (``_submit`` in one, for the usual query)."""
        version = query.version
        query.owner.counter.queries += 1
        if version.uses_cache and len(query.packed) <= MAX_CACHED_INPUT_BYTES:
            query.key = version.cache_prefix + query.packed
            output = self._cache.get(query.key)
            if output is not None:
                version.counter.cache_hits += 1
                query.answer(output, query.arrived)
                return
            version.counter.cache_misses += 1
        self._dispatcher.submit(query)

    def _is_over(self, owner: QueryOwner, arrived: float, sink: Exchange | BatchReply, index: int) -> bool:
        """Return whether the application is over its limits; the query has its answer then."""
        if owner.limiter is None or owner.limiter.admit(arrived):
            return False
        owner.counter.queries += 1
        owner.counter.observe(0.0)
        give_default(owner, self._take_id(), sink, index, "limit", explain_limit(owner.app))
        return True

    def _take_id(self) -> int:
        number = self._next_id
        self._next_id = number + 1
        return number

    def _default(self, entry: AppEntry, sink: Exchange | BatchReply, index: int, reason: str, explanation: str) -> None:
        entry.owner.counter.queries += 1
        entry.owner.counter.observe(0.0)
        number = self._next_id
        self._next_id = number + 1
        give_default(entry.owner, number, sink, index, reason, explanation)

    def refuse(self, entry: AppEntry, exchange: Exchange, error: BadQueryError) -> None:
        """Answer a request that cannot be understood."""
        entry.owner.counter.bad_requests += 1
        exchange.fail(400, error.error, error.cause)
