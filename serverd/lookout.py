"""Whether a frontend's loop looks for what replicas answer for a moment before it goes to sleep."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sized
from time import monotonic
from typing import Final

from clipperfs.patience import Patience

LOOK_S: Final = 0.0001
"""How long after a batch. A no-op's replica that is awake answers within half of it. One that sleeps takes longer, and
is soon not looked for any more: else 1,000 queries a second, one by one, would cost a tenth of a core."""


class Lookout:
    """Keeps the loop awake while answers are likely to come sooner than it could be woken.

    Args:
        loop: the loop.
        out: the batches that are out. Without any there is nothing to look for.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, out: Sized) -> None:
        self._loop = loop
        self._out = out
        self._patience = Patience()
        self._may_look = len(os.sched_getaffinity(0)) > 1
        """Not on a single core: it would be taken from the replicas that are to answer."""
        self._is_looking = False
        self._has_found = False
        self._until = 0.0

    def sent(self, now: float) -> None:
        """Look for the outputs of a batch that has gone out, where that is likely to spare a sleep."""
        if self._is_looking:
            self._until = now + LOOK_S
        elif self._may_look and self._patience.should_look():
            self._is_looking, self._has_found = True, False
            self._until = now + LOOK_S
            self._loop.call_soon(self._look)

    def heard(self) -> None:
        """Take note that a batch has come back."""
        self._has_found = True

    def _look(self) -> None:
        """Have the loop take one more turn without a sleep. Others may have the core meanwhile."""
        if self._out and monotonic() < self._until:
            os.sched_yield()
            self._loop.call_soon(self._look)
            return
        self._is_looking = False
        self._patience.note(self._has_found)
