"""A program in a terminal of its own, whose keys a test presses and whose screen it reads."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence


class Terminal:
    """The other side of a program's terminal."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self._descriptor = descriptor
        self.process = process

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._descriptor, keys)

    def read_until(self, wanted: bytes, timeout_s: float = 30.0) -> bytes:
        """Return what the program writes until it has written this."""
        shown = b""
        give_up_s = time.monotonic() + timeout_s
        while wanted not in shown:
            assert time.monotonic() < give_up_s, f"no {wanted!r} in {shown!r}"
            if select.select([self._descriptor], [], [], 0.2)[0]:
                shown += os.read(self._descriptor, 65536)
        return shown


@contextlib.contextmanager
def run_in_terminal(
    command: Sequence[str], *, rows: int = 24, columns: int = 80, env: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """Run a program in a terminal of this size, which the program must leave as it was."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (rows, columns))
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=subprocess.STDOUT, env=env, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
    )  # fmt: skip
    try:
        yield Terminal(ours, process)
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
