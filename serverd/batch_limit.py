"""How many queries go into a batch at most: the search for the size that answers most of them a second. Pure."""

from __future__ import annotations

from typing import Final

SLO_SHARE: Final = 0.4
"""The part of an application's SLO that predicting a batch may take: a query may wait for the batch before its own, and
its own behind another one at the replica."""
CROWDED_SHARE: Final = 0.52
"""The same while queries are refused, at most. Two such batches just fit into the SLO or just do not, which the queries
that come in time tell: what a larger batch answers more is worth some that are late where others have no answer at all.
"""
BASE_FACTOR: Final = 1.25
"""A batch may take so many times as long as a batch of one, whatever the SLO: where most of the cost does not depend on
the size, smaller batches would answer fewer queries and none of them sooner."""
CUT: Final = 0.9
"""What is left of the limit after batches that took too long. Source: Clipper (NSDI 2017), section 4.3.1."""
NEARLY: Final = 0.97
"""Of sizes that answer so nearly the same number of queries a second the largest is taken; and one that takes longer
than its budget only where it answers more than that."""
CHANGED: Final = 1.5
"""A size that takes so many times as long as before, or as short, has another cost now."""
MOST_RISEN: Final = 2
"""Batches in a row that may do so: they may have been held up."""
KNOWN_WEIGHT: Final = 0.25
"""The weight of one more batch in what its size costs."""
MOST_KNOWN: Final = 16
"""Sizes whose cost is remembered."""
LEAST_S: Final = 1e-9
LEAST_IN_TIME: Final = 0.01
STRIKES: Final = 2.5
FORGIVEN: Final = 31 / 32
"""A size that has been good is too large when more batches than this took too long; each that did not leaves this part
of the count, so that one in twenty is borne: Clipper's rule bears about ten divided by the limit."""
ROOM: Final = 0.5
"""The part of its budget up to which a full batch says that the cost has fallen: twice the size would fit."""
CALM_AT_ROOM: Final = 8
"""How many batches such a one counts for."""
LEAST_CALM: Final = 8
MOST_CALM: Final = 256
"""Full batches that pass before the next search, at first and at most."""
DEEP_CALM: Final = 64
"""A search after so many full batches goes on beyond a size that answers fewer queries a second: the end of the step
that it lies on may answer more."""


class SizeCosts:
    """What the last few sizes of full batches took, in seconds, smoothed."""

    __slots__ = ("_risen", "_took_s")

    def __init__(self) -> None:
        self._risen = 0
        """Batches in a row that took much longer than others of their size."""
        self._took_s: dict[int, float] = {}
        """The sizes seen last at the end."""

    def clear(self) -> None:
        """Forget all."""
        self._took_s.clear()

    def learn(self, rows: int, took_s: float) -> None:
        """Take in a batch."""
        before_s = self._took_s.pop(rows, 0.0)
        self._risen = self._risen + 1 if took_s > before_s * CHANGED > 0.0 else 0
        if self._risen > MOST_RISEN:  # and so has that of the others
            self._took_s.clear()
        elif took_s * CHANGED >= before_s > 0.0:  # else it has become cheaper
            took_s = before_s + (min(took_s, before_s * CHANGED) - before_s) * KNOWN_WEIGHT
        self._took_s[rows] = took_s
        if len(self._took_s) > MOST_KNOWN:
            del self._took_s[next(iter(self._took_s))]

    def took_s(self, rows: int) -> float:
        """Return how long batches of a size took; 0 when that is not known."""
        return self._took_s.get(rows, 0.0)

    def best(self, ceiling: int, budget_s: float, *, may_exceed: bool) -> int:
        """Return the size up to ``ceiling`` that answers most queries a second; 0 when none is known.

        Args:
            ceiling: The largest size.
            budget_s: How long a batch may take.
            may_exceed: Whether it may take longer where it answers notably more.
        """
        most_rate = over_rate = best_rate = 0.0
        over = best = 0
        for rows, took_s in self._took_s.items():
            if rows <= ceiling:
                rate = rows / max(took_s, LEAST_S)
                if took_s <= budget_s:
                    most_rate = max(most_rate, rate)
                elif may_exceed and rate > over_rate:
                    over, over_rate = rows, rate
        for rows, took_s in self._took_s.items():
            rate = rows / max(took_s, LEAST_S)
            if best < rows <= ceiling and took_s <= budget_s and rate >= NEARLY * most_rate:
                best, best_rate = rows, rate
        return over if NEARLY * over_rate > best_rate else best

    def is_beaten(self, rows: int, budget_s: float) -> bool:
        """Return whether a size that meets the budget answers more queries a second."""
        rate = rows / max(self.took_s(rows), LEAST_S)
        return any(other > rate * took_s for other, took_s in self._took_s.items() if took_s <= budget_s)

    def cut(self, limit: int) -> int:
        """Return what to cut a limit to whose batches take too long too often; forgets what is larger.

        That is nine tenths; or another size that is quicker and answers more queries a second than nine tenths would if
        they took no less time, as where the cost rises in steps; or the limit itself where no size is quicker.
        """
        before_s = max(self.took_s(limit), LEAST_S)
        best = max(1, int(limit * CUT))
        rate = best / before_s
        is_flat = best == limit
        is_less = False
        for rows, took_s in self._took_s.items():
            if rows < limit and took_s <= before_s * CUT:
                is_less = True
                if rows > rate * took_s:
                    best, rate = rows, rows / max(took_s, LEAST_S)
            elif rows <= limit * CUT:
                is_flat = True
        if is_flat and not is_less:
            best = limit
        for rows in [rows for rows in self._took_s if rows > best]:
            del self._took_s[rows]
        return best


