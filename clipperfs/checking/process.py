"""The child process in which hooks run: started clean, killed with everything below it."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from clipperfs.replica.process import clean_environment

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_KILL_LIMIT_S = 5.0

STACKS_SIGNAL = signal.SIGUSR2
"""Makes the child write its stacks to its output."""


def start_child(module: str, stdin: bytes, *, protocol_fd: int, output_fd: int, folder: str) -> subprocess.Popen[bytes]:
    """Start ``python -m module`` in a session of its own.

    Args:
        module: What to run; it is told the number of ``protocol_fd`` and its parent's process id.
        stdin: What it reads.
        protocol_fd: Stays open in the child under the same number.
        output_fd: Becomes the child's standard output and error.
        folder: Its working and temporary folder.
    """
    # Temporary files go where the run clears up, and what is imported leaves no __pycache__ in the version's copy.
    steering = {"TMPDIR": folder, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    with open(os.memfd_create("clipperfs-check"), "w+b") as spec:  # a file: writing it never waits for the child
        spec.write(stdin)
        spec.seek(0)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(protocol_fd), str(os.getpid())],
            stdin=spec,
            stdout=output_fd,
            stderr=output_fd,
            pass_fds=(protocol_fd,),
            env=clean_environment(os.environ, threads=1) | steering,
            cwd=folder,
            start_new_session=True,
        )


def die_with_parent(parent_pid: int) -> None:
    """In a child: be killed when the thread that started this process ends; end at once if it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def adopt_orphans() -> None:
    """In a child: become the parent of grandchildren whose own parent ends, so that they can be found and killed."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def leave_no_core() -> None:
    """In a child: write no core dump, which would hold the model and its inputs."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def kill_tree(process: subprocess.Popen[bytes]) -> int:
    """Kill a child of ours, its process group and everything it started; return its exit status as Popen gives it.

    The child is stopped first, so that it starts nothing more while its descendants are looked up. It must have called
    :func:`adopt_orphans`, or those that outlived their parents are missed.
    """
    if process.returncode is None:
        _send(process.pid, signal.SIGSTOP)
        give_up = time.monotonic() + _KILL_LIMIT_S
        while (below := list(_descendants(process.pid))) and time.monotonic() < give_up:
            for pid in below:
                _send(pid, signal.SIGKILL)
            time.sleep(0.001)  # killed processes leave the table a moment later, and their children come to us
        # Before the child is waited for: until then its number, and that of its group, cannot be given to another.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        _send(process.pid, signal.SIGKILL)
    return process.wait()


def _descendants(root: int) -> Iterator[int]:
    """Yield the living processes below ``root``, nearest first."""
    children: dict[int, list[tuple[int, str]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := _parent_and_state(int(name))) is not None:
            children.setdefault(found[0], []).append((int(name), found[1]))
    layer = [root]
    while layer:
        found_below = [child for pid in layer for child in children.get(pid, [])]
        yield from (pid for pid, state in found_below if state not in "ZX")
        layer = [pid for pid, _ in found_below]


def _parent_and_state(pid: int) -> tuple[int, str] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[1]), fields[0].decode()


def _send(pid: int, signal_number: int) -> None:
    try:
        os.kill(pid, signal_number)
    except (ProcessLookupError, PermissionError):  # gone, or a program that has become another user
        pass


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
