"""The deadline-ordered queue and how much of it is bearable, without a clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from clipperfs.serverd import batching
from clipperfs.serverd.batching import DeadlineQueue, bearable_rows
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
    assert bearable_rows(32, 0.0, 1, 0.1, is_crowded=True) == batching.MAX_QUEUED
    assert bearable_rows(32, 0.010, 1, 0.1, is_crowded=True) == 256
    assert bearable_rows(32, 0.010, 2, 0.1, is_crowded=True) == 512
    assert bearable_rows(32, 10.0, 1, 0.1, is_crowded=True) == 32
    assert bearable_rows(512, 0.0001, 4, 10.0, is_crowded=True) == batching.MAX_QUEUED


def test_half_a_round_more_may_wait_while_a_version_is_not_crowded() -> None:
    assert bearable_rows(48, 0.018, 1, 0.05, is_crowded=False) == 72
    assert bearable_rows(48, 0.018, 2, 0.05, is_crowded=False) == 144
    assert bearable_rows(1, 10.0, 1, 0.1, is_crowded=False) == 1
    assert bearable_rows(512, 0.0001, 4, 10.0, is_crowded=False) == batching.MAX_QUEUED


@given(st.integers(1, 64), st.floats(0.0001, 0.02), st.integers(1, 8), st.floats(0.1, 2.0))
def test_last_query_that_may_wait_is_answered_within_its_slo(
    limit: int, predict_s: float, replicas: int, slo_s: float
) -> None:
    rows = bearable_rows(limit, predict_s, replicas, slo_s, is_crowded=True)
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
