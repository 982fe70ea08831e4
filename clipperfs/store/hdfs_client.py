"""What the HDFS store asks of a client for the filesystem, and what a NameNode's refusals mean."""

from __future__ import annotations

import errno
import io
import queue
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from clipperfs.errors import StorageDenied, StorageError, StorageFull, StorageUnavailable

T = TypeVar("T")

CALL_S = 20.0
"""How long one call to the NameNode may take, whatever the client believes: a client that meets a closed port was
seen to retry for over 100 s without a word."""
DATA_S = 60.0
"""How long one piece of a file's data may take."""
PULL_BYTES = 8 << 20
"""The largest piece that is read at once."""


@dataclass(frozen=True, slots=True)
class Status:
    """What the NameNode says of one file or folder."""

    name: str
    is_folder: bool
    size_bytes: int
    mode: int
    modified_ms: int
    file_id: str = ""
    """The NameNode's own number of the file, where the client tells it."""


class HdfsClient(Protocol):
    """A thin shell round one client library. Paths are absolute; every method has its own deadline.

    Besides the named exceptions, every method may raise StorageDenied, StorageFull, StorageUnavailable or StorageError.
    """

    durable: bool
    """:meth:`write` returns after the DataNodes have brought the data to their disks."""

    def status(self, path: str) -> Status | None:
        """Return a file's or folder's status, or ``None`` when it is absent. May raise NotADirectoryError."""

    def list(self, path: str) -> list[Status]:
        """Return a folder's children in no particular order. Raises FileNotFoundError, NotADirectoryError."""

    def make_folder(self, path: str) -> None:
        """Make a folder and what is missing above it; one that is there is fine."""

    def write(self, path: str, pieces: Iterable[bytes], *, mode: int, overwrite: bool) -> None:
        """Write a whole file and close it, making folders above it. Raises FileExistsError."""

    def rename(self, source: str, target: str, *, overwrite: bool) -> None:
        """Move a file or folder to exactly ``target``, never into it.

        Raises FileExistsError, and FileNotFoundError when the source is gone.
        """

    def delete(self, path: str, *, recursive: bool) -> bool:
        """Delete a file or folder; say whether it was there. Raises OSError(ENOTEMPTY) for a folder that is not."""

    def open(self, path: str, *, start: int = 0, length: int | None = None) -> HdfsStream:
        """Open a file, or ``length`` bytes of it from ``start`` (inside the file), for reading.

        A reader may get more than ``length`` bytes if it asks for them. Raises FileNotFoundError (also for a folder),
        NotADirectoryError.
        """


@dataclass(frozen=True, slots=True)
class AclAnswer:
    """What the NameNode says of one file's or folder's access list."""

    owner: str
    group: str
    mode: int
    """Twelve bits. Where there are named entries the mask stands in the group's place."""
    entries: tuple[AclLine, ...]
    is_folder: bool


@dataclass(frozen=True, slots=True)
class AclLine:
    """One entry of an access list, as ``hdfs dfs -setfacl`` takes it."""

    is_default: bool
    kind: Literal["user", "group", "mask", "other"]
    name: str
    """Empty for the owner, the owning group, the mask and others."""
    bits: int


@runtime_checkable
class HdfsAclClient(Protocol):
    """What a client offers besides where it can read and set access lists."""

    def acl(self, path: str) -> AclAnswer | None:
        """Return a file's or folder's access list, or ``None`` when it is absent."""

    def set_acl(self, path: str, lines: Iterable[AclLine], mode: int) -> None:
        """Replace a file's or folder's access list as a whole, and its mode bits."""

    def user(self) -> str:
        """Return as whom the NameNode sees this client, as far as the client knows."""


class HdfsStream(io.RawIOBase):
    """A file's bytes from its start, pulled in bounded pieces: a large ``read`` reserves no more than the file has."""

    def __init__(self, pull: Callable[[int], bytes], shut: Callable[[], None] = lambda: None) -> None:
        self._pull = pull
        self._shut = shut
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        pieces: list[bytes] = []
        wanted = size
        while wanted:
            if not self._rest:
                self._rest = self._pull(PULL_BYTES if wanted < 0 else max(min(wanted, PULL_BYTES), 1 << 16))
                if not self._rest:
                    break
            if wanted < 0:
                piece, self._rest = self._rest, b""
            else:
                piece, self._rest = self._rest[:wanted], self._rest[wanted:]
                wanted -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._shut()
        super().close()


def within(deadline_s: float, what: str, call: Callable[[], T]) -> T:
    """Return what ``call`` returns, or raise StorageUnavailable when that takes too long.

    A call that outlives its deadline goes on in a thread of its own, which ends with the process; whether it takes
    effect is unknown.
    """
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=run, name=f"hdfs: {what}", daemon=True).start()
    try:
        answer, failure = answers.get(timeout=deadline_s)
    except queue.Empty:
        raise StorageUnavailable(
            f"cannot {what}: HDFS did not answer within {deadline_s:g} s",
            hint="check that the NameNode and its DataNodes are up and can be reached, then run the command again",
        ) from None
    if failure is not None:
        raise failure
    return answer  # type: ignore[return-value]


_LACKED = re.compile(r"user=(?P<user>[^,]*), access=(?P<right>\w+)")
_BELOW_A_FILE = re.compile(r'access=EXECUTE, inode="[^"]*":[^:]*:[^:]*:-|is not a directory', re.IGNORECASE)
"""What somebody who is not the superuser hears of a path below a file: that a right on that file is lacking."""
_QUOTA = re.compile(r"The (DiskSpace|NameSpace) quota ")
_AWAY = ("SafeModeException", "StandbyException", "RetriableException", "NotReplicatedYetException")


def refusal(java_class: str, message: str, what: str) -> OSError | StorageError:
    """Return what a NameNode's or DataNode's exception means for an attempt to do ``what``."""
    name = java_class.rpartition(".")[2]
    text = message.replace("\\n", "\n").partition("\n")[0].strip()
    problem = f"cannot {what}: {text or name}"
    if name == "FileAlreadyExistsException" or "must both be directories" in text:
        return FileExistsError(errno.EEXIST, text)
    if name == "FileNotFoundException":
        return FileNotFoundError(errno.ENOENT, text)
    if name == "PathIsNotEmptyDirectoryException":
        return OSError(errno.ENOTEMPTY, text)
    if name == "ParentNotDirectoryException" or (name == "AccessControlException" and _BELOW_A_FILE.search(text)):
        return NotADirectoryError(errno.ENOTDIR, text)
    if name in ("AccessControlException", "SecurityException", "AuthorizationException"):
        lacked = _LACKED.search(text)
        right = f"user {lacked['user']} lacks the right to {lacked['right']}" if lacked else "this user lacks the right"
        return StorageDenied(problem, hint=f"{right}; ask the registry's owner for it", java_class=name)
    if name.endswith("QuotaExceededException") or _QUOTA.search(text):
        return StorageFull(
            problem, hint="raise the quota or make room, then run the command again; nothing was lost", java_class=name
        )
    if name == "AclException":
        return StorageError(
            problem, hint="access lists are off: set dfs.namenode.acls.enabled=true on the NameNode", java_class=name
        )
    if name in _AWAY or "in safe mode" in text:
        return StorageUnavailable(problem, hint="wait until the NameNode takes changes again", java_class=name)
    if "could only be replicated to" in text or "could only be written to" in text:
        return StorageUnavailable(
            problem, hint="no DataNode takes the data: check that they are up and have room", java_class=name
        )
    return StorageError(problem, hint="run the command again; if it fails in the same way, check HDFS", java_class=name)
