"""The log of slow queries: which took long, and in which stage; a few a second at most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .pending import Query
    from .served import Batch

PER_SECOND: Final = 5.0
BURST: Final = 20.0

Tell = Callable[[dict[str, Any]], None]


class SlowLog:
    """Tells of queries that took longer than a limit, and of those that missed their SLO.

    The usual path pays one comparison a batch; with a limit, one more a query. What goes over the allowance is counted
    and told with the next one.

    Args:
        limit_s: a query that takes longer is told of; ``None``: only those that missed their SLO.
        tell: takes the facts of one query. Times in milliseconds.
    """

    __slots__ = ("_allowance", "_at", "_tell", "_untold", "limit_s")

    def __init__(self, limit_s: float | None, tell: Tell) -> None:
        self.limit_s = float("inf") if limit_s is None else limit_s
        self._tell = tell
        self._allowance = BURST
        self._at = 0.0
        self._untold = 0

    def note_batch(self, batch: Batch, now: float, predict_s: float) -> None:
        """Look through a batch that came back for queries that took too long. Call it when its oldest one did."""
        for query in batch.queries:
            if now - query.arrived > self.limit_s and not query.is_done:
                self._note(query, now, "answered", batch, predict_s)

    def note_missed(self, queries: Sequence[Query], now: float, out: Iterable[Batch]) -> None:
        """Note queries that missed their SLO: in the queue, or in one of the batches that are out."""
        if not self._has_room(now):
            self._untold += len(queries)
            return
        batches = {id(query): batch for batch in out for query in batch.queries}
        for query in queries:
            self._note(query, now, "missed its SLO", batches.get(id(query)), None)

    def _has_room(self, now: float) -> bool:
        self._allowance = min(BURST, self._allowance + (now - self._at) * PER_SECOND)
        self._at = now
        return self._allowance >= 1.0

    def _note(self, query: Query, now: float, outcome: str, batch: Batch | None, predict_s: float | None) -> None:
        if not self._has_room(now):
            self._untold += 1
            return
        self._allowance -= 1.0
        facts: dict[str, Any] = {
            "app": query.owner.app,
            "model": query.version.model,
            "version": query.version.name,
            "outcome": outcome,
            "query_id": query.number,
            "total_ms": _ms(now - query.arrived),
            "queue_ms": _ms((now if batch is None else batch.sent_at) - query.arrived),
            "input_bytes": len(query.packed),
        }
        if batch is not None:
            facts |= {"replica_ms": _ms(now - batch.sent_at), "batch": len(batch.queries)}
        if predict_s is not None:
            facts["predict_ms"] = _ms(predict_s)
        if self._untold:
            facts["untold"] = self._untold
            self._untold = 0
        self._tell(facts)


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 3)
