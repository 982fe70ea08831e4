"""What keeps the memory of a process that runs for months from creeping."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from typing import Final

M_ARENA_MAX: Final = -8
"""``malloc.h`` of glibc. Other C libraries have no ``mallopt``, or do not know it."""


def share_one_arena() -> None:
    """Have all threads allocate from one arena. Call it before there are any.

    glibc gives each thread an arena of its own, and each fills up with what others could use. Threads that hold the
    interpreter's lock while they allocate gain nothing by that.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def set_start_aside() -> None:
    """Take all that there is out of the cycle collector's sight. Call it when the process is ready for its work.

    A full collection comes when what is new is a quarter of what was there: of a large start a large quarter. Without
    it, it comes soon, and has little to look at.
    """
    gc.collect()
    gc.freeze()
