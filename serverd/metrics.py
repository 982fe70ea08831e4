"""The daemon's metrics in Prometheus' text format: the frontends' counters added up, and the controller's gauges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from clipperfs.serverd.counters import BATCH_BOUNDS, LATENCY_BOUNDS_S
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

Snapshot = Mapping[str, Any]


def render(snapshots: Sequence[Snapshot], status: Mapping[str, Any], extra: Mapping[str, float]) -> bytes:
    """Return the metrics.

    Args:
        snapshots: one of each frontend (``counters.Counters.snapshot`` and what the frontend adds).
        status: the status document.
        extra: further counters of the controller, by name.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Everything(snapshots, status, extra))
    return generate_latest(registry)


class _Everything(Collector):
    def __init__(self, snapshots: Sequence[Snapshot], status: Mapping[str, Any], extra: Mapping[str, float]) -> None:
        self._snapshots = snapshots
        self._status = status
        self._extra = extra

    def collect(self) -> Iterator[Metric]:
        yield from _app_metrics([snapshot.get("apps", {}) for snapshot in self._snapshots])
        yield from _version_metrics([snapshot.get("versions", []) for snapshot in self._snapshots])
        yield from _http_metrics(self._snapshots)
        yield from _queue_metrics(self._snapshots)
        yield from _controller_metrics(self._status, self._extra)


def _app_metrics(parts: Sequence[Mapping[str, Snapshot]]) -> Iterator[Metric]:
    apps: dict[str, dict[str, Any]] = {}
    for part in parts:
        for name, counts in part.items():
            add_up(apps.setdefault(name, {}), counts)
    queries = CounterMetricFamily("clipperfs_queries", "Queries received, by application.", labels=["app"])
    bad = CounterMetricFamily("clipperfs_bad_requests", "Queries refused with status 400.", labels=["app"])
    defaults = CounterMetricFamily(
        "clipperfs_default_outputs", "Queries answered with the default output.", labels=["app", "reason"]
    )
    latency = HistogramMetricFamily(
        "clipperfs_query_seconds", "Time from a query's arrival to its answer.", labels=["app"]
    )
    for name, counts in sorted(apps.items()):
        queries.add_metric([name], counts.get("queries", 0))
        bad.add_metric([name], counts.get("bad_requests", 0))
        for reason, count in sorted(counts.get("defaults", {}).items()):
            defaults.add_metric([name, reason], count)
        latency.add_metric(
            [name], buckets(LATENCY_BOUNDS_S, counts.get("latency", [])), counts.get("latency_us", 0) / 1e6
        )
    yield from (queries, bad, defaults, latency)


