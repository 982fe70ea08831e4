"""The process of a daemon, as the program that starts it sees it: its settings go in, what it tells comes out.

Whoever sees a daemon end that this program started reaps it, through whichever handle.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from clipperfs.admin import error_from_document
from clipperfs.daemon_files import LOG_FILE, is_locked
from clipperfs.errors import DaemonStartFailed, StorageError, TimedOut

SERVERD = "clipperfs.serverd"
LOG_TAIL_LINES = 15
LOG_LIMIT_BYTES = 32 * 1024 * 1024
KILL_AFTER_S = 10.0
"""How much longer than its drain a daemon may take to end before it is killed."""

Progress = Callable[[dict[str, Any]], None]

started: dict[int, subprocess.Popen[bytes]] = {}
"""Daemons that this program started, by process id."""


class Launch:
    """One start of a daemon's process, from its first moment until it says that it is ready, or why not.

    As a context manager it lets go of the descriptors; the process goes on.
    """

    def __init__(self, state_dir: Path, settings: dict[str, Any], inherited: Sequence[int] = ()) -> None:
        """Start the process.

        Args:
            state_dir: its log is there.
            settings: what it is told.
            inherited: descriptors that the settings name. They stay the caller's.

        Raises StorageError, DaemonStartFailed.
        """
        self.log_path = state_dir / LOG_FILE
        log, self._log_start = _open_log(state_dir)
        self._ready, tell = os.pipe()
        self._buffer = b""
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", SERVERD],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[tell, *inherited],
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._ready)
            raise DaemonStartFailed(f"the daemon's process cannot be started: {error}") from error
        finally:
            os.close(log)
            os.close(tell)
        started[self.process.pid] = self.process
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.process.stdin as stream:
            stream.write(json.dumps(settings | {"ready_fd": tell}).encode())

    def await_ready(self, wait_s: float | None, progress: Progress | None = None) -> dict[str, Any]:
        """Return its last word when it is ready.

        Raises:
            TimedOut: it was not ready in time; it goes on starting, and this may be called again.
            DaemonStartFailed: it ended before it was ready; the message has the end of its log.
            ClipperfsError: what kept it from starting.
        """
        give_up_s = None if wait_s is None else time.monotonic() + wait_s
        poller = select.poll()
        poller.register(self._ready, select.POLLIN)
        while True:
            left_ms = None if give_up_s is None else max(0.0, (give_up_s - time.monotonic()) * 1000)
            if not poller.poll(left_ms):
                raise TimedOut(
                    f"the daemon (pid {self.process.pid}) was not ready within {wait_s:g} s; it goes on starting",
                    hint="'clipperfs status' shows how far it is, 'clipperfs logs' why it takes long",
                    pid=self.process.pid,
                )
            data = os.read(self._ready, 65536)
            self._buffer += data
            *lines, self._buffer = self._buffer.split(b"\n")
            for line in lines:
                word: dict[str, Any] = json.loads(line)
                if word.get("state") == "ready":
                    return word
                if word.get("state") == "failed":
                    reap(self.process.pid)
                    raise error_from_document(word["error"], fallback="the daemon did not start")
                if progress is not None:
                    progress(word)
            if not data:
                reap(self.process.pid)
                code = self.process.returncode
                tail = self._log_tail()
                raise DaemonStartFailed(
                    f"the daemon ended before it was ready (exit code {code})" + (f":\n{tail}" if tail else ""),
                    hint=f"its log is {self.log_path}",
                    exit_code=code,
                )

    def __enter__(self) -> Launch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._ready)

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError), open(self.log_path, "rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 64 * 1024))
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:])
        return ""


def reap(pid: int) -> None:
    """Reap a daemon that has ended or is just ending, if this program started it."""
    process = started.pop(pid, None)
    if process is not None:
        try:
            process.wait(KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def reap_ended() -> None:
    """Reap every daemon that has ended since: one that was replaced ends when nobody looks."""
    for pid, process in list(started.items()):
        if process.poll() is not None:
            del started[pid]


def _open_log(state_dir: Path) -> tuple[int, int]:
    """Return a descriptor of the log, opened for appending, and its size."""
    log_path = state_dir / LOG_FILE
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if log_path.exists() and log_path.stat().st_size > LOG_LIMIT_BYTES and not is_locked(state_dir):
            os.replace(log_path, log_path.with_name(LOG_FILE + ".1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(log_path, flags, 0o600)
    except OSError as error:
        raise StorageError(
            f"the daemon's log {log_path} cannot be written: {error.strerror}",
            hint="choose another folder with --state-dir",
        ) from error
    return descriptor, os.fstat(descriptor).st_size
