"""A warm spare: a replica process that has started and imported everything but a model, and waits for its spec.

It is used once, for one replica, and only while it is what a process started now would be (:func:`birthmark`).
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clipperfs.errors import LoadFailed
from clipperfs.replica.process import (
    ReplicaProcess,
    clean_environment,
    open_log,
    open_spec,
    start_host,
    told_as_load_failed,
)
from clipperfs.replica.spec import SPARE_IS_WARM, ReplicaSpec

_LIMITS = sorted(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))


@dataclass(frozen=True, slots=True)
class Birthmark:
    """What a process is born with and cannot change later."""

    environment: Mapping[str, str]
    """Numeric libraries read their number of threads when they are imported."""
    installed: tuple[int, ...]
    """When each folder that modules come from was last changed: a spare has the old modules in its memory."""
    limits: tuple[tuple[int, int], ...]
    """Soft and hard, of every resource: somebody may have lowered those of the daemon for what it starts."""


def birthmark(environment: Mapping[str, str], threads: int) -> Birthmark:
    """Return what a process started now would be born with. A package that comes or goes changes it."""
    return Birthmark(
        clean_environment(environment, threads),
        tuple(_changed_ns(path) for path in sys.path if path),
        tuple(resource.getrlimit(limit) for limit in _LIMITS),
    )


def _changed_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


class Spare:
    """One spare process, in the hands of whoever keeps it.

    Guarantees: nothing here blocks except :meth:`close`, for the instant that the kernel takes. It dies with the thread
    that made it, as a replica does. Not thread-safe.
    """

    def __init__(self, popen: subprocess.Popen[bytes], end: socket.socket, mark: Birthmark) -> None:
        self._popen = popen
        self._end = end
        self._mark = mark
        self.is_warm = False
        """It has imported everything; it can be used before, and is then a little slower."""

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the spare is warm, and when it has ended (:meth:`hear`)."""
        return self._end.fileno()

    def hear(self) -> bool:
        """Take what the spare says; return whether it still lives."""
        try:
            word = self._end.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.is_warm = self.is_warm or word == SPARE_IS_WARM
        return bool(word)

    def fits(self, mark: Birthmark) -> bool:
        """Say whether the spare is what a process with this birthmark would be."""
        return self._mark == mark

    def become(self, spec: ReplicaSpec, log_path: Path) -> ReplicaProcess | None:
        """Make the spare a replica; it is no spare any more. Returns ``None`` when it has died meanwhile.

        Raises:
            LoadFailed: there is no such folder, or no log can be written. The spare is then ended.
        """
        try:
            with told_as_load_failed(spec), contextlib.ExitStack() as opened:
                log = open_log(log_path, opened)
                folder = os.open(spec.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                opened.callback(os.close, folder)
                descriptors = [open_spec(spec, opened), log, folder]
                has_died = not self.hear()
                if not has_died:
                    try:
                        socket.send_fds(self._end, [b"s"], descriptors)
                    except (BrokenPipeError, ConnectionResetError):
                        has_died = True
        except LoadFailed:
            self.close()
            raise
        if has_died:
            self.close()
            return None
        self._end.close()
        return ReplicaProcess(self._popen, spec, log_path)

    def close(self) -> None:
        """End the spare. Idempotent."""
        self._end.close()
        self._popen.kill()
        self._popen.wait()


def start_spare(threads: int = 1) -> Spare:
    """Start a spare; return at once. Call it from a thread that stays: the spare dies with it.

    Raises:
        OSError: the process cannot be started.
    """
    mark = birthmark(os.environ, threads)
    mine, its = socket.socketpair()
    with its, open(os.devnull, "wb") as nothing:
        try:
            popen = start_host(its.fileno(), nothing.fileno(), "/", mark.environment)
        except BaseException:
            mine.close()
            raise
    mine.setblocking(False)
    return Spare(popen, mine, mark)
