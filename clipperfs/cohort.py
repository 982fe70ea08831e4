"""Which queries a rollout concerns: a function of its salt, its share and a query's key, alike everywhere. Pure.

Source: ``registry_layout.md`` §8.17.
"""

from __future__ import annotations

import hashlib

from clipperfs.wire import Packed


class Cohort:
    """The keys that a rollout concerns.

    Guarantees: the same on every host; with the same salt a larger share holds every key of a smaller one.
    """

    __slots__ = ("_start", "_threshold")

    def __init__(self, salt: str, percent: float) -> None:
        """Draw the cohort.

        Args:
            salt: ASCII text.
            percent: from 0.01 to 100, at most two decimals.
        """
        self._start = hashlib.sha256(salt.encode("ascii") + b"\x00")
        # x * 10000 < h * 2**64 for integers, with the division done once
        self._threshold = -(-(hundredths(percent) << 64) // 10_000)

    def __contains__(self, key: Packed) -> bool:
        """Say whether a query with this key is in the cohort."""
        digest = self._start.copy()
        digest.update(key)
        return int.from_bytes(digest.digest()[:8], "big") < self._threshold


def hundredths(percent: float) -> int:
    """Return a percentage in hundredths of a percent."""
    return round(percent * 100)
