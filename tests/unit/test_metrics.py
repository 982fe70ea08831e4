"""The metrics add up what several frontends count, and parse as Prometheus reads them."""

from __future__ import annotations

from bisect import bisect_left
from types import SimpleNamespace
from typing import Any

import pytest
from clipperfs.serverd.counters import LATENCY_BOUNDS_S, Counters
from clipperfs.serverd.metrics import add_up, buckets, render
from clipperfs.serverd.totals import Totals
from prometheus_client.parser import text_string_to_metric_families


def snapshot(queries: int) -> dict[str, Any]:
    counters = Counters()
    app, version = counters.app("a"), counters.version("m", "1")
    for _ in range(queries):
        app.queries += 1
        app.observe(0.003)
        version.queries += 1
    app.defaults["slo"] += 1
    version.observe(queries, 0.002, 1500)
    arrivals: Any = [SimpleNamespace(arrived=9.9994)] + [SimpleNamespace(arrived=9.9985) for _ in range(queries - 1)]
    version.observe_waits(arrivals, 10.0)
    return {
        **counters.snapshot(),
        "http": {"connections": 2, "connections_total": 5, "requests": queries, "refused": {413: 1}},
        "cache": {"entries": 3, "bytes": 10, "evictions": 0},
        "queues": [{"model": "m", "version": "1", "queued": 4, "in_flight": 1, "batch_limit": 8}],
    }


def status() -> dict[str, Any]:
    held = {"version": "1", "state": "ready", "replicas_ready": 1, "replicas_wanted": 2}
    again = {"version": "1", "state": "draining", "replicas_ready": 0, "replicas_wanted": 0}
    return {
        "daemon": {"ready": True},
        "registry": {"state": "unreachable", "stale_seconds": 12.5, "alarms": {"model m": "forked"}},
        "frontends": [{"state": "ready"}, {"state": "starting"}],
        "models": {"m": {"applied_seq": 3, "serving": "1", "versions": [held, again]}},
        "degraded": True,
    }


