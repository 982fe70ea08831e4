"""A query that has its answer lets go of its input, though it stays in its deadline lane."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from clipperfs.serverd.counters import AppCounter
from clipperfs.serverd.pending import DeadlineLanes, Query, QueryOwner
from clipperfs.serverd.query import reply_head


def test_answered_query_keeps_no_input_until_its_deadline() -> None:
    sent: list[bytes] = []
    sink: Any = SimpleNamespace(send=sent.append, connection=object())
    version: Any = SimpleNamespace(reply_head=reply_head("1"))
    lane = DeadlineLanes().lane(60.0)
    owner = QueryOwner("a", 60.0, b"0", AppCounter(), None, lane)
    query = Query(owner, version, b"x" * 100_000, 1, 0.0, 60.0, sink, -1)
    lane.append(query)
    query.answer(b"7", 0.1)
    assert sent[0].endswith(b'"output":7,"default":false}')
    assert len(query.packed) == 0