class BatchLimit:
    """The largest batch that is sent: a search for the size that answers most queries a second and meets the budget.

    From its start it grows by 1, 2, 4, … a full batch, up to the first that takes too long. It goes back to what has
    been good, and halves the gap with each full batch until the two sizes are neighbours. Of all sizes that it has come
    by, it then rests at the one with the most queries for a second of predicting: where the cost rises in steps, a few
    queries beyond a step cost as much as a whole one. After a while it grows from there again, and rests longer each
    time that leads nowhere: what lies beyond would else be paid for again and again.

    A size that has been good is given up when a third batch takes too long soon after two others, for a smaller one
    that is known to be worth it, or else nine tenths; two in a row that say the cost has risen cut it to what would
    have met the budget in proportion. Batches that were out together lower it once.

    Source: Clipper (NSDI 2017), section 4.3.1, for the additive increase and the cut; the search for a bound that is
    not known is that of Bentley and Yao, "An almost optimal algorithm for unbounded searching", IPL 5(3), 1976.
    """

    __slots__ = (
        "_calm", "_costs", "_faults_in_row", "_good", "_hold", "_is_deep", "_is_jump", "_rested", "_step", "_strikes",
        "_too_many", "ceiling", "fixed", "has_ended", "limit", "lowered_at",
    )  # fmt: skip

    def __init__(self, ceiling: int, fixed: int | None = None) -> None:
        self.lowered_at = float("-inf")
        self.has_ended = False
        self.limit = 1
        self._costs = SizeCosts()
        """Of batches within their budget their time, of longer ones that over the part of their queries in time."""
        self._faults_in_row = 0
        self._strikes = 0.0
        """Batches of a good size that took too long nevertheless, fading."""
        self._good = 0
        """The largest batch of this search that met its budget."""
        self._too_many = 0
        """The smallest batch that did not; 0: none is known."""
        self._step = 1
        self._calm = LEAST_CALM
        """Full batches to let pass before the next search."""
        self._hold = 0
        """How many of them are left; 0 while it searches."""
        self._rested = 0
        """Where it rested before this search; 0: it is the first."""
        self._is_deep = True
        """Whether this search goes on beyond a size that answers fewer queries a second."""
        self._is_jump = False
        """Whether the next search begins where the budget would be reached in proportion."""
        self.set_bounds(ceiling, fixed)

    @property
    def is_growing(self) -> bool:
        """Whether it is still looking for the first batch that takes too long."""
        return not self.has_ended and self.fixed is None and self.limit < self.ceiling

    def set_bounds(self, ceiling: int, fixed: int | None = None) -> None:
        """Change what the limit never exceeds, or the size that it always has."""
        self.ceiling = max(1, ceiling)
        self.fixed = fixed
        self.limit = min(self.limit if fixed is None else fixed, self.ceiling)

    def start(self, rows: int) -> None:
        """Go on from a size that should meet the budget; nothing that was learned about sizes counts any more."""
        if self.fixed is None:
            self.limit = self._step = max(1, min(rows, self.ceiling))
            self.has_ended = False
            self._costs.clear()
            self._good = self._too_many = self._faults_in_row = self._hold = self._rested = 0
            self._calm = LEAST_CALM
            self._strikes = 0.0
            self._is_deep = True
            self._is_jump = False

    def look_again(self) -> None:
        """Search soon, since more time may be taken now than when it came to rest."""
        self._hold = min(self._hold, 1)
        self._calm = LEAST_CALM
        self._is_jump = True

    def keep_within(self, now: float, budget_s: float) -> None:
        """Go back to a size that meets its budget, since no more time may be taken now."""
        if self.fixed is None:
            self._rest(now, budget_s, may_exceed=False)
            self._is_jump = False

    def observe(
        self,
        size: int,
        sent_at: float,
        now: float,
        predict_s: float,
        budget_s: float,
        most_s: float = 0.0,
        in_time: float = 1.0,
    ) -> None:
        """Learn from a batch that came back.

        Args:
            size: The number of queries in it.
            sent_at: When it was sent, in seconds.
            now: The same clock now.
            predict_s: How long predicting it took. Not the whole time until its outputs came: when this process lags
                behind its clients, smaller batches would only make it worse.
            budget_s: How long predicting may take.
            most_s: How long it may take where that answers notably more queries a second in time, if that is more.
            in_time: The part of the queries of such a batch that still had time when it came back.
        """
        if self.fixed is not None or sent_at < self.lowered_at:
            return
        most_s = max(budget_s, most_s)
        if predict_s > most_s:
            self._lower(size, now, predict_s, most_s)
            return
        self._faults_in_row = 0
        self._strikes *= FORGIVEN
        if size < self.limit:
            return
        is_over = predict_s > budget_s
        # Within its budget, what comes late is not the size's fault.
        self._costs.learn(size, predict_s / max(in_time, LEAST_IN_TIME) if is_over else predict_s)
        if self._hold > 0:
            if is_over and in_time < 1.0 and size == self.limit and self._costs.is_beaten(size, budget_s):
                self._rest(now, budget_s, may_exceed=most_s > budget_s)
                return
            # Twice the size would fit, though less than that has been too long: the cost has fallen.
            has_room = predict_s <= ROOM * budget_s and size < self._too_many <= 2 * size
            self._hold -= CALM_AT_ROOM if has_room else 1
            if self._hold > 0:
                return
            self._hold = self._too_many = 0
            self._rested = size
            self._is_deep = self._is_jump or self._calm >= DEEP_CALM
            self._step = max(1, int(size * most_s / predict_s) - size) if self._is_jump and predict_s > 0.0 else 1
        self._good = size
        gap = self._too_many - size
        rested_s = self._costs.took_s(self._rested)
        gain = 1 / NEARLY if is_over and rested_s <= budget_s else NEARLY
        pays_less = size * rested_s < gain * self._rested * predict_s
        if gap == 1 or size >= self.ceiling or (pays_less and not self._is_deep):
            self._rest(now, budget_s, may_exceed=most_s > budget_s)
        elif gap > 1:
            self._move(size + gap // 2, now)
        else:
            step = self._step
            if self._rested and predict_s > 0.0:  # not far beyond what the budget lets hope for
                step = min(step, max(1, int(2 * size * (most_s / predict_s - 1.0))))
            self._move(size + step, now)
            self._step = 1 if self._is_jump else min(2 * step, self.limit)
            self._is_jump = False

    def _move(self, limit: int, now: float) -> None:
        limit = max(1, min(limit, self.ceiling))
        if limit < self.limit:
            self.lowered_at = now
        self.limit = limit

    def _rest(self, now: float, budget_s: float, *, may_exceed: bool) -> None:
        """End a search, at the size where most queries are answered a second."""
        best = self._costs.best(self.ceiling, budget_s, may_exceed=may_exceed) or self.limit
        self._calm = min(2 * self._calm, MOST_CALM) if best == self._rested else LEAST_CALM
        if self._costs.took_s(best) > budget_s:  # one more that does not fit would make the batches after it late too
            self._calm = max(self._calm, DEEP_CALM)
        self._hold = self._calm
        self._too_many = max(self._too_many, best + 1)
        self._good = best
        self.has_ended = True
        self._move(best, now)

    def _lower(self, size: int, now: float, predict_s: float, most_s: float) -> None:
        """Take in that a batch took too long."""
        self._faults_in_row += 1
        fitting = int(size * most_s / predict_s)  # that many would not have, had each cost the same
        if self._hold <= 0 and size > self._good and (size >= self.limit or self._good):
            limit = max(self._good, size // 2 if self._faults_in_row == 1 else min(size // 2, fitting))
            if self._rested and predict_s <= most_s * CHANGED:
                self._faults_in_row = 0  # that was to be expected some time
        else:
            # One that is late where others were not was held up by something else: that says nothing of its size.
            self._strikes += 1.0
            if self._faults_in_row == 1 and (self._strikes < STRIKES or size < self.limit):
                return
            before_s = self._costs.took_s(self.limit) or self._costs.took_s(self._good)
            self._good = self._hold = 0
            if self._faults_in_row > 1 and predict_s > before_s * CHANGED:
                self._costs.clear()
                self._calm = LEAST_CALM
                limit = min(int(self.limit * CUT), fitting)
            else:
                if not self._costs.took_s(self.limit):
                    self._costs.learn(self.limit, predict_s)
                limit = self._costs.cut(self.limit)
                if self._costs.took_s(limit):
                    self._good = limit
                    self._hold = self._calm
        self._too_many = max(size, self.limit)
        self._strikes = 0.0
        self._step = 1
        self.has_ended = True
        self.limit = max(1, limit)
        self.lowered_at = now