def _version_metrics(parts: Sequence[Sequence[Snapshot]]) -> Iterator[Metric]:
    versions: dict[tuple[str, str], dict[str, Any]] = {}
    for part in parts:
        for counts in part:
            add_up(versions.setdefault((counts["model"], counts["version"]), {}), counts)
    labels = ["model", "version"]
    plain = [
        ("queries", CounterMetricFamily("clipperfs_version_queries", "Queries sent to a version.", labels=labels)),
        ("batches", CounterMetricFamily("clipperfs_batches", "Batches answered.", labels=labels)),
        ("failed_batches", CounterMetricFamily("clipperfs_failed_batches", "Batches that failed.", labels=labels)),
        ("cache_hits", CounterMetricFamily("clipperfs_cache_hits", "Queries answered from the cache.", labels=labels)),
        ("cache_misses", CounterMetricFamily("clipperfs_cache_misses", "Queries not in the cache.", labels=labels)),
        ("shared", CounterMetricFamily("clipperfs_shared", "Queries that shared a prediction.", labels=labels)),
        ("hedges", CounterMetricFamily("clipperfs_hedges", "Late batches sent to a second replica.", labels=labels)),
        ("retries", CounterMetricFamily("clipperfs_retries", "Batches tried again on a replica.", labels=labels)),
        ("late", CounterMetricFamily("clipperfs_late_outputs", "Outputs that missed their deadline.", labels=labels)),
        ("errors", CounterMetricFamily("clipperfs_version_errors", "Queries that a version failed.", labels=labels)),
        (
            "defaults",
            CounterMetricFamily(
                "clipperfs_version_missed", "Queries that a version did not answer in time.", labels=labels
            ),
        ),
        (
            "moved",
            CounterMetricFamily(
                "clipperfs_moved_queries", "Queries of a canary that the active version answered.", labels=labels
            ),
        ),
    ]
    answered = HistogramMetricFamily(
        "clipperfs_version_query_seconds",
        "Time from a query's arrival to the answer that a version gave, the cache left out.",
        labels=labels,
    )
    waits = HistogramMetricFamily(
        "clipperfs_queue_seconds", "Time from a query's arrival until it left the queue.", labels=labels
    )
    predict = HistogramMetricFamily(
        "clipperfs_predict_seconds", "Time that a batch spent in the wrapper's predict.", labels=labels
    )
    latency = HistogramMetricFamily(
        "clipperfs_batch_seconds", "Time from sending a batch to its outputs.", labels=labels
    )
    sizes = HistogramMetricFamily("clipperfs_batch_size", "Queries in a batch.", labels=labels)
    shadow = CounterMetricFamily(
        "clipperfs_shadow_outputs", "Copies that a shadow got, by what came of them.", labels=[*labels, "result"]
    )
    for key, counts in sorted(versions.items()):
        for result, name in (("agree", "agree"), ("differ", "differ"), ("dropped", "shadow_dropped")):
            if counts.get(name, 0):
                shadow.add_metric([*key, result], counts[name])
        for name, family in plain:
            family.add_metric(key, counts.get(name, 0))
        answered.add_metric(
            key, buckets(LATENCY_BOUNDS_S, counts.get("answered", [])), counts.get("answered_us", 0) / 1e6
        )
        waits.add_metric(key, buckets(LATENCY_BOUNDS_S, counts.get("waits", [])), counts.get("waits_us", 0) / 1e6)
        predict.add_metric(key, buckets(LATENCY_BOUNDS_S, counts.get("predict", [])), counts.get("predict_us", 0) / 1e6)
        latency.add_metric(key, buckets(LATENCY_BOUNDS_S, counts.get("latency", [])), counts.get("latency_us", 0) / 1e6)
        sizes.add_metric(key, buckets(BATCH_BOUNDS, counts.get("batch_sizes", [])), counts.get("rows", 0))
    yield from (*(family for _, family in plain), shadow, answered, waits, predict, latency, sizes)


def _http_metrics(snapshots: Sequence[Snapshot]) -> Iterator[Metric]:
    http: dict[str, Any] = {}
    cache: dict[str, Any] = {}
    dropped = 0
    for snapshot in snapshots:
        add_up(http, snapshot.get("http", {}))
        add_up(cache, snapshot.get("cache", {}))
        dropped += snapshot.get("dropped_messages", 0)
    yield GaugeMetricFamily("clipperfs_http_connections", "Open connections.", value=http.get("connections", 0))
    yield CounterMetricFamily(
        "clipperfs_http_connections_opened", "Connections accepted.", value=http.get("connections_total", 0)
    )
    yield CounterMetricFamily("clipperfs_http_requests", "HTTP requests received.", value=http.get("requests", 0))
    refused = CounterMetricFamily("clipperfs_http_refused", "Requests refused by the server.", labels=["status"])
    for status, count in sorted(http.get("refused", {}).items(), key=lambda item: str(item[0])):
        refused.add_metric([str(status)], count)
    yield refused
    yield GaugeMetricFamily("clipperfs_cache_entries", "Predictions in the caches.", value=cache.get("entries", 0))
    yield GaugeMetricFamily("clipperfs_cache_bytes", "Size of the caches.", value=cache.get("bytes", 0))
    yield CounterMetricFamily(
        "clipperfs_cache_evictions", "Predictions dropped to make room.", value=cache.get("evictions", 0)
    )
    yield CounterMetricFamily(
        "clipperfs_dropped_messages", "Messages of replicas that were passed over.", value=dropped
    )


def _queue_metrics(snapshots: Sequence[Snapshot]) -> Iterator[Metric]:
    totals: dict[tuple[str, str], dict[str, Any]] = {}
    limits: dict[tuple[str, str], float] = {}
    for snapshot in snapshots:
        for queue in snapshot.get("queues", []):
            key = (queue["model"], queue["version"])
            counts = {name: queue.get(name, 0) for name in ("queued", "in_flight")}
            add_up(totals.setdefault(key, {}), counts)
            limits[key] = max(limits.get(key, 0), queue.get("batch_limit", 0))
    labels = ["model", "version"]
    queued = GaugeMetricFamily("clipperfs_queue_rows", "Queries that wait for a replica.", labels=labels)
    in_flight = GaugeMetricFamily("clipperfs_in_flight_rows", "Queries that a replica has.", labels=labels)
    limit = GaugeMetricFamily("clipperfs_batch_limit", "The largest batch that is sent now.", labels=labels)
    for key, counts in sorted(totals.items()):
        queued.add_metric(key, counts["queued"])
        in_flight.add_metric(key, counts["in_flight"])
        limit.add_metric(key, limits[key])
    yield from (queued, in_flight, limit)


