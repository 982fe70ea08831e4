"""HDFS by the NameNode's own RPC protocol, through ``hdfs-native``: no Java and no gateway on the way.

``rename`` is the call that refuses an existing target with an exception, so no answer is lost. Settings (nameservices
and Kerberos among them) come from Hadoop's own files in ``HADOOP_CONF_DIR``, the user from ``HADOOP_USER_NAME``.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from clipperfs.errors import InvalidSetting, StorageUnavailable
from clipperfs.store.hdfs_client import (
    CALL_S,
    DATA_S,
    AclAnswer,
    AclLine,
    HdfsStream,
    Status,
    refusal,
    within,
)

T = TypeVar("T")

REACH_S = 5.0
ACTIONS = ("---", "--x", "-w-", "-wx", "r--", "r-x", "rw-", "rwx")
"""Permissions as Hadoop spells them, by their bits."""
ATTEMPTS = "3"
"""Of the client itself at one NameNode; its own default goes on for minutes. A nameservice keeps Hadoop's setting."""
_REFUSED = re.compile(r'RPCError\("(?P<java_class>[^"]*)", "(?P<message>.*)"\)', re.DOTALL)


class RpcClient:
    """One connection to a NameNode or a nameservice, made at the first call."""

    durable = True

    def __init__(self, url: str) -> None:
        try:
            import hdfs_native
        except ImportError as error:
            raise InvalidSetting(
                "hdfs:// needs the package hdfs-native", hint="pip install 'clipperfs[hdfs]'"
            ) from error
        self._library: Any = hdfs_native
        self._url = url
        self._client: Any = None

    def status(self, path: str) -> Status | None:
        try:
            return _status(self._call(f"look at {path}", lambda client: client.get_file_info(path)))
        except FileNotFoundError:
            return None

    def list(self, path: str) -> list[Status]:
        found = self._call(f"list {path}", lambda client: list(client.list_status(path)))
        if len(found) == 1 and not found[0].isdir and found[0].path == path:
            raise NotADirectoryError(path)
        return [_status(one) for one in found]

    def make_folder(self, path: str) -> None:
        self._call(f"make {path}", lambda client: client.mkdirs(path, 0o777 & ~umask(), create_parent=True))

    def write(self, path: str, pieces: Iterable[bytes], *, mode: int, overwrite: bool) -> None:
        what = f"write {path}"
        options = self._library.WriteOptions(permission=mode & ~umask(), overwrite=overwrite, create_parent=True)
        writer = self._call(what, lambda client: client.create(path, options))
        for piece in pieces:
            _guarded(DATA_S, what, lambda piece=piece: writer.write(piece))  # type: ignore[misc]
        _guarded(DATA_S, what, writer.hsync)
        _guarded(DATA_S, what, writer.close)

    def rename(self, source: str, target: str, *, overwrite: bool) -> None:
        self._call(f"rename {source} to {target}", lambda client: client.rename(source, target, overwrite))

    def delete(self, path: str, *, recursive: bool) -> bool:
        return bool(self._call(f"delete {path}", lambda client: client.delete(path, recursive)))

    def open(self, path: str, *, start: int = 0, length: int | None = None) -> HdfsStream:
        what = f"read {path}"
        reader = self._call(what, lambda client: client.read(path))
        if start:
            reader.seek(start)
        return HdfsStream(lambda size: bytes(_guarded(DATA_S, what, lambda: reader.read(size))))

    def acl(self, path: str) -> AclAnswer | None:
        what = f"look at {path}"
        try:
            found = self._call(what, lambda client: client.get_file_info(path))
        except FileNotFoundError:
            return None
        told = self._call(what, lambda client: client.get_acl_status(path))
        lines = tuple(
            AclLine(one.scope == "default", one.type, one.name or "", ACTIONS.index(one.permissions))
            for one in told.entries
        )
        mode = (found.permission & 0o777) | (0o1000 if told.sticky else 0)
        return AclAnswer(found.owner, found.group, mode, lines, found.isdir)

    def set_acl(self, path: str, lines: Iterable[AclLine], mode: int) -> None:
        from hdfs_native._internal import AclEntry

        entries = [
            AclEntry(line.kind, "default" if line.is_default else "access", ACTIONS[line.bits], line.name or None)  # type: ignore[arg-type]
            for line in lines
        ]
        what = f"change the permissions of {path}"
        self._call(what, lambda client: client.set_acl(path, entries))
        self._call(what, lambda client: client.set_permission(path, mode))

    def user(self) -> str:
        return os.environ.get("HADOOP_USER_NAME") or getpass.getuser()

    def _call(self, what: str, call: Callable[[Any], T]) -> T:
        try:
            return _guarded(CALL_S, what, lambda: call(self._connected(what)))
        except StorageUnavailable:
            self._client = None  # look again whether anything listens, and fail at once if not
            raise

    def _connected(self, what: str) -> Any:
        if self._client is None:
            parts = urlsplit(self._url)
            settings = {}
            if parts.port is not None:  # else a nameservice, whose addresses only Hadoop's settings know
                place = f"{parts.hostname}:{parts.port}"
                try:
                    socket.create_connection((parts.hostname or "", parts.port), timeout=REACH_S).close()
                except OSError as error:
                    raise StorageUnavailable(
                        f"cannot {what}: no NameNode answers at {place} ({error.strerror or error})",
                        hint="check the address (the RPC port, often 8020 or 9000) and that the NameNode is up",
                    ) from error
                settings = {"dfs.client.failover.max.attempts": ATTEMPTS}
            self._client = self._library.Client(self._url, settings)
        return self._client


def umask() -> int:
    """Return this process's file mode mask, without changing it for other threads in order to look."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022


def _guarded(deadline_s: float, what: str, call: Callable[[], T]) -> T:
    with _translated(what):
        return within(deadline_s, what, call)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, FileNotFoundError) as error:
        raise type(error)(error.errno or 0, str(error).partition("\n")[0]) from None
    except (OSError, RuntimeError, ValueError) as error:
        told = _REFUSED.search(str(error))
        if told is not None:
            raise refusal(told["java_class"], told["message"].replace('\\"', '"'), what) from error
        raise StorageUnavailable(
            f"cannot {what}: {str(error).partition(chr(10))[0]}",
            hint="check that the NameNode and its DataNodes are up and can be reached, then run the command again",
        ) from error


def _status(found: Any) -> Status:
    return Status(
        name=found.path.rpartition("/")[2],
        is_folder=found.isdir,
        size_bytes=found.length,
        mode=found.permission,
        modified_ms=found.modification_time,
    )
