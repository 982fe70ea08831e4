"""What a daemon did between two readings of its metrics: rates, latencies, shares, by application and version. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Series = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]
"""A reading: the value of each sample by its name and its labels, sorted."""


@dataclass(frozen=True, slots=True)
class AppActivity:
    """One application. Rates are a second's; latencies in milliseconds, from a histogram's buckets; NaN of nothing."""

    app: str
    queries: float
    p50_ms: float
    p99_ms: float
    defaults: Mapping[str, float]
    """Default outputs a second, by reason."""
    bad_requests: float


@dataclass(frozen=True, slots=True)
class VersionActivity:
    """One version. Rates are a second's."""

    model: str
    version: str
    queries: float
    cache_hit_share: float
    batch_size: float
    """Queries in a batch that came back, on average."""
    batch_limit: float
    predict_ms: float
    """What predicting a batch took, on average."""
    busy: float
    """Replicas that were predicting, on average."""
    replicas: float
    queued: float
    retries: float
    failed_batches: float


@dataclass(frozen=True, slots=True)
class Activity:
    """Everything between two readings, ``seconds`` apart."""

    seconds: float
    connections: float
    requests: float
    apps: list[AppActivity]
    versions: list[VersionActivity]


def read_series(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Parse Prometheus' text format."""
    from prometheus_client.parser import text_string_to_metric_families

    return {
        (sample.name, tuple(sorted(sample.labels.items()))): float(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def compare(before: Series, after: Series, seconds: float) -> Activity:
    """Return what happened between two readings. A counter that began anew counts from 0."""
    seconds = max(seconds, 1e-9)

    def grown(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        now, then = after.get(key, 0.0), before.get(key, 0.0)
        return now - then if now >= then else now

    def gauge(name: str, **labels: str) -> float:
        return after.get((name, tuple(sorted(labels.items()))), 0.0)

    apps = []
    for app in _values(after, "clipperfs_queries_total", "app"):
        reasons = {dict(labels)["reason"] for name, labels in after if name == "clipperfs_default_outputs_total"}
        defaults = {
            reason: grown("clipperfs_default_outputs_total", app=app, reason=reason) / seconds for reason in reasons
        }
        bounds = sorted(
            (float(dict(labels)["le"]), dict(labels)["le"])
            for name, labels in after
            if name == "clipperfs_query_seconds_bucket" and dict(labels)["app"] == app
        )
        sums = [(bound, grown("clipperfs_query_seconds_bucket", app=app, le=text)) for bound, text in bounds]
        apps.append(
            AppActivity(
                app=app,
                queries=grown("clipperfs_queries_total", app=app) / seconds,
                p50_ms=quantile(sums, 0.5) * 1000,
                p99_ms=quantile(sums, 0.99) * 1000,
                defaults={reason: rate for reason, rate in sorted(defaults.items()) if rate},
                bad_requests=grown("clipperfs_bad_requests_total", app=app) / seconds,
            )
        )
    versions = []
    pairs = sorted({tuple(dict(labels)[name] for name in ("model", "version"))
                    for name, labels in after if name == "clipperfs_replicas_ready"
                    or name == "clipperfs_version_queries_total"})  # fmt: skip
    for model, version in pairs:
        at = {"model": model, "version": version}
        batches = grown("clipperfs_batch_seconds_count", **at)
        sent = grown("clipperfs_version_queries_total", **at)
        hits, misses = grown("clipperfs_cache_hits_total", **at), grown("clipperfs_cache_misses_total", **at)
        rows = grown("clipperfs_batch_size_sum", **at)
        predict_s = grown("clipperfs_predict_seconds_sum", **at)
        versions.append(
            VersionActivity(
                model=model,
                version=version,
                queries=(sent + hits) / seconds,
                cache_hit_share=hits / (hits + misses) if hits + misses else math.nan,
                batch_size=rows / batches if batches else math.nan,
                batch_limit=gauge("clipperfs_batch_limit", **at),
                predict_ms=predict_s / batches * 1000 if batches else math.nan,
                busy=predict_s / seconds,
                replicas=gauge("clipperfs_replicas_ready", **at),
                queued=gauge("clipperfs_queue_rows", **at),
                retries=grown("clipperfs_retries_total", **at) / seconds,
                failed_batches=grown("clipperfs_failed_batches_total", **at) / seconds,
            )
        )
    return Activity(
        seconds=seconds,
        connections=gauge("clipperfs_http_connections"),
        requests=grown("clipperfs_http_requests_total") / seconds,
        apps=apps,
        versions=versions,
    )


def quantile(sums: list[tuple[float, float]], share: float) -> float:
    """Return a quantile from cumulative buckets, linear within a bucket; NaN of an empty histogram.

    Source: PromQL's ``histogram_quantile``.
    """
    total = sums[-1][1] if sums else 0.0
    if total <= 0:
        return math.nan
    wanted = share * total
    lower_bound = lower_sum = 0.0
    for bound, count in sums:
        if count >= wanted and count > lower_sum:
            if math.isinf(bound):
                return lower_bound
            return lower_bound + (bound - lower_bound) * (wanted - lower_sum) / (count - lower_sum)
        if not math.isinf(bound):
            lower_bound = bound
        lower_sum = count
    return lower_bound


def _values(series: Series, name: str, label: str) -> list[str]:
    return sorted({dict(labels)[label] for found, labels in series if found == name})
