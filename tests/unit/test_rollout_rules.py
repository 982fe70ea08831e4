"""A daemon's rules for rollouts: what is loaded, what the frontends are told, what counts as a trial at all."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from clipperfs.serverd.desired import ACTIVE, Desired, WantedModel, wanted_model
from clipperfs.serverd.reconciler import Held, Remove, Serve, reconcile
from clipperfs.serverd.routing import ModelRoute, RolloutRoute, RoutingTable
from clipperfs.serverd.table import HeldView, build_table

from clipperfs.digest import NO_DIGEST
from clipperfs.documents import ModelRecord, ModelState, Pointer, Policy, Retirement, Rollout

SALT = "00" * 8


def pointer(version: str, seq: int) -> Pointer:
    return Pointer(version=version, manifest=version * 64, seq=seq)


def record(**state: Any) -> ModelRecord:
    return ModelRecord(
        registry_id="registry-1", seq=9, prev=NO_DIGEST, nonce="n" * 16, time="t", actor="a", op="rollout", model="m",
        state=ModelState(**{"active": pointer("1", 3), **state}),
    )  # fmt: skip


def rollout(kind: str = "canary", **more: Any) -> Rollout:
    fields = {"kind": kind, "candidate": pointer("2", 8), "percent": 5.0, "salt": SALT, "started_seq": 8, **more}
    return Rollout(**fields)


def view(version: str, load: str, replicas: tuple[str, ...] = ("aa",)) -> HeldView:
    return HeldView(f"k{version}", "m", version, version * 64, load, "ready", True, replicas, "doubles")


def route(wanted: WantedModel, held: list[HeldView]) -> ModelRoute:
    serving = {("m", ACTIVE): "k1"}
    return build_table(Desired({"m": wanted}, {}), held, serving, {}, epoch=1, accepting=True).models["m"]


@pytest.mark.parametrize(("kind", "replicas"), [("canary", 3), ("shadow", 1)])
def test_candidate_is_loaded_beside_the_active_version(kind: str, replicas: int) -> None:
    wanted = wanted_model(record(rollout=rollout(kind), policy=Policy(replicas=3)))
    assert {one.version: one.replicas for one in wanted.loads.values()} == {"1": 3, "2": replicas}
    assert set(wanted.names) == {ACTIVE}
    assert wanted.rollout is not None and (wanted.rollout.version, wanted.rollout.seq) == ("2", 8)


def test_stopped_rollout_counts_for_nothing_and_another_one_of_the_version_does() -> None:
    assert wanted_model(record(rollout=rollout()), 0, 8).rollout is None
    assert len(wanted_model(record(rollout=rollout()), 0, 8).loads) == 1
    assert wanted_model(record(rollout=rollout()), 0, 7).rollout is not None


@pytest.mark.parametrize(
    "state",
    [
        {"active": None},
        {"active": pointer("2", 4)},
        {"retired": {"2": Retirement(stage="retired", seq=4, time="t")}},
        {"policy": Policy(replicas=0)},
    ],
)
def test_rollout_that_is_not_in_effect_loads_nothing(state: dict[str, Any]) -> None:
    assert wanted_model(record(rollout=rollout(), **state)).rollout is None


def test_frontends_are_told_of_a_candidate_that_can_answer() -> None:
    wanted = wanted_model(record(rollout=rollout()))
    loads = {one.version: one.load for one in wanted.loads.values()}
    one, two = view("1", loads["1"]), view("2", loads["2"])
    assert route(wanted, [one, two]).rollout == RolloutRoute("canary", "2", 5.0, SALT)
    assert route(wanted, [one]).rollout is None
    assert route(wanted, [one, view("2", loads["2"], ())]).rollout is None
    assert route(wanted, [one, view("2", "another load")]).rollout is None


def test_table_with_a_rollout_survives_the_control_channel() -> None:
    wanted = wanted_model(record(rollout=rollout()))
    loads = {one.version: one.load for one in wanted.loads.values()}
    table = RoutingTable(1, True, {}, {"m": route(wanted, [view("1", loads["1"]), view("2", loads["2"])])})
    assert RoutingTable.from_plain(msgpack.unpackb(msgpack.packb(table.to_plain()))) == table


def test_promotion_moves_the_name_to_the_load_that_is_there_and_abort_removes_it() -> None:
    wanted = wanted_model(record(rollout=rollout()))
    loads = {one.version: one for one in wanted.loads.values()}
    held = [Held(f"k{name}", "m", one.load, one.fuse, "ready", ready=1) for name, one in loads.items()]
    serving = {("m", ACTIVE): "k1"}
    assert reconcile({"m": wanted}, held, serving, 0.0) == []
    promoted = wanted_model(record(active=pointer("2", 9), previous=pointer("1", 3)))
    assert reconcile({"m": promoted}, held, serving, 0.0) == [Serve("m", ACTIVE, "k2")]
    assert reconcile({"m": wanted_model(record())}, held, serving, 0.0) == [Remove("k2")]
