"""What a switch leaves of the tables before it: nothing of what was released, everything that it does not change."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace

import pytest
from clipperfs.serverd.predict import AppEntry
from clipperfs.serverd.routing import AppRoute, ModelRoute, RoutingTable, VersionRoute
from clipperfs.serverd.served import ServedVersion

from tests.property.frontend_world import World


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def table(number: int) -> RoutingTable:
    route = VersionRoute(
        key=f"load-{number}", manifest="0" * 64, input_type="doubles", replicas=(f"{number:016x}", f"{number + 1:016x}")
    )
    return RoutingTable(
        epoch=number,
        accepting=True,
        models={
            "m": ModelRoute(active=str(number % 2), versions={str(number % 2): route}),
            "calm": ModelRoute(active="1", versions={"1": replace(route, key="calm", replicas=("f" * 16,))}),
        },
        apps={
            name: AppRoute(input_type="doubles", slo_us=100_000, default_output="none", model=model)
            for name, model in (("a", "m"), ("b", "calm"))
        },
    )


def test_versions_that_were_switched_away_leave_nothing_behind(world: World) -> None:
    gc.collect()
    gc.disable()
    try:
        for number in range(1, 60, 3):
            world.handler.follow(table(number), world.dispatcher.apply(table(number)), world.counters)
            world.loop.settle()
        left = [one for one in gc.get_objects() if isinstance(one, ServedVersion)]
    finally:
        gc.enable()
    keys = sorted(one.route.key for one in left if one.route.key.startswith(("calm", "load-")))  # not other tests'
    assert keys == ["calm", "load-58"]


def follow(world: World, table: RoutingTable) -> tuple[AppEntry, AppEntry]:
    world.handler.follow(table, world.dispatcher.apply(table), world.counters)
    return world.handler.routes[b"/a/predict"], world.handler.routes[b"/b/predict"]


def test_switch_of_one_model_leaves_the_applications_of_others_as_they_are(world: World) -> None:
    first, calm = follow(world, table(1))
    second, still = follow(world, table(4))
    assert second is not first
    assert still is calm
    assert (still.table.epoch, second.versions) == (4, still.versions)
    settings = table(7)
    changed = replace(settings, apps={**settings.apps, "b": replace(settings.apps["b"], default_output="other")})
    assert follow(world, changed)[1] is not calm


def test_table_without_an_application_or_its_model_forgets_it(world: World) -> None:
    follow(world, table(1))
    bare = table(4)
    world.handler.follow(replace(bare, apps={"a": bare.apps["a"]}), world.dispatcher.apply(bare), world.counters)
    assert b"/b/predict" not in world.handler.routes
    gone = replace(bare, models={"m": bare.models["m"]})
    assert follow(world, gone)[1].active is None
