"""The search for the size of a batch, and what it remembers, without a clock."""

from __future__ import annotations

from collections.abc import Callable

from clipperfs.serverd import batch_limit
from clipperfs.serverd.batch_limit import BatchLimit, SizeCosts


def drive(limit: BatchLimit, cost_s: float, budget_s: float, rounds: int) -> list[int]:
    """Send full batches that take ``cost_s`` an input; return the limits."""
    now, limits = 0.0, []
    for _ in range(rounds):
        sent = now
        now += limit.limit * cost_s
        limit.observe(limit.limit, sent, now, now - sent, budget_s)
        limits.append(limit.limit)
    return limits


def test_limit_of_a_quick_model_doubles_up_to_the_ceiling() -> None:
    assert drive(BatchLimit(100), 0.0, 1.0, 8) == [2, 4, 8, 16, 32, 64, 100, 100]


def test_limit_settles_at_what_fits_the_budget() -> None:
    limits = drive(BatchLimit(1000), 0.001, 0.0505, 200)
    assert limits[:12] == [2, 4, 8, 16, 32, 64, 32, 48, 56, 48, 52, 48]
    assert set(limits[20:]) == {50, 51}
    assert limits[20:].count(51) <= 4


def test_limit_never_falls_below_one() -> None:
    limit = BatchLimit(100)
    assert drive(limit, 10.0, 0.001, 20)[-1] == 1


def test_limit_rises_only_by_batches_that_were_full() -> None:
    limit = BatchLimit(100)
    limit.observe(1, 0.0, 0.1, 0.1, 1.0)
    limit.observe(1, 0.2, 0.3, 0.1, 1.0)
    assert limit.limit == 2


def test_batches_that_were_out_together_lower_the_limit_once() -> None:
    limit = BatchLimit(100)
    drive(limit, 0.0, 1.0, 5)
    limit.observe(32, 0.0, 5.0, 1.1, 1.0)
    limit.observe(32, 0.1, 5.1, 1.1, 1.0)
    assert limit.limit == 16
    limit.observe(16, 5.2, 9.0, 1.6, 1.0)
    assert limit.limit == 10


def settled(rows: int) -> BatchLimit:
    """Return a limit that has found ``rows``."""
    limit = BatchLimit(1000)
    drive(limit, 1.0 / rows, 1.0 + 0.5 / rows, 100)
    assert limit.limit == rows
    return limit


def test_single_stall_at_a_size_that_has_been_good_changes_nothing() -> None:
    limit = settled(50)
    limit.observe(50, 1000.0, 1010.0, 10.0, 1.0)
    limit.observe(50, 1010.0, 1011.0, 0.9, 1.0)
    assert limit.limit == 50


def test_third_late_batch_soon_after_two_others_cuts_to_nine_tenths() -> None:
    limit = BatchLimit(50)
    limit.start(50)
    limit.observe(50, 999.0, 999.9, 0.9, 1.0)
    for at, took_s in ((1000.0, 1.2), (1002.0, 0.9), (1004.0, 1.2), (1006.0, 0.9), (1008.0, 1.2)):
        limit.observe(50, at, at + took_s, took_s, 1.0)
    assert limit.limit == 45


def test_late_batches_far_apart_change_nothing() -> None:
    limit = BatchLimit(50)
    drive(limit, 0.9 / 50, 1.0, 10)
    for at in range(1000, 1500):
        took_s = 1.2 if at % 100 == 0 else 0.9
        limit.observe(50, at, at + took_s, took_s, 1.0)
        assert limit.limit == 50


def test_two_late_batches_in_a_row_cut_to_what_fits_in_proportion() -> None:
    limit = settled(50)
    limit.observe(50, 1000.0, 1004.0, 4.0, 1.0)
    limit.observe(50, 1004.0, 1008.0, 4.0, 1.0)
    assert limit.limit == 12


def test_small_batch_that_was_held_up_says_nothing_of_larger_ones() -> None:
    limit = settled(50)
    for at in range(1000, 1040, 2):
        limit.observe(1, at, at + 1.0, 1.5, 1.0)
        limit.observe(1, at + 1, at + 1.1, 0.1, 1.0)
    assert limit.limit == 50


def test_size_that_failed_is_left_alone_longer_each_time() -> None:
    limits = drive(BatchLimit(1000), 1.0 / 50, 1.01, 3000)
    tries = [at for at, limit in enumerate(limits) if limit == 51]
    gaps = [after - before for before, after in zip(tries[-6:], tries[-5:], strict=False)]
    assert gaps[-1] > batch_limit.MOST_CALM
    assert gaps == sorted(gaps)


