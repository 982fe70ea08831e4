"""A view that is drawn again and again in one terminal, until its reader presses q."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import Any

ENTER = "\x1b[?1049h\x1b[?25l"
LEAVE = "\x1b[?25h\x1b[?1049l"
"""The terminal's other page, without a cursor; and back, so that what was there before is there again."""


def fit(text: str, columns: int, lines: int) -> str:
    """Return what of a text fits into a terminal: lines that are cut end in …, and the last says how many are left."""
    rows = [row if len(row) <= columns else row[: max(0, columns - 1)] + "…" for row in text.split("\n")]
    if len(rows) > lines:
        left = len(rows) - lines + 1
        rows = [*rows[: lines - 1], f"… {left} more lines"[:columns]]
    return "\n".join(rows)


class Screen:
    """The terminal of standard output while a view is shown in it. Use :func:`open_screen`."""

    def __init__(self, keys: int | None) -> None:
        self._keys = keys

    def draw(self, text: str) -> None:
        """Show a text in place of the one before, without flicker: lines are written over."""
        rows = fit(text, *_size()).split("\n")
        sys.stdout.write("\x1b[H" + "\x1b[K\r\n".join(rows) + "\x1b[K\x1b[J")
        sys.stdout.flush()

    def wait(self, seconds: float) -> bool:
        """Wait, and return whether the reader has asked to leave meanwhile."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            if self._keys is None:
                time.sleep(left_s)
                continue
            if select.select([self._keys], [], [], left_s)[0]:
                pressed = os.read(self._keys, 64)
                if not pressed:
                    self._keys = None  # whoever typed is gone
                elif b"q" in pressed.lower():
                    return True
        return False


@contextlib.contextmanager
def open_screen() -> Iterator[Screen]:
    """Take the terminal for a view, and give it back as it was, however the block ends."""
    keys, before = _read_keys()
    sys.stdout.write(ENTER)
    sys.stdout.flush()
    try:
        yield Screen(keys)
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
        if keys is not None:
            import termios

            termios.tcsetattr(keys, termios.TCSADRAIN, before)


def _size() -> tuple[int, int]:
    """Return the terminal's columns and lines now: a COLUMNS in the environment does not grow with its window."""
    try:
        columns, lines = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return 80, 24
    return columns or 80, lines or 24


def _read_keys() -> tuple[int | None, Any]:
    """Have keys arrive one by one and unseen. Returns where, and the settings before; None where there are no keys."""
    try:
        import termios
        import tty

        keys = sys.stdin.fileno()
        before = termios.tcgetattr(keys)
        tty.setcbreak(keys)
    except (ImportError, AttributeError, OSError, ValueError, termios.error):
        return None, None
    return keys, before
