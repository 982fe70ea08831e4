"""A query that has its answer lets go of its input, though it stays in its deadline lane."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from clipperfs.serverd.counters import LATENCY_BOUNDS_S, AppCounter, VersionCounter
from clipperfs.serverd.pending import DeadlineLanes, Query, QueryOwner
from clipperfs.serverd.query import reply_head


def test_answered_query_keeps_no_input_until_its_deadline() -> None:
    sent: list[bytes] = []
    sink: Any = SimpleNamespace(send=sent.append, connection=object())
    version: Any = SimpleNamespace(reply_head=reply_head("1"), counter=VersionCounter())
    lane = DeadlineLanes().lane(60.0)
    owner = QueryOwner("a", 60.0, b"0", AppCounter(), None, lane)
    query = Query(owner, version, b"x" * 100_000, 1, 0.0, 60.0, sink, -1)
    lane.append(query)
    query.answer(b"7", 0.1)
    assert sent[0].endswith(b'"output":7,"default":false}')
    assert len(query.packed) == 0


def test_answers_are_timed_for_the_version_that_gave_them_and_not_those_of_the_cache() -> None:
    sink: Any = SimpleNamespace(send=lambda raw: None, connection=object())
    first, second = VersionCounter(), VersionCounter()
    owner = QueryOwner("a", 60.0, b"0", AppCounter(), None, DeadlineLanes().lane(60.0))

    def query(counter: VersionCounter) -> Query:
        version: Any = SimpleNamespace(reply_head=reply_head("1"), counter=counter)
        return Query(owner, version, b"x", 1, 1.0, 61.0, sink, -1)

    query(first).answer(b"7", 1.0002)
    query(first).answer(b"7", 1.0)
    query(second).fall_back("slo", "late", 2.0)
    moved = query(first)
    moved.version = query(second).version
    moved.answer(b"7", 1.003)
    expected = [0] * (len(LATENCY_BOUNDS_S) + 1)
    expected[LATENCY_BOUNDS_S.index(0.00025)] = 1
    assert first.answered == expected
    assert 199 <= first.answered_us <= 200
    assert (sum(second.answered), second.answered[LATENCY_BOUNDS_S.index(0.005)]) == (1, 1)
    assert sum(owner.counter.latency) == 4
