"""What one application may ask of one frontend: queries at a time, and queries a second (a token bucket). Pure."""

from __future__ import annotations

from typing import Final

BURST_S: Final = 1.0
"""Queries of so long a time may come at once after a pause."""


class AppLimiter:
    """Admits queries while the application keeps within its limits; ``in_flight`` is counted down by its queries."""

    __slots__ = ("_at", "_tokens", "in_flight", "max_concurrent", "max_rate")

    def __init__(self, now: float) -> None:
        self.in_flight = 0
        self.max_concurrent: int | None = None
        self.max_rate: float | None = None
        self._tokens = 0.0
        self._at = now

    def set_limits(self, max_concurrent: int | None, max_rate: float | None) -> None:
        """Change the limits. ``max_rate`` is in queries a second; ``None``: no limit."""
        if max_rate is not None and self.max_rate is None:
            self._tokens = max(1.0, max_rate * BURST_S)
        self.max_concurrent = max_concurrent
        self.max_rate = max_rate

    def admit(self, now: float) -> bool:
        """Count a query in. False: it is over a limit and does not count."""
        if self.max_concurrent is not None and self.in_flight >= self.max_concurrent:
            return False
        if self.max_rate is not None:
            self._tokens = min(max(1.0, self.max_rate * BURST_S), self._tokens + (now - self._at) * self.max_rate)
            self._at = now
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
        self.in_flight += 1
        return True
