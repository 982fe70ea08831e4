"""When a batch counts as a straggler, by its version's own history, so that a second replica is asked as well. Pure.

Source: the rule is TCP's retransmission time-out (RFC 6298 §2); the budget is that of Dean and Barroso, "The tail at
scale", CACM 56(2), 2013.
"""

from __future__ import annotations

from typing import Final

BATCHES_KNOWN: Final = 16
"""Batches that a version must have answered before any is called late."""
DEVIATIONS: Final = 4
FLOOR_S: Final = 0.005
"""No batch is late before this: the scheduler alone makes some so."""
BATCHES_PER_HEDGE: Final = 20
"""At most one batch in so many goes out twice: when everything is slow, asking twice makes it slower."""
MEAN_SHARE: Final = 1 / 8
DEVIATION_SHARE: Final = 1 / 4
"""Weights of a new measurement."""


class Pace:
    """How long a version's batches take from being sent to their outputs."""

    __slots__ = ("allowance", "batches", "deviation_s", "mean_s")

    def __init__(self) -> None:
        self.mean_s = 0.0
        self.deviation_s = 0.0
        self.batches = 0
        self.allowance = 1.0
        """Batches that may go out a second time now."""

    def observe(self, latency_s: float) -> None:
        """Learn from a batch that came back."""
        if self.batches == 0:
            self.mean_s = latency_s
            self.deviation_s = latency_s / 2
        else:
            error_s = latency_s - self.mean_s
            self.deviation_s += (abs(error_s) - self.deviation_s) * DEVIATION_SHARE
            self.mean_s += error_s * MEAN_SHARE
        self.batches += 1
        self.allowance = min(self.allowance + 1 / BATCHES_PER_HEDGE, 4.0)

    @property
    def late_after_s(self) -> float:
        """How long a batch may be out before it is late; infinity while too little is known."""
        if self.batches < BATCHES_KNOWN:
            return float("inf")
        return max(FLOOR_S, self.mean_s + DEVIATIONS * self.deviation_s)

    def spend(self) -> bool:
        """Take one from the allowance. False: there is none."""
        if self.allowance < 1.0:
            return False
        self.allowance -= 1.0
        return True
