"""When batches go and how large they are, by the real dispatcher in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.property.batch_world import WAY_S, BatchWorld, Tally

MakeWorld = Callable[..., BatchWorld]


@pytest.fixture
def make_world() -> Iterator[MakeWorld]:
    with ExitStack() as stack:

        def make(cost_s: float, slo_s: float, **route: Any) -> BatchWorld:
            world = BatchWorld(lambda rows: cost_s, slo_s, **route)
            stack.callback(world.close)
            return world

        yield make


def ask(world: BatchWorld, count: int, wait_s: float) -> Tally:
    """Ask all at once, then let time pass."""
    tally = Tally()
    for _ in range(count):
        world.submit(tally)
    world.loop.settle()
    world.loop.advance(wait_s)
    return tally


def test_fixed_batch_with_a_delay_goes_when_it_is_full(make_world: MakeWorld) -> None:
    world = make_world(0.005, 1.0, fixed_batch=4, batch_delay_ms=100.0)
    for _ in range(3):
        ask(world, 1, 0.001)
    assert world.replicas.sizes == []
    ask(world, 1, 0.02)
    assert world.replicas.sizes == [4]


def test_fixed_batch_that_does_not_fill_goes_after_the_delay(make_world: MakeWorld) -> None:
    world = make_world(0.005, 1.0, fixed_batch=4, batch_delay_ms=100.0)
    tally = ask(world, 3, 0.5)
    assert world.replicas.sizes == [3]
    assert tally.latency_s == pytest.approx([0.1 + 2 * WAY_S + 0.005] * 3, abs=0.001)


def test_fixed_batch_without_a_delay_makes_nobody_wait(make_world: MakeWorld) -> None:
    world = make_world(0.005, 1.0, fixed_batch=32)
    assert ask(world, 1, 0.5).latency_s == pytest.approx([2 * WAY_S + 0.005])


def test_full_fixed_batch_is_not_shared_among_idle_replicas(make_world: MakeWorld) -> None:
    world = make_world(0.005, 1.0, replicas=2, fixed_batch=8, batch_delay_ms=100.0)
    ask(world, 8, 0.05)
    assert world.replicas.sizes == [8]
    adaptive = make_world(0.005, 1.0, replicas=2, warm_up=((8, 0.005),))
    ask(adaptive, 8, 0.05)
    assert sorted(adaptive.replicas.sizes) == [4, 4]


@pytest.mark.parametrize("fixed", [None, 4])
@pytest.mark.parametrize("delay_ms", [20.0, 60.0, 10_000.0])
def test_delay_never_costs_the_slo(make_world: MakeWorld, fixed: int | None, delay_ms: float) -> None:
    world = make_world(0.008, 0.05, fixed_batch=fixed, batch_delay_ms=delay_ms)
    world.run(30, 0.3)
    tally = world.run(30, 3.0)
    assert tally.within == tally.asked
    assert sorted(tally.latency_s)[tally.asked // 2] > 0.008 + min(delay_ms / 1000, 0.02)


def test_new_version_starts_with_what_its_warm_up_measured(make_world: MakeWorld) -> None:
    world = make_world(0.005, 0.05, warm_up=((1, 0.2), (32, 0.005)))
    assert world.version.batch_limit.limit == 32
    ask(world, 32, 0.1)
    assert world.replicas.sizes[0] == 32
    world.load("2", warm_up=((1, 0.01), (32, 0.32)))
    assert world.version.batch_limit.limit == 1
    world.load("3")
    assert world.version.batch_limit.limit == 1


def test_warm_up_counts_when_it_comes_after_the_version_is_known(make_world: MakeWorld) -> None:
    world = make_world(0.005, 0.05)
    assert world.version.batch_limit.limit == 1
    world.load("1", warm_up=((1, 0.2), (32, 0.005)))
    assert world.version.batch_limit.limit == 32


def test_table_that_changes_nothing_for_a_version_leaves_its_limit(make_world: MakeWorld) -> None:
    world = make_world(0.005, 0.05, warm_up=((32, 0.005),))
    world.run(10_000, 0.5)
    learned = world.version.batch_limit.limit
    assert learned > 32
    world.load("1", warm_up=((32, 0.005),))
    assert world.version.batch_limit.limit == learned


def test_other_slo_starts_anew_from_what_was_learned() -> None:
    world = BatchWorld(lambda rows: 0.001 + 0.0005 * rows, 0.1)
    world.run(2500, 4.0)
    assert world.version.batch_limit.limit > 64
    world.slo_s = 0.025
    world.load("1")
    assert 8 <= world.version.batch_limit.limit <= 20
    world.close()


def test_second_full_batch_goes_just_before_the_first_should_end(make_world: MakeWorld) -> None:
    world = make_world(0.02, 1.0, fixed_batch=4)
    ask(world, 4, 0.1)
    ask(world, 4, 0.0)
    tally = ask(world, 4, 0.015)
    assert world.version.queue.rows == 4
    world.loop.advance(0.004 + WAY_S * 2)
    assert world.version.queue.rows == 0
    world.loop.advance(0.1)
    assert tally.latency_s == pytest.approx([0.04 + 2 * WAY_S] * 4, abs=0.0005)


def test_quick_model_has_its_next_batch_at_hand(make_world: MakeWorld) -> None:
    world = make_world(0.001, 1.0, fixed_batch=4)
    ask(world, 1, 0.1)
    ask(world, 8, 0.0)
    assert world.version.queue.rows == 0


def priced(row_s: float, base_s: float = 0.0, rows: int = 32) -> tuple[tuple[int, float], ...]:
    """Return what a warm-up measures of a model."""
    return (1, base_s + row_s), (rows, base_s + rows * row_s)


def test_queries_are_parted_so_that_the_replica_has_some_while_others_are_on_their_way(make_world: MakeWorld) -> None:
    world = make_world(0.001, 1.0, warm_up=priced(50e-6))
    ask(world, 32, 0.0)
    assert world.version.queue.rows == 0
    world.loop.advance(0.1)
    assert world.replicas.sizes == [16, 16]
    two = make_world(0.001, 1.0, warm_up=priced(50e-6), replicas=2)
    ask(two, 32, 0.1)
    assert two.replicas.sizes == [8] * 4


@pytest.mark.parametrize(
    ("what", "row_s", "base_s", "route"),
    [
        ("most of the cost does not depend on the size", 20e-6, 0.002, {}),
        ("too little would go on side by side", 5e-6, 0.0, {}),
        ("parts are long", 0.001, 0.0, {}),
        ("the model asks for company", 50e-6, 0.0, {"batch_delay_ms": 5.0}),
        ("the model asks for one size", 50e-6, 0.0, {"fixed_batch": 32}),
    ],
)
def test_queries_go_together_where(
    make_world: MakeWorld, what: str, row_s: float, base_s: float, route: dict[str, Any]
) -> None:
    world = make_world(0.001, 1.0, warm_up=priced(row_s, base_s), **route)
    ask(world, 32, 0.1)
    assert world.replicas.sizes == [32], what


def test_queries_are_not_parted_below_what_is_a_full_batch_anyway(make_world: MakeWorld) -> None:
    world = make_world(0.001, 1.0, warm_up=priced(50e-6, rows=8))
    found = []
    for world.version.live in (14, 16):
        found.append(world.version.find_part())
    world.version.live = 0
    assert found == [7, 0]
    ask(world, 32, 0.1)
    assert world.replicas.sizes == [4, 4, 8, 8, 8], "parted only until more is known to wait"


def test_cost_of_which_nobody_knows_is_not_parted(make_world: MakeWorld) -> None:
    world = make_world(0.001, 1.0, warm_up=((32, 0.0016),))
    ask(world, 32, 0.1)
    assert world.replicas.sizes == [32]


def test_second_batch_waits_until_it_has_its_share(make_world: MakeWorld) -> None:
    world = make_world(0.001, 1.0, warm_up=priced(100e-6))
    world.replicas.cost_s = lambda rows: 100e-6 * rows
    for _ in range(2):
        ask(world, 8, 2 * WAY_S + 0.0005)  # the first part of two is back
        ask(world, 3, 0.0)
        assert world.version.queue.rows == 3
        ask(world, 1, 0.0)
        assert world.version.queue.rows == 0, "it goes when it has its share"
        world.loop.advance(0.1)
    ask(world, 8, 2 * WAY_S + 0.0005)
    ask(world, 3, 0.0004)
    assert world.version.queue.rows == 0, "or when the replica has nothing else"
    world.loop.advance(0.1)
    assert world.replicas.sizes == [4, 4, 4, 4, 4, 4, 4, 4, 3]


def test_quick_model_that_is_not_parted_has_a_second_batch_of_any_size(make_world: MakeWorld) -> None:
    world = make_world(0.001, 1.0, warm_up=priced(1e-6))
    ask(world, 4, 0.0)
    ask(world, 1, 0.0)
    assert world.version.queue.rows == 0


def test_part_goes_before_the_turn_of_the_loop_ends(make_world: MakeWorld) -> None:
    world = make_world(0.001, 1.0, warm_up=priced(50e-6))
    world.replicas.cost_s = lambda rows: 50e-6 * rows
    before = Tally()
    for _ in range(40):  # a part comes back while as many have come after it
        for _ in range(16):
            world.submit(before)
        world.loop.settle()
        world.loop.advance(0.0009)
    assert 8 <= world.version.part < world.version.batch_limit.limit
    sizes = len(world.replicas.sizes)
    waiting = [world.version.queue.rows]
    tally = Tally()
    for _ in range(16):
        world.submit(tally)
        waiting.append(world.version.queue.rows)
    assert waiting != sorted(waiting), "no turn has ended, and yet a part has gone"
    world.loop.advance(0.1)
    assert tally.answered == 16
    assert max(world.replicas.sizes[sizes:]) <= 16
