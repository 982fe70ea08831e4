"""The AIMD rule and the deadline-ordered queue, without a clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from clipperfs.serverd import batching
from clipperfs.serverd.batching import BatchLimit, DeadlineQueue, bearable_rows
from clipperfs.serverd.pending import DeadlineLanes
from hypothesis import given
from hypothesis import strategies as st


@dataclass
class FakeQuery:
    """What a queue looks at of a query."""

    arrived: float
    deadline: float
    packed: bytes = b"12345678"
    is_done: bool = False
    is_gone: bool = False
    app: str = "a"


def queue_of(*queries: FakeQuery) -> DeadlineQueue:
    queue = DeadlineQueue()
    for query in queries:
        put(queue, query)
    return queue


def put(queue: Any, query: FakeQuery) -> None:
    queue.put(query, query.app)


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
    limit = settled(50)
    for at, took_s in ((1000.0, 1.2), (1002.0, 0.9), (1004.0, 1.2), (1006.0, 0.9), (1008.0, 1.2)):
        limit.observe(50, at, at + took_s, took_s, 1.0)
    assert limit.limit == 45


def test_late_batches_far_apart_change_nothing() -> None:
    limit = BatchLimit(50)
    drive(limit, 0.01, 1.0, 10)
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
    assert gaps[-1] > batching.MOST_CALM
    assert gaps == sorted(gaps)


def test_full_batches_in_half_their_budget_try_a_larger_one_soon() -> None:
    limit = settled(50)
    for at in range(1000, 1000 + batching.MOST_CALM // batching.CALM_AT_ROOM + 2):
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


queries = st.lists(
    st.builds(
        lambda arrived, slo, done, gone: FakeQuery(arrived, arrived + slo, b"x" * 8, done, gone, f"app{slo}"),
        st.integers(0, 50),
        st.sampled_from([1, 5, 20]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=60,
).map(lambda items: sorted(items, key=lambda query: query.arrived))


@given(queries, st.integers(1, 10))
def test_nothing_is_lost_and_what_fits_into_a_batch_comes_by_deadline(items: list[FakeQuery], limit: int) -> None:
    queue = queue_of(*items)
    taken: list[Any] = []
    passed: list[Any] = []
    while queue.rows:
        fits = queue.rows <= limit
        found, doomed = queue.take(limit, 0.0)
        batch: list[Any] = list(found)
        assert len(batch) <= limit
        if fits:
            assert [query.deadline for query in batch] == sorted(query.deadline for query in batch)
        for app in {query.app for query in batch}:
            order = [query.arrived for query in batch if query.app == app]
            assert order == sorted(order)
        taken += batch
        passed += doomed
    wanted = [query for query in items if not query.is_done]
    assert {id(query) for query in taken} == {id(query) for query in wanted if not query.is_gone}
    assert {id(query) for query in passed} == {id(query) for query in wanted if query.is_gone}
    assert queue.size_bytes == 0


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 60), min_size=2), st.integers(4, 32))
def test_under_pressure_every_application_gets_its_part(waiting: dict[str, int], limit: int) -> None:
    queue = queue_of(*(FakeQuery(0, 1 + ord(app), app=app) for app, count in waiting.items() for _ in range(count)))
    batch: list[Any] = list(queue.take(limit, 0.0)[0])
    assert len(batch) == min(limit, sum(waiting.values()))
    for app, count in waiting.items():
        got = sum(1 for query in batch if query.app == app)
        assert got >= min(count, limit // len(waiting))


def test_application_that_fills_the_queue_leaves_room_for_another() -> None:
    queue = queue_of(*(FakeQuery(0, 1, app="greedy") for _ in range(10)))
    assert queue.is_full_for("greedy", 10)
    assert not queue.is_full_for("modest", 10)
    for _ in range(5):
        assert not queue.is_full_for("modest", 10)
        put(queue, FakeQuery(0, 1, app="modest"))
    assert queue.is_full_for("modest", 10)
    assert queue.is_full_for("greedy", 10)


def test_queue_is_bounded_by_what_can_be_answered_in_time() -> None:
    assert bearable_rows(32, 0.0, 1, 0.1) == batching.MAX_QUEUED
    assert bearable_rows(32, 0.010, 1, 0.1) == 256
    assert bearable_rows(32, 0.010, 2, 0.1) == 512
    assert bearable_rows(32, 10.0, 1, 0.1) == 32
    assert bearable_rows(512, 0.0001, 4, 10.0) == batching.MAX_QUEUED


@given(st.integers(1, 64), st.floats(0.0001, 0.02), st.integers(1, 8), st.floats(0.1, 2.0))
def test_last_query_that_may_wait_is_answered_within_its_slo(
    limit: int, predict_s: float, replicas: int, slo_s: float
) -> None:
    rows = bearable_rows(limit, predict_s, replicas, slo_s)
    batches_before = (rows - 1) // (limit * replicas)
    is_least = rows in (batching.MAX_QUEUED, limit * replicas)  # a full batch each may always wait
    assert is_least or (batching.BATCHES_AHEAD + batches_before + 1) * predict_s <= slo_s + 1e-9


def test_query_that_cannot_make_it_is_passed_over_only_under_pressure() -> None:
    late = [FakeQuery(0, 1) for _ in range(3)]
    good = [FakeQuery(9, 10) for _ in range(4)]
    batch, doomed = queue_of(*late, *good).take(4, 5.0)
    assert (batch, doomed) == (good, late)  # type: ignore[comparison-overlap]
    batch, doomed = queue_of(*late, *good).take(10, 5.0)
    assert (batch, doomed) == (late + good, [])  # type: ignore[comparison-overlap]


def test_batch_ends_before_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_BATCH_BYTES", 20)
    queue = queue_of(FakeQuery(0, 1, b"x" * 30), FakeQuery(0, 1, b"x" * 8), FakeQuery(0, 1, b"x" * 12), FakeQuery(0, 1))
    assert [len(queue.take(10, 0.0)[0]) for _ in range(3)] == [1, 2, 1]


def test_queue_is_full_by_number_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_QUEUED", 2)
    queue = queue_of(FakeQuery(0, 1))
    assert not queue.is_full_for("a", 100)
    put(queue, FakeQuery(0, 1))
    assert queue.is_full_for("a", 100)
    monkeypatch.setattr(batching, "MAX_QUEUED", 100)
    monkeypatch.setattr(batching, "MAX_QUEUED_BYTES", 8)
    assert queue.is_full_for("a", 100)
    assert queue.is_full_for("b", 100)


def test_expired_queries_at_the_heads_make_room() -> None:
    first, second = FakeQuery(0, 1), FakeQuery(0, 2)
    queue = queue_of(first, second)
    first.is_done = True
    queue.drop_settled()
    assert (queue.rows, queue.size_bytes) == (1, 8)
    assert queue.take_all() == [second]  # type: ignore[comparison-overlap]
    assert queue.rows == 0


@given(queries)
def test_deadlines_come_due_in_time_and_once(items: list[FakeQuery]) -> None:
    lanes: Any = DeadlineLanes()
    waiting = {id(query): query for query in items if not query.is_done}
    for query in items:
        lanes.lane(query.deadline - query.arrived).append(query)
    for now in range(80):
        due, earliest = lanes.pop_due(now)
        for query in due:
            assert query.deadline <= now
            del waiting[id(query)]
        assert all(query.deadline > now for query in waiting.values())
        if waiting:
            assert earliest is not None
            assert earliest <= min(query.deadline for query in waiting.values())
    assert not waiting


def test_answered_queries_do_not_pile_up_behind_an_unanswered_one() -> None:
    lanes: Any = DeadlineLanes()
    lanes.lane(60.0).append(FakeQuery(0, 60))
    for number in range(50_000):
        query = FakeQuery(number, number + 60)
        lanes.lane(60.0).append(query)
        query.is_done = True
        lanes.sweep()
    assert sum(map(len, lanes._lanes.values())) < 10_000
