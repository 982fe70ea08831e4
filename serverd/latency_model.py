"""How long a version's batches take by their size, as an upper line that is learned batch by batch. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MEMORY: Final = 32
"""About so many of the last batches count; older ones fade."""
QUANTILE: Final = 0.99
"""The share of batches that should stay under the upper line."""
FIRST_MARGIN: Final = 1.25
"""The upper line over the middle one before the spread is known."""
MARGIN_STEP: Final = 0.05
"""How much one batch moves the margin at most: an outlier is bounded, whatever its size."""
MOST_MARGIN: Final = 4.0
SPREAD_NEEDED: Final = 0.1
"""The spread of the sizes, as a share of their mean, from which on it is the data that say what one more query costs.
Batches of one size cannot tell; what was known before then holds, and before that the dearest guess: in proportion."""
MOST_STEEP: Final = 2.0
"""The steepest line that is believed: so many times as steep as one in proportion."""


class LatencyModel:
    """An upper line of the predict time by batch size, and the largest batch under it that meets a budget.

    The middle line is that of least squares with fading memory; the upper one is a multiple of it, which follows the
    quantile of the ratios by the sub-gradient of the pinball loss. A line for the quantile itself, as in the source,
    takes solving for it at every step; that of a location and a scale is some twenty additions a batch.

    Guarantees: constant time and memory a batch. It never names a size larger than one that it has seen.

    Source: Clipper (NSDI 2017), section 4.3.1 (quantile regression); Koenker and Bassett, "Regression quantiles",
    Econometrica 46(1), 1978 (the loss).
    """

    __slots__ = ("_covariance", "_rows", "_seconds", "_steepness", "_variance", "batches", "margin", "most_rows")

    def __init__(self) -> None:
        self.batches = 0
        self.margin = FIRST_MARGIN
        self.most_rows = 0
        self._rows = 0.0
        self._seconds = 0.0
        self._variance = 0.0
        self._covariance = 0.0
        self._steepness = 1.0
        """What one more query costs at the mean, as a multiple of what a query costs there: 0 for a constant cost."""

    def observe(self, rows: int, predict_s: float) -> None:
        """Learn from a batch that came back."""
        if self.batches >= 2:
            # Its place is judged by the line before it: a batch must not vouch for itself.
            is_over = predict_s > self.margin * self.middle_s(rows)
            moved = MARGIN_STEP * (QUANTILE if is_over else QUANTILE - 1)
            self.margin = min(MOST_MARGIN, max(1.0, self.margin + moved))
        if rows > self.most_rows:
            self.most_rows = rows
        self.batches += 1
        weight = 1 / self.batches if self.batches < MEMORY else 1 / MEMORY
        more_rows = rows - self._rows
        more_s = predict_s - self._seconds
        self._rows += weight * more_rows
        self._seconds += weight * more_s
        self._variance = (1 - weight) * (self._variance + weight * more_rows * more_rows)
        self._covariance = (1 - weight) * (self._covariance + weight * more_rows * more_s)
        if self._seconds > 0.0:
            doubt = (SPREAD_NEEDED * self._rows) ** 2
            found = self._covariance * self._rows / self._seconds + doubt * self._steepness
            self._steepness = min(MOST_STEEP, max(0.0, found / (self._variance + doubt)))

    def learn_warm_up(self, measured: Iterable[tuple[int, float]]) -> None:
        """Learn from the batches of a warm-up, (rows, seconds), in the order in which they were predicted.

        A first batch often pays for what happens once. More queries never take less time, so a smaller batch is held to
        have taken no longer than the larger ones did.
        """
        least_s = float("inf")
        for rows, predict_s in sorted(measured, reverse=True):
            least_s = min(least_s, predict_s)
            self.observe(rows, least_s)

    def middle_s(self, rows: int) -> float:
        """Return how long a batch of ``rows`` takes usually; 0 while nothing is known."""
        if not self.batches:
            return 0.0
        return max(0.0, self._seconds + self._slope() * (rows - self._rows))

    def largest_within(self, budget_s: float) -> int:
        """Return the largest batch that meets a budget by the upper line.

        At least 1, which is also the answer while nothing is known, and at most the largest batch seen.
        """
        left_s = budget_s / self.margin - self._seconds
        slope = self._slope()
        if slope * (self.most_rows - self._rows) <= left_s:
            return max(1, self.most_rows)
        return max(1, int(self._rows + left_s / slope)) if slope > 0.0 else 1

    def _slope(self) -> float:
        """Return what one more query costs."""
        return self._steepness * self._seconds / self._rows if self._rows > 0.0 else 0.0
