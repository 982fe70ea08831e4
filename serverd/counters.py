"""Plain integer counters of one frontend; the controller adds up the snapshots of all and renders them.

The request path does ``counter.field += 1`` on slots and lists of integers, nothing else.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .pending import Query

LATENCY_BOUNDS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the latency buckets; one more bucket counts what is above the last. A query of a quick model takes
0.2 ms, and its predict less than 0.1."""

BATCH_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of the batch-size buckets; one more bucket counts what is above the last."""

REASONS: Final = ("no_model", "unavailable", "not_loaded", "input_type", "limit", "overload", "failed", "lost", "slo")
"""Why a default output was given: the labels of ``AppCounter.defaults``."""


class AppCounter:
    """What happened to one application's queries. ``latency`` counts answers by the time since the request came."""

    __slots__ = ("bad_requests", "defaults", "latency", "latency_us", "queries")

    def __init__(self) -> None:
        self.queries = 0
        self.bad_requests = 0
        self.defaults = dict.fromkeys(REASONS, 0)
        self.latency = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.latency_us = 0

    def observe(self, latency_s: float) -> None:
        """Count an answer."""
        self.latency[bisect_left(LATENCY_BOUNDS_S, latency_s)] += 1
        self.latency_us += int(latency_s * 1e6)

    def snapshot(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        return {
            "queries": self.queries,
            "bad_requests": self.bad_requests,
            "defaults": {reason: count for reason, count in self.defaults.items() if count},
            "latency": list(self.latency),
            "latency_us": self.latency_us,
        }


class VersionCounter:
    """What happened to one version's batches.

    ``predict_us`` is the sum of what the replicas report; ``latency`` counts batches by the time from sending them to
    their outputs. ``late`` counts queries whose output came after their deadline; ``shared`` those that waited for the
    output of an equal one instead of being predicted; ``hedges`` batches that were late and went to a second replica as
    well. ``errors`` counts queries that it failed: it raised, died or had no live replica; ``defaults`` those that it
    did not answer in time or could not take in; ``moved`` those of both that the active version then answered.
    ``agree``, ``differ`` and ``shadow_dropped`` count copies that it got as a shadow, or did not get.
    ``rows`` is the sum of the sizes of the batches that came back: of ``queries`` some end in the queue, and some are
    sent twice. ``size_predict_us`` is ``predict_us`` by ``BATCH_BOUNDS``. ``predict`` counts batches by what the
    replicas report; ``waits`` queries by the time that they waited in the queue, ``waits_us`` the sum of those times.
    ``answered`` counts queries that got an output of this version by the time since the request came, those answered
    from the cache left out; ``answered_us`` is the sum of those times.
    """

    __slots__ = (
        "agree", "answered", "answered_us", "batch_sizes", "batches", "cache_hits", "cache_misses", "defaults",
        "differ", "errors", "failed_batches", "hedges", "late", "latency", "latency_us", "moved", "predict",
        "predict_us", "queries", "retries", "rows", "shadow_dropped", "shared", "size_predict_us", "waits",
        "waits_us",
    )  # fmt: skip

    def __init__(self) -> None:
        self.queries = 0
        self.batches = 0
        self.rows = 0
        self.failed_batches = 0
        self.predict_us = 0
        self.predict = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.waits = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.waits_us = 0
        self.answered = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.answered_us = 0
        self.latency = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.latency_us = 0
        self.batch_sizes = [0] * (len(BATCH_BOUNDS) + 1)
        self.size_predict_us = [0] * (len(BATCH_BOUNDS) + 1)
        self.cache_hits = 0
        self.cache_misses = 0
        self.retries = 0
        self.late = 0
        self.shared = 0
        self.hedges = 0
        self.errors = 0
        self.defaults = 0
        self.moved = 0
        self.agree = 0
        self.differ = 0
        self.shadow_dropped = 0

    def observe(self, size: int, latency_s: float, predict_us: int) -> None:
        """Count a batch that came back."""
        self.batches += 1
        self.rows += size
        self.predict_us += predict_us
        self.predict[bisect_left(LATENCY_BOUNDS_S, predict_us / 1e6)] += 1
        self.latency[bisect_left(LATENCY_BOUNDS_S, latency_s)] += 1
        self.latency_us += int(latency_s * 1e6)
        bucket = bisect_left(BATCH_BOUNDS, size)
        self.batch_sizes[bucket] += 1
        self.size_predict_us[bucket] += predict_us

    def observe_waits(self, queries: Iterable[Query], now: float) -> None:
        """Count queries that leave the queue. Those of a batch mostly waited alike: few are looked up."""
        waits = self.waits
        bucket = 0
        above = upto = -1.0
        total = 0.0
        for query in queries:
            wait = now - query.arrived
            total += wait
            if not above < wait <= upto:
                bucket = bisect_left(LATENCY_BOUNDS_S, wait)
                above = LATENCY_BOUNDS_S[bucket - 1] if bucket else -1.0
                upto = LATENCY_BOUNDS_S[bucket] if bucket < len(LATENCY_BOUNDS_S) else float("inf")
            waits[bucket] += 1
        self.waits_us += int(total * 1e6)

    def snapshot(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        return {
            "queries": self.queries,
            "batches": self.batches,
            "rows": self.rows,
            "failed_batches": self.failed_batches,
            "predict_us": self.predict_us,
            "predict": list(self.predict),
            "waits": list(self.waits),
            "waits_us": self.waits_us,
            "answered": list(self.answered),
            "answered_us": self.answered_us,
            "latency": list(self.latency),
            "latency_us": self.latency_us,
            "batch_sizes": list(self.batch_sizes),
            "cache_hits": self.cache_hits,
            "cache_misses": self.cache_misses,
            "retries": self.retries,
            "late": self.late,
            "shared": self.shared,
            "hedges": self.hedges,
            "errors": self.errors,
            "defaults": self.defaults,
            "moved": self.moved,
            "agree": self.agree,
            "differ": self.differ,
            "shadow_dropped": self.shadow_dropped,
            "size_predict_us": list(self.size_predict_us),
        }


class Counters:
    """All counters of a frontend. They live as long as it does: a version that comes back goes on counting."""

    def __init__(self) -> None:
        self.apps: dict[str, AppCounter] = {}
        self.versions: dict[tuple[str, str], VersionCounter] = {}
        self.dropped_messages = 0
        """Messages of replicas that were passed over: malformed, of unknown batches, or from identities not routed."""

    def app(self, name: str) -> AppCounter:
        """Return the counter of an application, made when it is first asked for."""
        return self.apps.setdefault(name, AppCounter())

    def version(self, model: str, version: str) -> VersionCounter:
        """Return the counter of a version, made when it is first asked for."""
        return self.versions.setdefault((model, version), VersionCounter())

    def snapshot(self) -> dict[str, Any]:
        """Return everything as plain data for the control channel.

        Shapes: ``{"apps": {app: {…}}, "versions": [{"model": …, "version": …, …}], "dropped_messages": n}``. The
        frontend adds ``http`` (connections, connections_total, requests, refused: {"503": n}), ``cache`` (hits,
        misses, evictions, entries, bytes) and ``queues`` ([{model, version, queued, in_flight, batch_limit}]).
        """
        return {
            "apps": {name: counter.snapshot() for name, counter in self.apps.items()},
            "versions": [
                {"model": model, "version": version, **counter.snapshot()}
                for (model, version), counter in self.versions.items()
            ],
            "dropped_messages": self.dropped_messages,
        }
