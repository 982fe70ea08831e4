"""Which versions are to be looked at when this turn of the loop ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .served import ServedVersion


class Agenda:
    """Gathers versions for which something has changed. A version is on it once: its ``is_dirty`` says so.

    Args:
        loop: the loop whose turns count.
        on_turn_end: called at the end of a turn in which a version was marked; is to ``take`` what there is.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_turn_end: Callable[[], None]) -> None:
        self._loop = loop
        self._on_turn_end = on_turn_end
        self._dirty: list[ServedVersion] = []

    def mark(self, version: ServedVersion) -> None:
        """Look at a version at the end of this turn of the loop, so that all that was read in it goes together."""
        version.is_dirty = True
        self._dirty.append(version)
        if len(self._dirty) == 1:
            self._loop.call_soon(self._on_turn_end)

    def take(self) -> list[ServedVersion]:
        """Return what has been marked. The next turn begins with nothing."""
        dirty, self._dirty = self._dirty, []
        return dirty
