"""A frontend under a rollout: candidates that fail, hang, die or differ, and what callers are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from clipperfs.serverd.routing import AppRoute, ModelRoute, RolloutRoute, VersionRoute
from clipperfs.serverd.staged import SHADOW_LIVE

from tests.integration.frontend_rig import Rig, predict, wait_for


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


def stage(rig: Rig, active: list[str], candidate: list[str], kind: str | None = "canary", **more: Any) -> None:
    """Route application ``app`` to version 1 and, for every key, a rollout of version 2."""
    slo_ms = more.pop("slo_ms", 500)
    routes = {
        "1": VersionRoute("k1", "1" * 64, "doubles", tuple(active)),
        "2": VersionRoute("k2", "2" * 64, more.pop("input_type", "doubles"), tuple(candidate), **more),
    }
    rollout = RolloutRoute(kind, "2", 100.0, "00" * 8) if kind else None
    model = ModelRoute(active="1", versions=routes, cache=False, rollout=rollout)
    rig.route({"app": AppRoute("doubles", slo_ms * 1000, "-1", "m")}, {"m": model})


def counts(rig: Rig, version: str) -> dict[str, Any]:
    return next(one for one in rig.metrics()["versions"] if one["version"] == version)


def ask_beside(rig: Rig, count: int) -> tuple[list[threading.Thread], list[Any]]:
    """Ask from so many threads; return them and the list that their replies come into."""
    replies: list[Any] = []
    threads = [
        threading.Thread(target=lambda first=first: replies.append(predict(rig, {"input": [first]}).json))
        for first in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads, replies


def test_fault_of_the_candidate_is_answered_by_the_active_version(rig: Rig) -> None:
    stage(rig, [rig.start_peer("name:one")], [rig.start_peer("name:two", "fault-on:7")])
    assert predict(rig, {"input": [1.0]}).json["output"] == "two"
    reply = predict(rig, {"input": [7.0]})
    assert (reply.json["output"], reply.json["default"]) == ("one", False)
    assert reply.headers["Clipperfs-Version"] == "1"
    two = counts(rig, "2")
    assert (two["queries"], two["errors"], two["moved"], two["defaults"]) == (2, 1, 1, 0)


def test_fault_on_one_of_many_hurts_none_and_counts_once(rig: Rig) -> None:
    stage(rig, [rig.start_peer("name:one")], [rig.start_peer("name:two", "fault-on:7")])
    batch = predict(rig, {"input_batch": [[float(first)] for first in range(16)]}).json["batch_predictions"]
    assert [one["output"] for one in batch] == ["one" if first == 7 else "two" for first in range(16)]
    assert [one["version"] for one in batch] == ["1" if first == 7 else "2" for first in range(16)]
    assert counts(rig, "2")["errors"] == 1


def test_version_that_is_asked_for_goes_round_the_rollout(rig: Rig) -> None:
    stage(rig, [rig.start_peer("name:one")], [rig.start_peer("name:two", "fault-on:7")])
    assert predict(rig, {"input": [1.0], "version": "1"}).json["output"] == "one"
    assert predict(rig, {"input_batch": [[1.0]], "version": "1"}).json["batch_predictions"][0]["output"] == "one"
    reply = predict(rig, {"input": [7.0], "version": "2"}).json
    assert reply["default"] and "failed" in reply["default_explanation"], "nobody else may answer for it"


def test_candidate_that_is_not_idempotent_is_not_done_again(rig: Rig) -> None:
    stage(rig, [rig.start_peer("name:one")], [rig.start_peer("fault")], idempotent=False)
    assert predict(rig, {"input": [1.0]}).json["default"] is True


def test_death_of_the_candidate_with_queries_out_is_answered_by_the_active_version(rig: Rig) -> None:
    active, candidate = rig.start_peer("name:one"), rig.start_peer("silent")
    stage(rig, [active], [candidate], slo_ms=5000)
    threads, replies = ask_beside(rig, 6)
    wait_for(lambda: counts(rig, "2")["queries"] == 6)
    rig.kill_peer(1)
    stage(rig, [active], [], kind=None, slo_ms=5000)
    for thread in threads:
        thread.join(10)
    assert [reply["output"] for reply in replies] == ["one"] * 6
    two = counts(rig, "2")
    assert (two["errors"], two["moved"]) == (6, 6)


def test_end_of_a_rollout_hands_over_what_waits_for_the_candidate(rig: Rig) -> None:
    active, candidate = rig.start_peer("name:one"), rig.start_peer("silent")
    stage(rig, [active], [candidate], slo_ms=3000)
    threads, replies = ask_beside(rig, 8)
    wait_for(lambda: counts(rig, "2")["queries"] == 8)
    rig.serve(active, slo_ms=3000)
    for thread in threads:
        thread.join(10)
    outputs = [reply["output"] for reply in replies]
    assert outputs.count("one") >= 4, "only what was out with the candidate waits for its deadline"
    rig.wait_released("k2")


def test_candidate_that_is_too_late_costs_the_default_output_and_is_counted(rig: Rig) -> None:
    stage(rig, [rig.start_peer("name:one")], [rig.start_peer("silent")], slo_ms=100)
    assert predict(rig, {"input": [1.0]}).json["default"] is True
    two = counts(rig, "2")
    assert (two["defaults"], two["errors"], two["moved"]) == (1, 0, 0)


@pytest.mark.parametrize("candidate", ["no replica", "another type"])
def test_candidate_that_cannot_answer_leaves_all_to_the_active_version(rig: Rig, candidate: str) -> None:
    replicas = [] if candidate == "no replica" else [rig.start_peer("name:two")]
    stage(rig, [rig.start_peer("name:one")], replicas, input_type="doubles" if candidate == "no replica" else "ints")
    assert predict(rig, {"input": [1.0]}).json["output"] == "one"


def test_shadow_is_compared_and_answers_nobody(rig: Rig) -> None:
    active = rig.start_peer()
    stage(rig, [active], [rig.start_peer("fault-on:7")], "shadow")
    for first in (1.0, 2.0, 7.0):
        reply = predict(rig, {"input": [first]})
        assert reply.json["output"] == [first] and reply.headers["Clipperfs-Version"] == "1"
    wait_for(lambda: counts(rig, "2")["errors"] == 1)
    stage(rig, [active], [rig.start_peer("name:two")], "shadow")
    assert predict(rig, {"input_batch": [[1.0], [2.0]]}).headers["Clipperfs-Version"] == "1"
    wait_for(lambda: counts(rig, "2")["differ"] == 2)
    two = counts(rig, "2")
    assert (two["agree"], two["differ"], two["moved"]) == (2, 2, 0)
    assert rig.metrics()["apps"]["app"]["queries"] == 5, "copies are nobody's queries"


def test_shadow_that_hangs_holds_nothing_up_and_little_memory(rig: Rig) -> None:
    stage(rig, [rig.start_peer()], [rig.start_peer("silent")], "shadow", slo_ms=2000)
    began = time.monotonic()
    batch = [[float(first)] for first in range(SHADOW_LIVE + 50)]
    reply = predict(rig, {"input_batch": batch}).json["batch_predictions"]
    assert [one["output"] for one in reply] == batch
    assert predict(rig, {"input": [1.0]}).json["output"] == [1.0]
    assert time.monotonic() - began < 1.5
    assert counts(rig, "2")["shadow_dropped"] == 51
    wait_for(lambda: counts(rig, "2")["defaults"] == SHADOW_LIVE)
    assert rig.metrics()["queues"][-1]["live"] == 0
    assert rig.metrics()["apps"]["app"]["defaults"] == {}


def test_key_that_is_no_text_is_refused(rig: Rig) -> None:
    stage(rig, [rig.start_peer()], [])
    reply = predict(rig, {"input": [1.0], "key": 7})
    assert reply.status == 400 and "key" in reply.json["cause"]
