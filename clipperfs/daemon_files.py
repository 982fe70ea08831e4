"""Where a daemon keeps its files, and how to tell whether one runs there. Shared by the daemon and by who looks for it.

The holder of the lock *is* the daemon. A process id alone proves nothing, because ids are used again: it counts only
together with the lock and with the moment at which that process began.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipperfs.errors import StorageError
from clipperfs.store import canonical_url

LOCK_FILE = "lock"
DAEMON_FILE = "daemon.json"
LOG_FILE = "daemon.log"
DESIRED_FILE = "desired.json"
HEADS_FILE = "heads.json"
ADMIN_SOCKET = "admin.sock"
SUCCESSOR_SOCKET = "next.sock"
"""Where a daemon that takes over asks the one that runs for it; only daemons that can hand over have it."""

MAX_SOCKET_PATH_BYTES = 107
"""What the kernel takes as the path of a unix socket."""


@dataclass(frozen=True, slots=True)
class DaemonDocument:
    """``daemon.json``: who holds the state folder's lock, and where to reach it."""

    pid: int
    started_ticks: int
    """When the process began, in clock ticks since the host did: field 22 of ``/proc/<pid>/stat``."""
    started: str
    host: str
    port: int
    admin_port: int | None
    admin_socket: str
    registry: str

    def to_bytes(self) -> bytes:
        """Return the document as JSON."""
        return (json.dumps(asdict(self), indent=2, sort_keys=True) + "\n").encode()


def default_state_dir(registry: str) -> Path:
    """Return the state folder of the daemon for a registry, as the environment (XDG) has it."""
    base = os.environ.get("XDG_STATE_HOME") or ""
    root = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    return root / "clipperfs" / hashlib.sha256(canonical_url(registry).encode()).hexdigest()[:16]


def runtime_dir(state_dir: Path) -> Path:
    """Return the folder for the sockets of the daemon of a state folder: short, because socket paths have a limit."""
    tag = hashlib.sha256(os.fsencode(os.path.realpath(state_dir))).hexdigest()[:8]
    name = f"clipperfs-{os.getuid()}-{tag}"
    base = os.environ.get("XDG_RUNTIME_DIR") or ""
    if os.path.isabs(base) and os.path.isdir(base):
        folder = Path(base) / name
        if len(os.fsencode(folder / "frontend-000.ipc")) <= MAX_SOCKET_PATH_BYTES:
            return folder
    return Path("/tmp") / name  # noqa: S108  (0700, and its owner is checked before it is used)


def start_ticks(pid: int) -> int | None:
    """Return when a process began, in clock ticks since the host did, or ``None`` when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] == b"Z" else int(fields[19])


def is_locked(state_dir: Path) -> bool:
    """Say whether a daemon holds the state folder. Raises StorageError when that cannot be found out."""
    try:
        lock = os.open(state_dir / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StorageError(f"{state_dir / LOCK_FILE} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def read_daemon(state_dir: Path) -> DaemonDocument | None:
    """Return what ``daemon.json`` says if its process lives and is the one it names; otherwise ``None``."""
    try:
        tree: Any = json.loads((state_dir / DAEMON_FILE).read_bytes())
        document = DaemonDocument(**tree)
    except (OSError, ValueError, TypeError):
        return None
    ticks = start_ticks(document.pid) if isinstance(document.pid, int) else None
    return document if ticks is not None and ticks == document.started_ticks else None


def running_daemon(state_dir: Path) -> DaemonDocument | None:
    """Return the daemon that holds the state folder, or ``None``. The lock and the start time must both agree."""
    return read_daemon(state_dir) if is_locked(state_dir) else None
