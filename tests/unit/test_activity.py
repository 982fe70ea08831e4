"""From two readings of the metrics to what happened between them."""

from __future__ import annotations

import math

import pytest
from clipperfs.serverd.counters import Counters
from clipperfs.serverd.metrics import render

from clipperfs.activity import compare, quantile, read_series
from clipperfs.cli.call import figures
from clipperfs.cli.top import activity_text

STATUS = {
    "registry": {"state": "reachable", "stale_seconds": 0.0, "alarms": []},
    "daemon": {"ready": True},
    "degraded": False,
    "frontends": [{"state": "ready"}],
    "models": {
        "m": {
            "applied_seq": 1,
            "serving": "1",
            "versions": [{"version": "1", "replicas_ready": 2, "replicas_wanted": 2, "state": "ready"}],
        }
    },
}


def reading(counters: Counters, queued: int = 0) -> str:
    queues = [{"model": "m", "version": "1", "queued": queued, "in_flight": 0, "live": 0, "batch_limit": 8}]
    http = {"connections": 3, "requests": counters.app("a").queries, "connections_total": 3, "refused": {}}
    return render([{**counters.snapshot(), "http": http, "cache": {}, "queues": queues}], STATUS, {}).decode()


def test_rates_are_what_happened_between_the_readings() -> None:
    counters = Counters()
    app, version = counters.app("a"), counters.version("m", "1")
    before = read_series(reading(counters))
    for _ in range(40):
        app.queries += 1
        app.observe(0.0015)
    app.defaults["slo"] += 4
    for _ in range(5):
        version.queries += 8
        version.observe(6, 0.004, 3000)  # two expired in the queue
    version.cache_hits, version.cache_misses = 10, 40
    activity = compare(before, read_series(reading(counters, queued=7)), 2.0)
    [one], [held] = activity.apps, activity.versions
    assert (one.queries, one.defaults, activity.requests, activity.connections) == (20.0, {"slo": 2.0}, 20.0, 3.0)
    assert 1.0 < one.p50_ms < 2.0
    assert (held.queries, held.batch_size, held.batch_limit, held.queued) == (25.0, 6.0, 8.0, 7.0)
    assert held.predict_ms == pytest.approx(3.0)
    assert held.busy == pytest.approx(0.0075)
    assert (held.cache_hit_share, held.replicas) == (0.2, 2.0)
    shown = activity_text(activity)
    assert "slo 2.0" in shown
    assert "6.00 of 8" in shown


def test_counters_that_began_anew_count_from_zero() -> None:
    old, new = Counters(), Counters()
    old.app("a").queries, new.app("a").queries = 1000, 30
    activity = compare(read_series(reading(old)), read_series(reading(new)), 1.0)
    assert activity.apps[0].queries == 30.0


def test_quiet_daemon_has_no_latencies() -> None:
    counters = Counters()
    counters.app("a")
    activity = compare(read_series(reading(counters)), read_series(reading(counters)), 1.0)
    assert math.isnan(activity.apps[0].p99_ms)
    assert "nan" not in activity_text(activity)
    assert figures(activity)["apps"][0]["p99_ms"] is None


def test_quantile_is_linear_within_its_bucket() -> None:
    sums = [(0.001, 0.0), (0.002, 50.0), (0.004, 100.0), (math.inf, 100.0)]
    assert quantile(sums, 0.25) == pytest.approx(0.0015)
    assert quantile(sums, 0.75) == pytest.approx(0.003)
    assert quantile([(0.001, 0.0), (math.inf, 5.0)], 0.5) == 0.001
    assert math.isnan(quantile([], 0.5))
