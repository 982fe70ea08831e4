"""Several frontends that share replicas, by the real dispatchers in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.property.batch_world import BatchWorld, Tally

Cost = Callable[[int], float]
MakeWorld = Callable[..., BatchWorld]
COSTS: dict[str, tuple[Cost, int, float]] = {
    "constant": (lambda rows: 0.01, 16, 0.05),
    "linear": (lambda rows: 0.002 + 0.0004 * rows, 512, 0.05),
    "slow": (lambda rows: 0.01, 8, 0.1),
}
"""By name: how long a batch takes, the most queries in one, the SLO."""


@pytest.fixture
def make_world() -> Iterator[MakeWorld]:
    with ExitStack() as stack:

        def make(cost_s: Cost, slo_s: float, **route: Any) -> BatchWorld:
            world = BatchWorld(cost_s, slo_s, seed=3, **route)
            stack.callback(world.close)
            return world

        yield make


def capacity(cost: str, replicas: int) -> float:
    """Return how many queries a second replicas answer of which two batches fit into the SLO."""
    cost_s, most, slo_s = COSTS[cost]
    return max(rows / cost_s(rows) for rows in range(1, most + 1) if 2 * cost_s(rows) <= 0.9 * slo_s) * replicas


@pytest.mark.parametrize(
    ("cost", "replicas", "frontends", "least"),
    [
        ("slow", 1, 1, 0.95),
        ("slow", 1, 4, 0.95),
        ("slow", 2, 2, 0.95),
        ("constant", 1, 2, 0.95),
        ("constant", 1, 4, 0.5),
        ("linear", 1, 2, 0.8),
        ("linear", 2, 2, 0.7),
        ("linear", 2, 4, 0.45),
    ],
)
def test_overload_leaves_most_of_the_goodput(
    make_world: MakeWorld, cost: str, replicas: int, frontends: int, least: float
) -> None:
    cost_s, most, slo_s = COSTS[cost]
    world = make_world(cost_s, slo_s, replicas=replicas, frontends=frontends, max_batch=most)
    rate = 3 * capacity(cost, replicas)
    world.run(rate, 1.5)
    tally = world.run(rate, 2.0)
    assert tally.within / 2.0 >= least * capacity(cost, replicas)
    assert tally.answered == tally.asked
    assert max(tally.latency_s) <= slo_s + 0.001


@pytest.mark.parametrize(("cost", "frontends"), [("slow", 4), ("constant", 2), ("linear", 2)])
def test_all_are_in_time_below_the_capacity(make_world: MakeWorld, cost: str, frontends: int) -> None:
    cost_s, most, slo_s = COSTS[cost]
    world = make_world(cost_s, slo_s, frontends=frontends, max_batch=most)
    rate = 0.7 * capacity(cost, 1)
    world.run(rate, 1.0)
    tally = world.run(rate, 3.0)
    assert tally.within >= 0.99 * tally.asked


def test_share_is_what_others_take_and_goes_when_they_do(make_world: MakeWorld) -> None:
    cost_s, most, slo_s = COSTS["slow"]
    world = make_world(cost_s, slo_s, frontends=3, max_batch=most)
    world.run(2000, 1.0)
    assert world.version.share == pytest.approx(3.0, abs=0.3)
    before = world.version.budget_s
    world.only = 0
    world.run(500, 3.0)
    assert world.version.share == pytest.approx(1.0, abs=0.15)
    assert world.version.budget_s > 2 * before


def test_lone_frontend_has_its_replicas_for_itself(make_world: MakeWorld) -> None:
    cost_s, most, slo_s = COSTS["slow"]
    world = make_world(cost_s, slo_s, max_batch=most)
    world.run(2000, 1.0)
    assert world.version.share == 1.0
    assert world.version.late_before == float("-inf")


def test_frontends_begin_with_different_replicas(make_world: MakeWorld) -> None:
    world = make_world(lambda rows: 0.01, 0.1, replicas=3, frontends=3)
    for side in range(3):
        world.only = side
        world.submit(Tally())
    world.loop.settle()
    world.loop.advance(0.05)
    assert len(set(world.replicas.asked)) == 3


def test_query_that_would_come_too_late_is_refused_when_it_comes(make_world: MakeWorld) -> None:
    cost_s, most, slo_s = COSTS["constant"]
    world = make_world(cost_s, slo_s, frontends=4, max_batch=most)
    world.run(4800, 2.0)
    tally = world.run(4800, 1.0)
    refused = [latency_s for latency_s in tally.latency_s if latency_s < 0.001]
    assert len(refused) > 0.5 * tally.asked


def test_share_counts_no_more_than_there_are_and_not_its_own(
    make_world: MakeWorld,
) -> None:
    alone = make_world(lambda rows: 0.001, 0.1, frontends=2, fixed_batch=4)
    alone.only = 0
    alone.run(8000, 0.5)
    assert alone.replicas.sizes.count(4) > 50
    assert alone.version.share < 1.3, "two of its own are out, and no other's"
    quick = make_world(lambda rows: 0.00001, 0.1, frontends=2)
    quick.run(2000, 0.5)
    assert quick.version.share <= 2.0
