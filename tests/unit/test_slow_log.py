"""The log of slow queries: stages, and the bound on how much it says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from clipperfs.serverd.slow import BURST, SlowLog


def query(arrived: float, *, is_done: bool = False) -> Any:
    owner, version = SimpleNamespace(app="a"), SimpleNamespace(model="m", name="1")
    return SimpleNamespace(owner=owner, version=version, number=7, arrived=arrived, packed=b"12345678", is_done=is_done)


def batch(sent_at: float, *queries: Any) -> Any:
    return SimpleNamespace(sent_at=sent_at, queries=list(queries))


def test_slow_queries_of_a_batch_are_told_with_their_stages() -> None:
    told: list[dict[str, Any]] = []
    log = SlowLog(0.1, told.append)
    log.note_batch(batch(10.05, query(9.9), query(10.04), query(9.0, is_done=True)), 10.07, 0.01)
    assert told == [
        {
            "app": "a", "model": "m", "version": "1", "outcome": "answered", "query_id": 7, "total_ms": 170.0,
            "queue_ms": 150.0, "replica_ms": 20.0, "predict_ms": 10.0, "batch": 3, "input_bytes": 8,
        }
    ]  # fmt: skip


def test_query_that_was_never_sent_spent_all_its_time_in_the_queue() -> None:
    told: list[dict[str, Any]] = []
    SlowLog(None, told.append).note_missed([query(1.0)], 1.5, [])
    assert (told[0]["outcome"], told[0]["queue_ms"], "replica_ms" in told[0]) == ("missed its SLO", 500.0, False)


def test_query_whose_batch_is_still_out_was_with_the_replica() -> None:
    told: list[dict[str, Any]] = []
    late = query(1.0)
    SlowLog(None, told.append).note_missed([late], 1.5, [batch(1.1, query(1.0), late)])
    assert (told[0]["queue_ms"], told[0]["replica_ms"]) == (100.0, 400.0)


def test_flood_is_told_of_in_part_and_counted() -> None:
    told: list[dict[str, Any]] = []
    log = SlowLog(None, told.append)
    log.note_missed([query(100.0) for _ in range(500)], 101.0, [])
    log.note_missed([query(100.0) for _ in range(500)], 101.0, [])
    assert len(told) == BURST
    log.note_missed([query(100.0)], 102.0, [])
    assert told[-1]["untold"] == 1000 - BURST
