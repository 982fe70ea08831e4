"""What a frontend has released is gone at once: its process seldom looks for reference cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
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
        models={"m": ModelRoute(active=str(number % 2), versions={str(number % 2): route})},
        apps={"a": AppRoute(input_type="doubles", slo_us=100_000, default_output="none", model="m")},
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
    assert [one.route.key for one in left] == ["load-58"]
