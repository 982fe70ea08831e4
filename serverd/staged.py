"""Queries under a rollout: which are in its cohort, and what they do beside being answered.

Nothing here is touched by the queries of a model without a rollout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from clipperfs.cohort import Cohort
from clipperfs.wire import Packed

from .compare import Comparison
from .counters import AppCounter
from .pending import BatchReply, Query, QueryOwner
from .query import batch_body, reply_head, version_of

if TYPE_CHECKING:
    from .exchange import Exchange
    from .routing import RolloutRoute
    from .served import ServedVersion

SHADOW_LIVE: Final = 256
"""Copies that a shadow may have at once in one frontend; further ones are dropped and counted."""
SHADOW_QUEUED_BYTES: Final = 16 * 1024 * 1024


class StagedRollout:
    """A rollout as one application's queries meet it."""

    __slots__ = ("candidate", "cohort", "copies", "is_shadow")

    def __init__(self, route: RolloutRoute, candidate: ServedVersion, owner: QueryOwner) -> None:
        self.candidate = candidate
        self.cohort = Cohort(route.salt, route.percent)
        self.is_shadow = route.kind == "shadow"
        self.copies = QueryOwner("a shadow", owner.slo_s, b"null", AppCounter(), None, owner.deadlines)
        """Owns a shadow's copies: nobody is told what becomes of them."""

    @property
    def has_room(self) -> bool:
        """Whether a shadow may be sent one more copy."""
        candidate = self.candidate
        return candidate.live < SHADOW_LIVE and candidate.queue.size_bytes < SHADOW_QUEUED_BYTES


class CanaryQuery(Query):
    """A query that the candidate answers; if it cannot, the active version does."""

    __slots__ = ()

    is_canary: ClassVar[bool] = True
    may_lead: ClassVar[bool] = False


class ComparedQuery(Query):
    """A query whose output is compared with another's."""

    __slots__ = ("comparison",)

    may_lead: ClassVar[bool] = False

    def __init__(
        self,
        owner: QueryOwner,
        version: ServedVersion,
        packed: Packed,
        number: int,
        arrived: float,
        deadline: float,
        sink: Exchange | BatchReply,
        index: int,
        comparison: Comparison,
    ) -> None:
        super().__init__(owner, version, packed, number, arrived, deadline, sink, index)
        self.comparison = comparison


class ShadowedQuery(ComparedQuery):
    """A query that the active version answers as always, and whose output is then compared."""

    __slots__ = ()

    def answer(self, output: bytes, now: float) -> None:
        """Give the prediction first, then see to the comparison."""
        super().answer(output, now)
        self.comparison.take(output)


class ShadowCopy(ComparedQuery):
    """The copy of a query that goes to the candidate: it is answered to nobody."""

    __slots__ = ()

    @property
    def is_gone(self) -> bool:
        """Say no: a copy has no client that could leave."""
        return False

    def answer(self, output: bytes, now: float) -> None:
        """Compare."""
        self.is_done = True
        self.comparison.take(output)

    def fall_back(self, reason: str, explanation: str, now: float) -> None:
        """Let it go: the version's counter knows of it."""
        self.is_done = True


class StagedBatchReply(BatchReply):
    """The reply to an ``input_batch`` under a canary: each answered element names its version, the head all of them."""

    __slots__ = ("_names",)

    def __init__(self, exchange: Exchange, count: int) -> None:
        super().__init__(exchange, count)
        self._names: set[str] = set()

    def fill(self, index: int, body: bytes, head: bytes | None) -> None:
        """Put the answer to one element."""
        if head is not None:
            name = version_of(head)
            self._names.add(name)
            body = b'%b,"version":"%b"}' % (body[:-1], name.encode("ascii"))
        self._bodies[index] = body
        self._missing -= 1
        if self._missing == 0:
            reply = batch_body(self._bodies)
            named = reply_head(", ".join(sorted(self._names)) or None)
            self._exchange.send(b"%b%d\r\n\r\n%b" % (named, len(reply), reply))
