"""Runs one server and keeps all its descendants within reach: ``python keeper.py COMMAND…``.

Some servers start daemons that leave their process group and their parent. As a subreaper this process inherits every
such orphan, so that its own tree is always the whole server: for counting processor time, and for ending it for sure.
When TERM comes, or the benchmark dies, or the server ends by itself, it ends everything below it and goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

GRACE_S = 10.0
"""What the server gets between TERM and KILL."""
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36


class _Ended(Exception):
    """TERM has come."""


def main() -> int:
    """Run the command; return its exit code."""
    libc = ctypes.CDLL(None)
    libc.prctl(_SET_CHILD_SUBREAPER, 1)
    libc.prctl(_SET_PDEATHSIG, signal.SIGTERM)

    def end(signum: int, frame: FrameType | None) -> None:
        raise _Ended

    signal.signal(signal.SIGTERM, end)
    server = None
    try:
        server = subprocess.Popen(sys.argv[1:], start_new_session=True)
        code = server.wait()
    except _Ended:
        code = 0
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if server is not None and server.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(GRACE_S)
    _kill_descendants()
    return code


def _kill_descendants() -> None:
    """Kill until nobody is left: what a killed process leaves behind becomes our own child."""
    while True:
        children = _children()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _children() -> list[int]:
    me = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split()]


if __name__ == "__main__":
    sys.exit(main())