def test_full_batches_in_half_their_budget_try_a_larger_one_soon() -> None:
    limit = settled(50)
    for at in range(1000, 1000 + batch_limit.MOST_CALM // batch_limit.CALM_AT_ROOM + 2):
        limit.observe(limit.limit, at, at + 0.4, 0.4, 1.0)
    assert limit.limit > 50


def test_limit_starts_where_it_is_told_and_doubles_from_there() -> None:
    limit = BatchLimit(100)
    limit.start(32)
    assert limit.limit == 32
    assert drive(limit, 0.0, 1.0, 2) == [64, 100]
    limit.start(1000)
    assert limit.limit == 100


def test_start_that_was_too_high_is_halved() -> None:
    limit = BatchLimit(100)
    limit.start(32)
    limit.observe(32, 0.0, 1.5, 1.5, 1.0)
    assert limit.limit == 16


def test_fixed_size_never_changes() -> None:
    limit = BatchLimit(100, 32)
    drive(limit, 0.0, 1.0, 5)
    limit.start(7)
    drive(limit, 10.0, 1.0, 5)
    assert (limit.limit, limit.is_growing) == (32, False)
    limit.set_bounds(16, 32)
    assert limit.limit == 16
    limit.set_bounds(64)
    assert drive(limit, 0.0, 1.0, 1) == [17]


def test_lag_of_the_frontend_itself_does_not_shrink_batches() -> None:
    limit = BatchLimit(100)
    drive(limit, 0.0, 1.0, 5)
    limit.observe(32, 0.0, 50.0, 0.01, 1.0)
    assert limit.limit == 64


def test_lower_ceiling_holds_at_once() -> None:
    limit = BatchLimit(100)
    drive(limit, 0.0, 1.0, 8)
    limit.set_bounds(5)
    assert limit.limit == 5
    limit.set_bounds(0)
    assert limit.limit == 1


def send(limit: BatchLimit, took_s: Callable[[int], float], batches: int, now: float = 0.0, **more: float) -> list[int]:
    """Send full batches one after another within a budget of 1; return their sizes."""
    sizes = []
    for _ in range(batches):
        size, spent_s = limit.limit, took_s(limit.limit)
        sizes.append(size)
        limit.observe(size, now, now + spent_s, spent_s, 1.0, **more)
        now += spent_s + 1e-6
    return sizes


def stepped(rows: int) -> float:
    """Return a cost that rises by a quarter of the budget behind each 16 queries."""
    return 0.2 + 0.25 * -(-rows // 16)


def test_ceiling_within_a_step_leaves_the_limit_at_the_end_of_the_step_before() -> None:
    sizes = send(BatchLimit(36), stepped, 400)
    assert sizes[-50:].count(32) >= 45


def test_size_beyond_the_budget_is_taken_only_where_more_time_is_granted_and_pays() -> None:
    limit = BatchLimit(512)
    assert set(send(limit, stepped, 300)[-7:]) == {48}
    limit.look_again()
    assert set(send(limit, stepped, 100, 1000.0, most_s=1.3)[-50:]) <= {64, 65}
    limit.keep_within(2000.0, 1.0)
    assert limit.limit == 48


def test_size_beyond_the_budget_whose_queries_come_late_is_given_up() -> None:
    limit = BatchLimit(512)
    send(limit, stepped, 300)
    limit.look_again()
    send(limit, stepped, 100, 1000.0, most_s=1.3)
    assert limit.limit == 64
    send(limit, stepped, 8, 2000.0, most_s=1.3, in_time=0.8)
    assert limit.limit == 48


def test_linear_cost_gains_nothing_beyond_the_budget_and_stays_within_it() -> None:
    limit = BatchLimit(512)
    send(limit, lambda rows: 0.1 + 0.02 * rows, 300)
    limit.look_again()
    sizes = send(limit, lambda rows: 0.1 + 0.02 * rows, 300, 1000.0, most_s=1.3)
    assert 45 <= sorted(sizes)[150] <= 47


def costs_of(took_s: Callable[[int], float], *sizes: int) -> SizeCosts:
    costs = SizeCosts()
    for rows in sizes:
        costs.learn(rows, took_s(rows))
    return costs


def test_cut_goes_to_the_step_before_where_that_answers_more() -> None:
    assert costs_of(stepped, 16, 32, 47, 48).cut(48) == 32
    assert costs_of(lambda rows: 0.4 + 0.01 * rows, 4, 47, 48).cut(48) == 43


def test_cut_changes_nothing_where_no_smaller_batch_is_quicker() -> None:
    costs = costs_of(lambda rows: 0.9, 1, 2, 4, 8)
    assert costs.cut(8) == 8


def test_nearly_equal_sizes_give_the_largest() -> None:
    costs = costs_of(lambda rows: 0.01 * rows, 10, 20, 40)
    costs.learn(20, 0.195)
    assert costs.best(512, 1.0, may_exceed=False) == 40
    assert costs.best(30, 1.0, may_exceed=False) == 20
    assert costs.best(5, 1.0, may_exceed=False) == 0


def test_batch_that_was_held_up_weighs_little_in_what_its_size_costs() -> None:
    costs = costs_of(stepped, 16)
    costs.learn(16, 100.0)
    assert costs.took_s(16) < 1.2 * stepped(16)
    costs.learn(16, 0.1)
    assert costs.took_s(16) == 0.1


def test_cost_that_has_risen_for_good_makes_other_sizes_unknown() -> None:
    costs = costs_of(stepped, 8, 16)
    for _ in range(batch_limit.MOST_RISEN + 1):
        costs.learn(16, 4 * stepped(16))
    assert (costs.took_s(8), costs.took_s(16)) == (0.0, 4 * stepped(16))


def test_only_the_sizes_seen_last_are_remembered() -> None:
    costs = costs_of(lambda rows: 0.01 * rows, *range(1, 2 * batch_limit.MOST_KNOWN))
    assert costs.took_s(batch_limit.MOST_KNOWN - 1) == 0.0
    assert costs.took_s(batch_limit.MOST_KNOWN) > 0.0
