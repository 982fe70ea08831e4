"""What loads gives way to what serves: its processes run behind all others until it has answered its warm-up.

Four means, each used where the kernel lets it be undone (``docs/decisions/easing_loads.md``): a long time slice with
the policy for batch work, always; the nice value of the process's session, where sessions share the processor as
groups; the nice value of each thread, where this process may lower it again; and there, for what nobody waits for, the
policy for idle work instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

NICE = 10
"""About a tenth of a busy core's time, so that a load gets on whatever else goes on."""
SLICE_NS = 100_000_000
"""The longest that the kernel takes: whoever wakes up has a nearer deadline, and runs at once."""
PASSES = 5
"""Threads that are born while their siblings are being restored are found by looking again."""
_CAP_SYS_NICE = 23
_SET_ATTR = {"x86_64": 314, "aarch64": 274}.get(platform.machine())
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    """``struct sched_attr`` of the kernel, in its first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def ease(pid: int, *, is_short: bool = False, can_wait: bool = False) -> None:
    """Have a process, and all that it will start, run behind others. Never fails.

    Args:
        is_short: what it has to do is over soon, so it only lets others go first, and gets a fair share of a full host.
        can_wait: nobody waits for it. To the kernel a core that runs only such work is free: others that share a core
            move there at once, which no nice value brings about. Undone by an ``ease`` without it, not by ``restore``.
    """
    nice = _own_nice()
    is_idle = can_wait and may_lower_nice(nice)
    for thread in _threads(pid):
        if not (is_idle and _set(thread, os.SCHED_IDLE, 0, nice)):
            _ease_thread(thread, nice, 0 if is_short else NICE)
    if not is_short and _session_nice(pid) == 0:
        with contextlib.suppress(OSError):
            _session(pid).write_text(str(NICE))


def restore(pid: int) -> bool:
    """Undo :func:`ease` for a process, its threads and its descendants.

    Returns whether it is done. The kernel takes a session's new nice value ten times a second only, from all of its
    users together; then this has to be called again. A process that has ended is done.
    """
    nice = _own_nice()
    for _ in range(PASSES):
        if not [thread for thread in _threads(pid) if _restore_thread(thread, nice)]:
            break
    if _session_nice(pid) == NICE:
        with contextlib.suppress(OSError):
            _session(pid).write_text("0")
        return _session_nice(pid) != NICE
    return True


@contextlib.contextmanager
def eased_thread() -> Iterator[None]:
    """Have the calling thread, and all that it starts, run behind others for as long as the block."""
    thread, nice = threading.get_native_id(), _own_nice()
    _ease_thread(thread, nice, NICE)
    try:
        yield
    finally:
        _restore_thread(thread, nice)


def may_lower_nice(nice: int) -> bool:
    """Say whether this process may bring a thread back to ``nice`` after that has been raised."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        effective = next(line for line in lines if line.startswith("CapEff:"))
        if int(effective.split()[1], 16) >> _CAP_SYS_NICE & 1:
            return True
    limit = resource.getrlimit(resource.RLIMIT_NICE)[0]
    return limit == resource.RLIM_INFINITY or limit >= 20 - nice  # getrlimit(2): the ceiling is 20 - limit


def _own_nice() -> int:
    """Return the nice value of the calling thread, which what it starts has inherited."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def _ease_thread(thread: int, nice: int, by: int) -> None:
    _set(thread, os.SCHED_BATCH, SLICE_NS, min(19, nice + by) if by and may_lower_nice(nice) else nice)


def _restore_thread(thread: int, nice: int) -> bool:
    """Put one thread back; return whether there was anything to do. A policy that it has chosen itself stays."""
    try:
        if os.sched_getscheduler(thread) != os.SCHED_BATCH:
            return False
    except OSError:
        return False
    return _set(thread, os.SCHED_OTHER, 0, nice)


def _set(thread: int, policy: int, slice_ns: int, nice: int) -> bool:
    """Set policy, slice and nice value of a thread. Not by sched_setscheduler(2), which would keep an old slice."""
    if _SET_ATTR is None:
        return False
    size = ctypes.sizeof(_Attributes)
    attributes = _Attributes(size, policy, 0, nice, 0, slice_ns, 0, 0)
    return bool(_LIBC.syscall(_SET_ATTR, thread, ctypes.byref(attributes), 0) == 0)


def _threads(pid: int) -> list[int]:
    """Return the threads of a process and of all its descendants."""
    found: list[int] = []
    queue = [pid]
    while queue:
        folder = Path(f"/proc/{queue.pop()}/task")
        with contextlib.suppress(OSError):
            for thread in folder.iterdir():
                found.append(int(thread.name))
                with contextlib.suppress(OSError):
                    queue += map(int, (thread / "children").read_text().split())
    return found


def _session(pid: int) -> Path:
    return Path(f"/proc/{pid}/autogroup")


def _session_nice(pid: int) -> int | None:
    """Return the nice value of a process's session, where sessions are groups (``CONFIG_SCHED_AUTOGROUP``)."""
    try:
        return int(_session(pid).read_text().rpartition("nice")[2])
    except (OSError, ValueError):
        return None