def _controller_metrics(status: Mapping[str, Any], extra: Mapping[str, float]) -> Iterator[Metric]:
    registry, daemon = status["registry"], status["daemon"]
    yield GaugeMetricFamily(
        "clipperfs_registry_reachable",
        "Whether the registry answered the last look.",
        value=float(registry["state"] == "reachable"),
    )
    yield GaugeMetricFamily(
        "clipperfs_registry_stale_seconds", "Since when it has not answered.", value=registry["stale_seconds"]
    )
    yield GaugeMetricFamily(
        "clipperfs_registry_alarms", "Ledgers that are not followed.", value=len(registry["alarms"])
    )
    yield GaugeMetricFamily("clipperfs_ready", "Whether the daemon is ready.", value=float(daemon["ready"]))
    yield GaugeMetricFamily("clipperfs_degraded", "Whether something is not served.", value=float(status["degraded"]))
    frontends = GaugeMetricFamily("clipperfs_frontends", "Frontends, by state.", labels=["state"])
    states = [one["state"] for one in status["frontends"]]
    for state in ("starting", "ready", "draining"):
        frontends.add_metric([state], states.count(state))
    yield frontends
    ready = GaugeMetricFamily("clipperfs_replicas_ready", "Replicas that answer.", labels=["model", "version"])
    wanted = GaugeMetricFamily("clipperfs_replicas_wanted", "Replicas that should.", labels=["model", "version"])
    held = GaugeMetricFamily(
        "clipperfs_version_state", "1 for the state of a version.", labels=["model", "version", "state"]
    )
    active = GaugeMetricFamily(
        "clipperfs_active_version", "1 for the version that answers.", labels=["model", "version"]
    )
    role = GaugeMetricFamily(
        "clipperfs_version_role", "1 for what a version is to its model now.", labels=["model", "version", "role"]
    )
    rollout = GaugeMetricFamily(
        "clipperfs_rollout_percent",
        "The share of the queries that a candidate gets.",
        labels=["model", "version", "kind"],
    )
    seq = GaugeMetricFamily("clipperfs_applied_seq", "The record that is in effect.", labels=["model"])
    for name, model in sorted(status["models"].items()):
        seq.add_metric([name], model["applied_seq"])
        if model["serving"] is not None:
            active.add_metric([name, model["serving"]], 1)
            role.add_metric([name, model["serving"], "active"], 1)
        if (trial := model.get("rollout")) is not None:
            role.add_metric([name, trial["version"], trial["kind"]], 1)
            percent = trial["percent"] if trial["state"] == "running" else 0
            rollout.add_metric([name, trial["version"], trial["kind"]], percent)
        for version, ones in _by_version(model["versions"]):
            ready.add_metric([name, version], sum(one["replicas_ready"] for one in ones))
            wanted.add_metric([name, version], sum(one["replicas_wanted"] for one in ones))
            for state in sorted({one["state"] for one in ones}):
                held.add_metric([name, version, state], 1)
    yield from (ready, wanted, held, active, role, rollout, seq)
    for name, value in sorted(extra.items()):
        yield CounterMetricFamily(f"clipperfs_{name}", name.replace("_", " ").capitalize() + ".", value=value)


def _by_version(versions: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Yield each version's name with everything held of it: a version may be held twice while it is loaded anew."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in versions:
        found.setdefault(one["version"], []).append(one)
    yield from found.items()


def add_up(total: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add the numbers of ``part`` to ``total``, field by field, through lists and mappings. Text is left out. Pure.

    A list of another length is left out too: a frontend that was started after an upgrade has other buckets than its
    controller, which must go on telling of all else.
    """
    for name, value in part.items():
        if isinstance(value, Mapping):
            add_up(total.setdefault(name, {}), value)
        elif isinstance(value, list):
            before = total.get(name) or [0] * len(value)
            if len(before) == len(value):
                total[name] = [one + other for one, other in zip(before, value, strict=True)]
        elif isinstance(value, int | float):
            total[name] = total.get(name, 0) + value


def buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return cumulative buckets from plain ones, the last of which counts what is above every bound. Pure."""
    total = 0
    found: list[tuple[str, float]] = []
    for bound, count in zip([*map(float, bounds), float("inf")], [*counts, *[0] * (len(bounds) + 1)], strict=False):
        total += count
        found.append(("+Inf" if bound == float("inf") else repr(bound), total))
    return found
