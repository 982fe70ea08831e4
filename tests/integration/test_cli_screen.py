"""A live view ends at q and at Ctrl-C, and gives the terminal back."""

from __future__ import annotations

import signal
import sys

import pytest

from clipperfs.cli.screen import ENTER, LEAVE
from tests.integration.terminal import run_in_terminal

VIEW = """
from clipperfs.cli.screen import open_screen
with open_screen() as screen:
    for number in range(600):
        screen.draw(f"drawn {number}\\n" + "wide " * 40)
        if screen.wait(0.05):
            break
print("left")
"""


@pytest.mark.parametrize(("key", "code"), [(b"q", 0), (b"xQ", 0), (b"\x03", -signal.SIGINT)])
def test_view_ends_at_q_or_ctrl_c_and_gives_the_terminal_back(key: bytes, code: int) -> None:
    with run_in_terminal([sys.executable, "-c", VIEW], rows=10, columns=30) as terminal:
        shown = terminal.read_until(b"drawn 2")
        assert ENTER.encode() in shown
        assert b"wide wide wide wide wide wide wide" not in shown, "a line is wrapped"
        terminal.press(key)
        terminal.read_until(LEAVE.encode())
        assert terminal.process.wait(10) == code


def test_other_keys_do_not_end_a_view() -> None:
    with run_in_terminal([sys.executable, "-c", VIEW]) as terminal:
        terminal.press(b"x\x1b[A")
        terminal.read_until(b"drawn 9")
        assert terminal.process.poll() is None
        terminal.press(b"q")
        assert terminal.process.wait(10) == 0
