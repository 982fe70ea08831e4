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

    __slots__ = (
        "_covariance",
        "_rows",
        "_seconds",
        "_steepness",
        "_variance",
        "base_s",
        "batches",
        "is_shaped",
        "margin",
        "most_rows",
        "row_s",
    )

    def __init__(self) -> None:
        self.batches = 0
        self.margin = FIRST_MARGIN
        self.most_rows = 0
        self.is_shaped = False
        """Whether batches have been of sizes so different that the middle line is no guess."""
        self.base_s = 0.0
        self.row_s = 0.0
        """The middle line: what a batch takes at all, which noise may put below 0, and what each query adds."""
        self._rows = 0.0
        self._seconds = 0.0
        self._variance = 0.0
        self._covariance = 0.0
        self._steepness = 1.0
        """What one more query costs at the mean, as a multiple of what a query costs there: 0 for a constant cost."""

    def observe(self, rows: int, predict_s: float) -> None:
        """Learn from a batch that came back."""
        batches = self.batches = self.batches + 1
        if batches > 2:
            # Its place is judged by the line before it: a batch must not vouch for itself.
            if predict_s > self.margin * (self.base_s + self.row_s * rows):
                self.margin = min(MOST_MARGIN, self.margin + MARGIN_STEP * QUANTILE)
            else:
                self.margin = max(1.0, self.margin - MARGIN_STEP * (1 - QUANTILE))
        if rows > self.most_rows:
            self.most_rows = rows
        weight = 1 / batches if batches < MEMORY else 1 / MEMORY
        more_rows = rows - self._rows
        more_s = predict_s - self._seconds
        mean_rows = self._rows = self._rows + weight * more_rows
        mean_s = self._seconds = self._seconds + weight * more_s
        part = weight * more_rows
        self._variance = (1 - weight) * (self._variance + part * more_rows)
        self._covariance = (1 - weight) * (self._covariance + part * more_s)
        if mean_s > 0.0:
            doubt = SPREAD_NEEDED * mean_rows * SPREAD_NEEDED * mean_rows
            if self._variance > doubt:
                self.is_shaped = True
            found = self._covariance * mean_rows / mean_s + doubt * self._steepness
            steepness = found / (self._variance + doubt)
            self._steepness = steepness = 0.0 if steepness < 0.0 else min(MOST_STEEP, steepness)
            self.row_s = steepness * mean_s / mean_rows
            self.base_s = mean_s - self.row_s * mean_rows

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
        found = self.base_s + self.row_s * rows
        return found if found > 0.0 else 0.0

    def largest_within(self, budget_s: float) -> int:
        """Return the largest batch that meets a budget by the upper line.

        At least 1, which is also the answer while nothing is known, and at most the largest batch seen.
        """
        left_s = budget_s / self.margin - self.base_s
        if self.row_s * self.most_rows <= left_s:
            return max(1, self.most_rows)
        return max(1, int(left_s / self.row_s)) if self.row_s > 0.0 else 1
