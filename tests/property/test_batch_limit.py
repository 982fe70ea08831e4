"""Random monotone costs, noise and changes against the batch-size rule; the real dispatcher in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from clipperfs.serverd.batch_limit import BatchLimit
from clipperfs.serverd.latency_model import LatencyModel
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.batch_world import BatchWorld

BUDGET_S = 0.02
SETTLED = 80
"""Full batches after which the limit stands where it should."""


@dataclass(frozen=True)
class Cost:
    """What a batch takes, as shares of the budget: at all, for each query, for each step that is begun."""

    base: float
    row: float
    step: float
    step_rows: int
    factor: float = 1.0

    def __call__(self, rows: int) -> float:
        steps = -(-rows // self.step_rows)
        return BUDGET_S * self.factor * max(1e-9, self.base + self.row * rows + self.step * steps)

    def largest(self, ceiling: int, noise: float = 0.0) -> int:
        """Return the largest batch that meets the budget, 0 if none does."""
        return max((rows for rows in range(1, ceiling + 1) if self(rows) * (1 + noise) <= BUDGET_S), default=0)

    def most_per_s(self, ceiling: int, noise: float = 0.0) -> float:
        """Return the queries a second of the size that answers most of those that meet the budget, 0 if none does."""
        sizes = range(1, self.largest(ceiling, noise) + 1)
        return max((rows / self(rows) for rows in sizes), default=0.0)

    def per_s(self, sizes: Sequence[int]) -> float:
        """Return the queries a second of batches one after another."""
        return sum(sizes) / sum(map(self, sizes))


costs = st.builds(
    Cost,
    base=st.floats(0, 0.9),
    row=st.one_of(st.just(0.0), st.floats(0.001, 0.3)),
    step=st.one_of(st.just(0.0), st.floats(0.01, 0.5)),
    step_rows=st.sampled_from([1, 4, 8, 32]),
)
ceilings = st.sampled_from([1, 7, 64, 200])


def drive(limit: BatchLimit, cost: Callable[[int], float], batches: int, now: float = 0.0) -> tuple[list[int], float]:
    """Send full batches one by one; return their sizes, and the time."""
    sizes = []
    for _ in range(batches):
        size, took_s = limit.limit, cost(limit.limit)
        sizes.append(size)
        limit.observe(size, now, now + took_s, took_s, BUDGET_S)
        now += took_s + 1e-6
    return sizes, now


@given(costs, ceilings)
@settings(max_examples=300, deadline=None)
def test_limit_settles_where_nearly_the_most_are_answered_within_the_budget(cost: Cost, ceiling: int) -> None:
    sizes, _ = drive(BatchLimit(ceiling), cost, SETTLED + 200)
    assert max(sizes) <= ceiling
    assert cost.per_s(sizes[SETTLED:]) >= 0.9 * cost.most_per_s(ceiling)
    if cost.largest(ceiling):
        assert sum(cost(size) > BUDGET_S for size in sizes[SETTLED:]) <= 10
    else:
        assert max(sizes) == 1


@given(costs, ceilings, st.floats(0, 0.1), st.integers(0, 1000))
@settings(max_examples=300, deadline=None)
def test_noise_leaves_the_limit_where_nearly_the_most_are_answered(
    cost: Cost, ceiling: int, noise: float, seed: int
) -> None:
    source = random.Random(seed)
    sizes, _ = drive(BatchLimit(ceiling), lambda rows: cost(rows) * (1 + noise * source.random()), SETTLED + 300)
    most = max(1, cost.largest(ceiling))
    assert max(sizes) <= ceiling
    assert sorted(sizes[SETTLED:])[150] <= max(1.1 * most, most + 1)
    assert cost.per_s(sizes[SETTLED:]) >= 0.85 * cost.most_per_s(ceiling, noise)


@given(costs, ceilings, st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_rare_stalls_do_not_shrink_batches(cost: Cost, ceiling: int, seed: int) -> None:
    source = random.Random(seed)
    sizes, _ = drive(
        BatchLimit(ceiling), lambda rows: cost(rows) + (BUDGET_S if source.random() < 0.01 else 0.0), SETTLED + 300
    )
    assert cost.per_s(sizes[SETTLED:]) >= 0.85 * cost.most_per_s(ceiling)


@given(costs, ceilings, st.sampled_from([0.25, 4.0]), st.integers(1, 400))
@settings(max_examples=300, deadline=None)
def test_limit_recovers_when_the_cost_changes(cost: Cost, ceiling: int, factor: float, before: int) -> None:
    limit = BatchLimit(ceiling)
    _, now = drive(limit, cost, before)
    changed = Cost(cost.base, cost.row, cost.step, cost.step_rows, factor)
    sizes, _ = drive(limit, changed, SETTLED + 40, now)
    assert changed.per_s(sizes[SETTLED:]) >= 0.85 * changed.most_per_s(ceiling)
    if changed.largest(ceiling):
        assert sum(changed(size) > 1.25 * BUDGET_S for size in sizes[:SETTLED]) <= 12


@given(costs, ceilings, st.sampled_from([0.25, 1.0, 4.0]))
@settings(max_examples=300, deadline=None)
def test_start_that_was_wrong_by_four_corrects_itself_in_a_few_batches(cost: Cost, ceiling: int, wrong: float) -> None:
    measured = [(rows, cost(rows) / wrong) for rows in (1, min(32, ceiling))]
    model = LatencyModel()
    model.learn_warm_up(measured)
    limit = BatchLimit(ceiling)
    limit.start(model.largest_within(BUDGET_S))
    assert limit.limit <= min(32, ceiling)
    sizes, _ = drive(limit, cost, SETTLED + 20)
    # Sizes smaller than the start are not tried while it meets the budget: a ceiling of 7 may hide a step at 4.
    tried = range(min(sizes), cost.largest(ceiling) + 1)
    assert cost.per_s(sizes[SETTLED:]) >= 0.85 * max((rows / cost(rows) for rows in tried), default=0.0)
    if cost.largest(ceiling):
        late = [cost(size) > 2 * BUDGET_S for size in sizes]  # a batch over twice its budget makes queries late
        assert sum(late) <= 3


CASES: dict[str, tuple[Callable[[int], float], int, tuple[int, ...]]] = {
    "constant": (lambda rows: 0.010, 32, (16, 32)),
    "nearly the budget": (lambda rows: 0.021, 32, (16, 32)),
    "linear": (lambda rows: 0.002 + 0.0004 * rows, 512, (24, 32, 40, 48, 56)),
    "step": (lambda rows: 0.004 + 0.006 * -(-rows // 32), 512, (32, 64, 96)),
    "step of 16": (lambda rows: 0.003 + 0.005 * -(-rows // 16), 512, (32, 48, 64)),
    "step, ceiling within one": (lambda rows: 0.003 + 0.005 * -(-rows // 16), 50, (32, 48, 50)),
}
SLO_S = 0.05


def noisy(cost: Callable[[int], float], noise: float) -> Callable[[int], float]:
    source = random.Random(7)
    return lambda rows: cost(rows) * (1 + noise * source.random())


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("case", CASES)
def test_adaptive_batches_answer_nearly_as_many_in_time_as_the_best_fixed_size(case: str, noise: float) -> None:
    cost, ceiling, sizes = CASES[case]
    rate = 1.15 * max(rows / cost(rows) for rows in sizes if 2 * cost(rows) <= SLO_S)
    got = {}
    for fixed in (*sizes, None):
        world = BatchWorld(noisy(cost, noise), SLO_S, max_batch=ceiling, fixed_batch=fixed)
        world.run(rate, 1.0)
        got[fixed] = world.run(rate, 1.5).within
        world.close()
    adaptive = got.pop(None)
    assert adaptive >= 0.92 * max(got.values()), got


@pytest.mark.parametrize("is_after_overload", [False, True])
@pytest.mark.parametrize("case", [case for case in CASES if case != "nearly the budget"])
def test_at_four_fifths_of_the_capacity_nearly_all_are_answered_in_time(case: str, is_after_overload: bool) -> None:
    cost, ceiling, sizes = CASES[case]
    limits = [rows for rows in sizes if cost(rows) <= 0.4 * SLO_S] or [ceiling]
    world = BatchWorld(cost, SLO_S, max_batch=ceiling)
    rate = 0.8 * max(rows / cost(rows) for rows in limits)
    if is_after_overload:
        world.run(2 * rate, 1.5)
    world.run(rate, 1.0)
    tally = world.run(rate, 3.0)
    world.close()
    assert tally.within >= 0.999 * tally.asked


def test_small_fixed_batches_keep_their_goodput_far_beyond_their_capacity() -> None:
    world = BatchWorld(lambda rows: 0.010, SLO_S, max_batch=32, fixed_batch=4)
    world.run(3000, 0.5)
    tally = world.run(3000, 1.0)
    world.close()
    assert tally.within >= 0.9 * 400
    assert tally.answered == tally.asked
