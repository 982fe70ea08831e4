"""The reconciler's rules, one at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clipperfs.serverd.desired import ACTIVE, WantedModel, WantedVersion
from clipperfs.serverd.reconciler import (
    BACKOFF_LAST_S,
    Begin,
    Forget,
    Held,
    Remove,
    Serve,
    Shrink,
    Start,
    Stop,
    after_crash,
    next_wake_s,
    reconcile,
)

from clipperfs.documents import Policy

DIGEST = "d" * 64


def version(name: str, *, replicas: int = 1, fuse: str = "1") -> WantedVersion:
    return WantedVersion(name, DIGEST, {}, replicas, fuse)


def model(active: WantedVersion | None, *others: WantedVersion, fallback: WantedVersion | None = None,
          aliases: dict[str, WantedVersion] | None = None, keep_s: float = 60.0) -> WantedModel:  # fmt: skip
    aliases = aliases or {}
    wanted = [one for one in (active, *others, *aliases.values()) if one is not None]
    names = {ACTIVE: active.load} if active else {}
    names |= {alias: one.load for alias, one in aliases.items()}
    replicas = active.replicas if active else 1
    policy = Policy(replicas=replicas, keep_previous_s=keep_s)
    return WantedModel("m", 7, policy, {one.load: one for one in wanted}, names, fallback)


def held(key: str, of: WantedVersion, phase: str = "ready", **more: object) -> Held:
    more.setdefault("ready", 1 if phase in ("ready", "leaving") else 0)
    return Held(key, "m", of.load, of.fuse, phase, **more)  # type: ignore[arg-type]


V1, V2, V3 = version("1"), version("2"), version("3")


def test_nothing_held_begins_everything_wanted() -> None:
    actions = reconcile({"m": model(V1, V2)}, [], {}, 0.0)
    assert actions == [Begin("m", V1), Begin("m", V2)]


def test_a_version_being_fetched_is_left_alone() -> None:
    assert reconcile({"m": model(V1)}, [held("a", V1, "fetching")], {}, 0.0) == []


def test_fetched_version_starts_all_its_replicas() -> None:
    wanted = version("1", replicas=3)
    assert reconcile({"m": model(wanted)}, [held("a", wanted, "loading", starting=1)], {}, 0.0) == [Start("a", 2)]


def test_first_ready_version_answers() -> None:
    assert Serve("m", ACTIVE, "a") in reconcile({"m": model(V1)}, [held("a", V1)], {}, 0.0)


def test_old_version_answers_while_the_new_one_loads() -> None:
    both = [held("a", V1), held("b", V2, "loading", starting=1)]
    assert reconcile({"m": model(V2)}, both, {("m", ACTIVE): "a"}, 0.0) == []


def test_new_version_takes_over_only_with_all_its_replicas() -> None:
    old, new = version("1", replicas=2), version("2", replicas=2)
    before = [held("a", old, ready=2), held("b", new, ready=1, starting=1)]
    assert reconcile({"m": model(new)}, before, {("m", ACTIVE): "a"}, 0.0) == []
    after = [held("a", old, ready=2), held("b", new, ready=2)]
    assert reconcile({"m": model(new)}, after, {("m", ACTIVE): "a"}, 0.0) == [Serve("m", ACTIVE, "b")]


def test_new_version_takes_over_narrow_when_its_other_replica_waits_after_a_crash() -> None:
    old, new = version("1", replicas=2), version("2", replicas=2)
    both = [held("a", old, ready=2), held("b", new, ready=1, next_start_s=9.0)]
    assert reconcile({"m": model(new)}, both, {("m", ACTIVE): "a"}, 0.0) == [Serve("m", ACTIVE, "b")]


def test_failed_version_leaves_the_old_one_answering() -> None:
    both = [held("a", V1), held("b", V2, "failed")]
    assert reconcile({"m": model(V2, fallback=V1)}, both, {("m", ACTIVE): "a"}, 0.0) == []


def test_failed_version_is_tried_again_when_its_fuse_changes() -> None:
    both = [held("a", V1), held("b", V2, "failed")]
    again = replace(V2, fuse="2")
    assert reconcile({"m": model(again)}, both, {("m", ACTIVE): "a"}, 0.0) == [Begin("m", again), Forget("b")]


def test_a_working_version_is_not_loaded_again_when_its_fuse_changes() -> None:
    assert reconcile({"m": model(replace(V1, fuse="2"))}, [held("a", V1)], {("m", ACTIVE): "a"}, 0.0) == []


def test_failed_version_with_nothing_else_brings_back_the_previous_one() -> None:
    wanted = model(V2, fallback=V1)
    failed = held("b", V2, "failed")
    assert reconcile({"m": wanted}, [failed], {}, 0.0) == [Begin("m", V1)]
    assert Serve("m", ACTIVE, "a") in reconcile({"m": wanted}, [failed, held("a", V1)], {}, 0.0)


def test_previous_version_stays_warm_then_leaves_then_stops() -> None:
    wanted, serving = {"m": model(V2, keep_s=10)}, {("m", ACTIVE): "b"}
    warm = held("a", V1, idle_since_s=100.0)
    assert reconcile(wanted, [warm, held("b", V2)], serving, 109.9) == []
    assert next_wake_s(wanted, [warm, held("b", V2)], 105.0) == 110.0
    assert reconcile(wanted, [warm, held("b", V2)], serving, 110.0) == [Remove("a")]
    leaving = held("a", V1, "leaving", left_since_s=110.0)
    assert reconcile(wanted, [leaving, held("b", V2)], serving, 111.0) == []
    assert reconcile(wanted, [replace(leaving, is_released=True), held("b", V2)], serving, 111.0) == [Stop("a")]


def test_frontends_that_never_let_go_do_not_keep_a_version_for_ever() -> None:
    leaving = held("a", V1, "leaving", left_since_s=100.0, drain_limit_s=5.0)
    assert reconcile({"m": model(V2)}, [leaving, held("b", V2)], {("m", ACTIVE): "b"}, 105.0) == [Stop("a")]


def test_rollback_to_a_warm_version_switches_at_once() -> None:
    both = [held("a", V1, idle_since_s=1.0), held("b", V2)]
    assert reconcile({"m": model(V1)}, both, {("m", ACTIVE): "b"}, 2.0) == [Serve("m", ACTIVE, "a")]


def test_a_version_overtaken_while_it_loads_leaves_at_once() -> None:
    held_now = [held("a", V1), held("b", V2, "loading", starting=1)]
    actions = reconcile({"m": model(V3)}, held_now, {("m", ACTIVE): "a"}, 0.0)
    assert actions == [Begin("m", V3), Remove("b")]


def test_fewer_replicas_stop_starting_ones_first_and_keep_what_is_asked() -> None:
    wanted = version("1", replicas=2)
    actions = reconcile({"m": model(wanted)}, [held("a", wanted, ready=3, starting=1)], {("m", ACTIVE): "a"}, 0.0)
    assert actions == [Shrink("a", starting=1, ready=1)]


def test_zero_replicas_turn_the_model_off() -> None:
    off = WantedModel("m", 8, Policy(replicas=0), {}, {}, None)
    assert reconcile({"m": off}, [held("a", V1)], {("m", ACTIVE): "a"}, 0.0) == [Serve("m", ACTIVE, None), Remove("a")]


def test_alias_keeps_its_old_version_until_the_new_one_is_ready() -> None:
    wanted = {"m": model(V1, aliases={"next": V3})}
    serving = {("m", ACTIVE): "a", ("m", "next"): "b"}
    loading = [held("a", V1), held("b", V2), held("c", V3, "loading", starting=1)]
    assert reconcile(wanted, loading, serving, 0.0) == []
    ready = [held("a", V1), held("b", V2), held("c", V3)]
    assert reconcile(wanted, ready, serving, 0.0) == [Serve("m", "next", "c")]


def test_a_removed_alias_no_longer_answers() -> None:
    serving = {("m", ACTIVE): "a", ("m", "next"): "a"}
    assert reconcile({"m": model(V1)}, [held("a", V1)], serving, 0.0) == [Serve("m", "next", None)]


def test_crashed_replica_waits_for_its_back_off() -> None:
    wanted = version("1", replicas=2)
    one = held("a", wanted, ready=1, next_start_s=5.0)
    assert reconcile({"m": model(wanted)}, [one], {("m", ACTIVE): "a"}, 4.0) == []
    assert next_wake_s({"m": model(wanted)}, [one], 4.0) == 5.0
    assert reconcile({"m": model(wanted)}, [one], {("m", ACTIVE): "a"}, 5.0) == [Start("a", 1)]


@pytest.mark.parametrize(("deaths", "wait_s"), [([100.0], 0.1), ([99.0, 100.0], 0.2), ([97.0, 98.0, 99.0, 100.0], 0.8)])
def test_back_off_doubles_with_each_recent_death(deaths: list[float], wait_s: float) -> None:
    assert after_crash(deaths, 100.0, was_ready=True, jitter=0.0).wait_s == pytest.approx(wait_s)


def test_back_off_forgets_old_deaths_and_jitter_spreads_it() -> None:
    after = after_crash([1.0, 2.0, 3.0, 4.0, 100.0], 100.0, was_ready=True, jitter=0.8)
    assert not after.is_given_up
    assert after.wait_s == pytest.approx(0.12)
    assert after.wait_s <= BACKOFF_LAST_S


def test_five_deaths_in_a_minute_give_up() -> None:
    after = after_crash([50.0, 60.0, 70.0, 80.0, 100.0], 100.0, was_ready=True, jitter=0.0)
    assert after.is_given_up
    assert "5 times within 60 s" in after.reason


def test_three_slow_deaths_before_ready_give_up() -> None:
    assert after_crash([0.0, 500.0, 1000.0], 1000.0, was_ready=False, jitter=0.0).is_given_up
    assert not after_crash([0.0, 500.0, 1000.0], 1000.0, was_ready=True, jitter=0.0).is_given_up


def test_a_name_never_moves_to_a_version_whose_replicas_have_all_crashed() -> None:
    crashed = held("b", V2, ready=0, next_start_s=9.0)
    assert reconcile({"m": model(V2)}, [held("a", V1), crashed], {("m", ACTIVE): "a"}, 0.0) == []