def values(parts: list[dict[str, Any]]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = render(parts, status(), {"switches": 2.0}).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_two_frontends_are_added_up() -> None:
    found = values([snapshot(3), snapshot(4)])
    assert found["clipperfs_queries_total", (("app", "a"),)] == 7
    assert found["clipperfs_default_outputs_total", (("app", "a"), ("reason", "slo"))] == 2
    assert found["clipperfs_query_seconds_count", (("app", "a"),)] == 7
    assert found["clipperfs_query_seconds_bucket", (("app", "a"), ("le", "0.002"))] == 0
    assert found["clipperfs_query_seconds_bucket", (("app", "a"), ("le", "0.005"))] == 7
    assert found["clipperfs_http_refused_total", (("status", "413"),)] == 2
    version = (("model", "m"), ("version", "1"))
    assert found["clipperfs_queue_rows", version] == 8
    assert found["clipperfs_batch_limit", version] == 8
    assert found["clipperfs_batch_size_count", version] == 2
    assert found["clipperfs_predict_seconds_sum", version] == 0.003
    assert found["clipperfs_predict_seconds_count", version] == 2
    assert found["clipperfs_predict_seconds_bucket", (("le", "0.001"), *version)] == 0
    assert found["clipperfs_predict_seconds_bucket", (("le", "0.002"), *version)] == 2
    assert found["clipperfs_queue_seconds_count", version] == 7
    assert found["clipperfs_queue_seconds_bucket", (("le", "0.001"), *version)] == 2
    assert found["clipperfs_queue_seconds_bucket", (("le", "0.002"), *version)] == 7
    assert found["clipperfs_queue_seconds_sum", version] == pytest.approx(0.0087, abs=2e-6)


def test_mean_batch_size_is_that_of_the_batches_that_came_back() -> None:
    counters = Counters()
    version = counters.version("m", "1")
    version.queries = 100  # most expired in the queue
    version.observe(8, 0.002, 1500)
    version.observe(3, 0.002, 1500)
    found = values([counters.snapshot(), counters.snapshot()])
    labels = (("model", "m"), ("version", "1"))
    assert found["clipperfs_batch_size_sum", labels] == 22
    assert found["clipperfs_batch_size_count", labels] == 4
    assert found["clipperfs_version_queries_total", labels] == 200


def test_waits_of_any_length_fall_into_their_buckets() -> None:
    version = Counters().version("m", "1")
    waits = [0.0, 0.0005, 0.0006, 0.5, 0.49, 10.0, 11.0, 0.0005, 11.0]
    queries: Any = [SimpleNamespace(arrived=-wait) for wait in waits]
    version.observe_waits(queries, 0.0)
    expected = [0] * (len(LATENCY_BOUNDS_S) + 1)
    for wait in waits:
        expected[bisect_left(LATENCY_BOUNDS_S, wait)] += 1
    assert version.waits == expected
    assert version.waits_us == int(sum(waits) * 1e6)


def test_what_a_dead_frontend_counted_is_kept_and_what_it_held_is_not() -> None:
    totals = Totals()
    totals.note(1, snapshot(3))
    totals.note(2, snapshot(4))
    before = values(totals.all([1, 2]))
    totals.bury(2)
    assert len(totals.all([1])) == 2
    after = values(totals.all([1]))
    gauges = {"clipperfs_http_connections", "clipperfs_cache_entries", "clipperfs_cache_bytes"}
    gauges |= {"clipperfs_queue_rows", "clipperfs_in_flight_rows"}
    for key, value in before.items():
        assert after[key] == (value / 2 if key[0] in gauges else value), key
    totals.note(3, snapshot(2))  # its successor counts from 0
    assert values(totals.all([1, 3]))["clipperfs_queries_total", (("app", "a"),)] == 9
    totals.bury(3)
    totals.bury(1)
    assert values(totals.all([]))["clipperfs_queries_total", (("app", "a"),)] == 9
    assert values(totals.all([]))["clipperfs_http_refused_total", (("status", "413"),)] == 3


def test_frontend_that_is_silent_for_a_moment_still_counts() -> None:
    totals = Totals()
    totals.note(1, snapshot(3))
    assert values(totals.all([1, 2]))["clipperfs_queries_total", (("app", "a"),)] == 3
    assert values(totals.all([1, 2]))["clipperfs_queries_total", (("app", "a"),)] == 3


def test_controllers_gauges_say_what_is_wrong() -> None:
    found = values([])
    assert found["clipperfs_registry_reachable", ()] == 0
    assert found["clipperfs_registry_stale_seconds", ()] == 12.5
    assert found["clipperfs_registry_alarms", ()] == 1
    assert found["clipperfs_replicas_wanted", (("model", "m"), ("version", "1"))] == 2
    assert found["clipperfs_version_state", (("model", "m"), ("state", "draining"), ("version", "1"))] == 1
    assert found["clipperfs_frontends", (("state", "starting"),)] == 1
    assert found["clipperfs_switches_total", ()] == 2


def test_adding_up_goes_through_mappings_and_lists_and_leaves_text_out() -> None:
    total: dict[str, Any] = {}
    add_up(total, {"n": 1, "list": [1, 2], "deep": {"x": 1}, "name": "m"})
    add_up(total, {"n": 2, "list": [3, 4], "deep": {"x": 1, "y": 5}, "name": "m"})
    assert total == {"n": 3, "list": [4, 6], "deep": {"x": 2, "y": 5}}


def test_frontend_of_another_release_with_other_buckets_hides_nothing_else() -> None:
    later = snapshot(4)
    later["apps"]["a"]["latency"].append(0)
    found = values([snapshot(3), later])
    assert found["clipperfs_queries_total", (("app", "a"),)] == 7
    assert found["clipperfs_query_seconds_count", (("app", "a"),)] == 3
    assert found["clipperfs_queue_seconds_count", (("model", "m"), ("version", "1"))] == 7


def test_buckets_are_cumulative_and_end_at_infinity() -> None:
    assert buckets([1, 2], [3, 4, 5]) == [("1.0", 3), ("2.0", 7), ("+Inf", 12)]
    assert buckets([1], []) == [("1.0", 0), ("+Inf", 0)]
