"""Whose turn it is at a poll over a network: a few models whose versions are listed, a few copies that are looked at.

Every question costs a request there, so a poll asks a bounded number of them, whatever the registry holds. Pure: the
time is given, nothing is read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection

MODELS_AT_ONCE = 4
"""So many models' versions are listed at a poll, in turn: one request each."""
COPIES_AT_ONCE = 4
"""So many copies are looked at, those that have been due for longest first: a listing, and a read of the manifest."""
PATIENCE = 8
"""A copy that goes on arriving is looked at again after an eighth of the time for which it is known."""

Copy = tuple[str, str]
"""Model and version."""


class Rota:
    """Remembers whose turn was last, and when each copy is due."""

    def __init__(self) -> None:
        self._last_model = ""
        self._due: dict[Copy, float] = {}

    def next_models(self, models: Collection[str]) -> list[str]:
        """Return the models whose turn it is: in order of their names, from where the last turn ended."""
        names = sorted(models)
        start = bisect_right(names, self._last_model)
        chosen = [*names[start:], *names[:start]][:MODELS_AT_ONCE]
        if chosen:
            self._last_model = chosen[-1]
        return chosen

    def knows(self, copy: Copy) -> bool:
        """Say whether a copy is on the list, due or not."""
        return copy in self._due

    def plan(self, copy: Copy, at_s: float) -> None:
        """Have a copy looked at as soon as it is ``at_s``."""
        self._due[copy] = at_s

    def hasten(self, copy: Copy, at_s: float) -> None:
        """Have a copy looked at when it is ``at_s``, unless it is due before."""
        self._due[copy] = min(self._due.get(copy, at_s), at_s)

    def drop(self, copy: Copy) -> None:
        """Take a copy off the list. Idempotent."""
        self._due.pop(copy, None)

    def due_copies(self, now_s: float) -> list[Copy]:
        """Return the copies to look at now. They stay on the list until they are planned anew or dropped."""
        due = sorted((at_s, copy) for copy, at_s in self._due.items() if at_s <= now_s)
        return [copy for _, copy in due[:COPIES_AT_ONCE]]


def next_look_s(
    *, now_s: float, first_s: float, since_s: float, settle_s: float, quiet_s: float | None, is_settling: bool
) -> float:
    """Return when to look again at a copy that is not adopted yet.

    Args:
        now_s: the present.
        first_s: since when the copy is known.
        since_s: since when it has not changed.
        settle_s: for how long a copy that looks complete must be unchanged.
        quiet_s: for how long one must be that goes by quiescence; ``None``: it does not.
        is_settling: whether time alone is missing, as long as nothing changes.
    """
    if is_settling:
        return max(since_s + settle_s, now_s)
    if quiet_s is not None:
        step_s = max(settle_s, quiet_s / 4)
        return min(max(since_s + max(quiet_s, settle_s), now_s), now_s + step_s)
    return now_s + max(settle_s, (now_s - first_s) / PATIENCE)
