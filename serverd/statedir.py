"""A daemon's own folders: the lock that makes it the only one, what it restarts from, and where its sockets are."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from clipperfs import daemon_files
from clipperfs.daemon_files import DaemonDocument
from clipperfs.errors import DaemonAlreadyRunning, StorageDenied, StorageError, StorageFull

LOCK_ATTEMPTS_S = 0.3
"""Somebody who asks whether a daemon runs holds the lock for an instant."""


class StateDir:
    """The state folder of one daemon, held by a lock for as long as the process lives.

    While one daemon takes over from another, both hold the one lock (it belongs to the open file, which they share), so
    there is no moment without a holder, whoever dies. Only one of them writes: what the other writes is kept in memory
    until the folder is its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log_path = path / daemon_files.LOG_FILE
        self.replica_logs = path / "logs"
        self._lock: int | None = None
        self._is_ours = True
        self._kept: dict[str, bytes] = {}
        self._turn = threading.Lock()

    @property
    def is_ours(self) -> bool:
        """Say whether this daemon is the one that writes here."""
        return self._is_ours

    @property
    def lock(self) -> int:
        """Return the descriptor of the lock, to be shared with the daemon that takes over."""
        assert self._lock is not None
        return self._lock

    def acquire(self) -> None:
        """Create the folder if need be and take its lock.

        Raises:
            DaemonAlreadyRunning: another process holds it; names its pid and port where they are known.
            StorageError: the folder cannot be made or used.
        """
        with told_plainly("use", self.path):
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.replica_logs.mkdir(exist_ok=True, mode=0o700)
            lock = os.open(self.path / daemon_files.LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_up_s = time.monotonic() + LOCK_ATTEMPTS_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= give_up_s:
                    os.close(lock)
                    raise self._already_running() from None
                time.sleep(0.02)
        self._lock = lock
        with contextlib.suppress(OSError):
            (self.path / daemon_files.DAEMON_FILE).unlink(missing_ok=True)

    def join(self, lock: int) -> None:
        """Hold the lock together with the daemon that sent it; what is written is kept back until :meth:`take`."""
        self._lock = lock
        self._is_ours = False

    def take(self) -> None:
        """Have the folder as one's own: write what was kept back, and write at once from now on. Raises StorageError.

        The folder is this daemon's even if something cannot be written.
        """
        with self._turn:
            self._is_ours = True
            kept, self._kept = self._kept, {}
            for name, data in kept.items():
                self._write(name, data)

    def yield_up(self) -> None:
        """Leave the folder to another daemon: wait for what is being written, keep back what comes after it."""
        with self._turn:
            self._is_ours = False

    def release(self) -> None:
        """Let go of the lock. The end of the process does so too."""
        if self._lock is not None:
            if self._is_ours:
                with contextlib.suppress(OSError):
                    (self.path / daemon_files.DAEMON_FILE).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def trim_log(self, limit_bytes: int) -> None:
        """Empty this daemon's log when it has grown past ``limit_bytes``, keeping its last quarter as ``<log>.1``.

        Only if standard error goes there, appending: then writing simply goes on.
        """
        with contextlib.suppress(OSError):
            mine = os.fstat(2)
            found = os.stat(self.log_path)
            if (mine.st_dev, mine.st_ino) != (found.st_dev, found.st_ino) or found.st_size <= limit_bytes:
                return
            with open(self.log_path, "rb") as log:
                log.seek(-(limit_bytes // 4), os.SEEK_END)
                tail = log.read()
            self.log_path.with_name(self.log_path.name + ".1").write_bytes(tail)
            os.truncate(self.log_path, 0)

    def write_daemon(self, document: DaemonDocument) -> None:
        """Write ``daemon.json``. Raises StorageError."""
        self.write(daemon_files.DAEMON_FILE, document.to_bytes())

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or ``None`` when it is absent. Raises StorageError."""
        with told_plainly("read", self.path / name):
            try:
                return (self.path / name).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file durably in one step: readers, and a restart after a crash, see the old content or the new.

        Raises StorageError, StorageFull, StorageDenied.
        """
        with self._turn:
            if self._is_ours:
                self._write(name, data)
            else:
                self._kept[name] = data

    def _write(self, name: str, data: bytes) -> None:
        target = self.path / name
        partial = self.path / f".{name}.new"
        with told_plainly("write", target):
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, target)
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _already_running(self) -> DaemonAlreadyRunning:
        other = daemon_files.read_daemon(self.path)
        who = f"pid {other.pid}, port {other.port}" if other else "it is just starting or stopping"
        fields = {"pid": other.pid, "port": other.port} if other else {}
        return DaemonAlreadyRunning(
            f"a daemon already runs with {self.path} ({who})",
            hint="'clipperfs status' shows it; 'clipperfs stop' ends it; --state-dir gives another one its own folder",
            state_dir=str(self.path),
            **fields,
        )


def make_runtime_dir(path: Path) -> None:
    """Make the folder for sockets anew: empty, ours, closed to everybody else. The state folder's lock must be held.

    Raises:
        StorageDenied: the name is taken by somebody else's folder or by a link.
        StorageError: it cannot be made.
    """
    with told_plainly("make", path):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            found = None
        if found is not None:
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise StorageDenied(
                    f"{path} is not a folder of ours", hint="remove it, or set XDG_RUNTIME_DIR to a folder of your own"
                )
            shutil.rmtree(path)
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)


@contextlib.contextmanager
def told_plainly(verb: str, path: Path) -> Iterator[None]:
    """Turn what the system refuses in a block into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        kind: type[StorageError] = StorageError
        if isinstance(error, PermissionError):
            kind = StorageDenied
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            kind = StorageFull
        raise kind(
            f"cannot {verb} {path}: {error.strerror or error}", hint="look at the folder's owner and room"
        ) from error
