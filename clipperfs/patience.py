"""Whether a process should look for what comes next for a moment before it goes to sleep. Pure."""

from __future__ import annotations

from typing import Final

MOST_CREDIT: Final = 8
COST: Final = 2
"""Looking in vain costs the credit of so many times when it found something: it must do so in two of three."""
TRY_AGAIN: Final = 16
"""Without credit one in so many waits is tried all the same: the load may have changed."""


class Patience:
    """Remembers whether looking has been worth it.

    To be woken takes 60 to 150 µs on a virtual machine (measured). Who is called again and again sleeps for less time
    than that. Who is called now and then spends next to nothing on looking: with 0.3 ms for a batch each 10 ms less
    than 0.2 % of a core.
    """

    __slots__ = ("_credit", "_waits")

    def __init__(self) -> None:
        self._credit = 0
        self._waits = 0

    def should_look(self) -> bool:
        """Return whether to look before this wait. Tell what came of it by ``note``."""
        if self._credit:
            return True
        self._waits += 1
        return self._waits % TRY_AGAIN == 0

    def note(self, found: bool) -> None:
        """Take in whether a batch came while it was looked for."""
        self._credit = min(MOST_CREDIT, self._credit + 1) if found else max(0, self._credit - COST)
