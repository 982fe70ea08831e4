"""HDFS by WebHDFS, its REST interface, through HdfsCLI: for networks that let HTTP alone pass.

``RENAME`` is sent with ``renameoptions``, which makes the NameNode refuse an existing target with an exception. A
gateway that does not know the option (HttpFS) answers a boolean instead: it is checked, and a folder that landed inside
another is brought back.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from clipperfs.errors import InvalidSetting, StorageDenied, StorageError, StorageUnavailable
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
from clipperfs.store.hdfs_rpc import ACTIONS, umask

T = TypeVar("T")

CONNECT_S = 5.0
_PASSING = frozenset([408, 429, 500, 502, 503, 504])
"""Statuses that a server, or a gateway before it, gives when the same call may succeed a moment later."""


class WebClient:
    """Requests to one NameNode's web address as the user of ``HADOOP_USER_NAME``, or of this process."""

    durable = False

    def __init__(self, url: str) -> None:
        try:
            import hdfs
        except ImportError as error:
            raise InvalidSetting("webhdfs:// needs the package hdfs", hint="pip install 'clipperfs[hdfs]'") from error

        class Plain(hdfs.InsecureClient):  # type: ignore[misc]
            def resolve(self, hdfs_path: str) -> str:
                return hdfs_path  # the library's own would expand '#LATEST' in a file's name

            def _request(self, method: str, url: str, **options: Any) -> Any:
                return _require_answer(super()._request(method, url, **options))

        user = os.environ.get("HADOOP_USER_NAME") or getpass.getuser()
        self._client: Any = Plain(url, user=user, timeout=(CONNECT_S, CALL_S))

    def status(self, path: str) -> Status | None:
        try:
            answer = self._call(f"look at {path}", lambda: self._client._get_file_status(path).json())
        except FileNotFoundError:
            return None
        return _status(answer["FileStatus"], path.rpartition("/")[2])

    def list(self, path: str) -> list[Status]:
        answer = self._call(f"list {path}", lambda: self._client._list_status(path).json())
        found = answer["FileStatuses"]["FileStatus"]
        if len(found) == 1 and found[0]["pathSuffix"] == "":
            raise NotADirectoryError(path)
        return [_status(one, one["pathSuffix"]) for one in found]

    def make_folder(self, path: str) -> None:
        self._call(f"make {path}", lambda: self._client._mkdirs(path, permission=_octal(0o777)))

    def write(self, path: str, pieces: Iterable[bytes], *, mode: int, overwrite: bool) -> None:
        what = f"write {path}"
        _require_plain(path, what)
        flag = "true" if overwrite else "false"

        def send() -> None:
            answer = self._client._create(path, overwrite=flag, permission=_octal(mode))
            self._send(answer.headers["location"], pieces)

        with _translated(what):  # no deadline for the whole, which may be large: each of its socket calls has one
            send()

    def rename(self, source: str, target: str, *, overwrite: bool) -> None:
        what = f"rename {source} to {target}"
        options = "OVERWRITE" if overwrite else "NONE"
        answer = self._call(
            what, lambda: self._client._rename(source, destination=target, renameoptions=options).content
        )
        if not answer.strip():
            return
        if b"true" not in answer:
            if overwrite:
                raise StorageError(
                    f"cannot {what}: this gateway cannot replace a file in one step",
                    hint="give the NameNode's own WebHDFS address, or use hdfs://",
                )
            raise FileExistsError(target) if self.status(target) else FileNotFoundError(source)
        nested = f"{target}/{source.rpartition('/')[2]}"
        landed = self.status(target)
        if landed is not None and landed.is_folder and self.status(nested) is not None:
            self._call(f"bring {nested} back", lambda: self._client._rename(nested, destination=source))
            raise FileExistsError(target)

    def delete(self, path: str, *, recursive: bool) -> bool:
        flag = "true" if recursive else "false"
        answer = self._call(f"delete {path}", lambda: self._client._delete(path, recursive=flag).json())
        return bool(answer["boolean"])

    def open(self, path: str, *, start: int = 0, length: int | None = None) -> HdfsStream:
        what = f"read {path}"
        _require_plain(path, what)
        part = ({"offset": start} if start else {}) | ({"length": length} if length is not None else {})
        answer = self._call(what, lambda: self._client._open(path, **part))

        def pull(size: int) -> bytes:
            with _translated(what):
                return bytes(answer.raw.read(size))

        return HdfsStream(pull, answer.close)

    def acl(self, path: str) -> AclAnswer | None:
        what = f"look at {path}"
        try:
            found = self._call(what, lambda: self._client._get_file_status(path).json())["FileStatus"]
        except FileNotFoundError:
            return None
        told = self._call(what, lambda: self._client._get_acl_status(path).json())["AclStatus"]
        lines = tuple(map(_acl_line, told["entries"]))
        mode = (int(found["permission"], 8) & 0o777) | (0o1000 if told["stickyBit"] else 0)
        return AclAnswer(found["owner"], found["group"], mode, lines, found["type"] == "DIRECTORY")

    def set_acl(self, path: str, lines: Iterable[AclLine], mode: int) -> None:
        what = f"change the permissions of {path}"
        spec = ",".join(
            f"{'default:' if line.is_default else ''}{line.kind}:{line.name}:{ACTIONS[line.bits]}" for line in lines
        )
        self._call(what, lambda: self._client._set_acl(path, aclspec=spec).content)
        self._call(what, lambda: self._client._set_permission(path, permission=f"{mode:o}").content)

    def user(self) -> str:
        return os.environ.get("HADOOP_USER_NAME") or getpass.getuser()

    def _send(self, location: str, pieces: Iterable[bytes]) -> None:
        from hdfs.client import _to_error

        body = pieces if not isinstance(pieces, list) else b"".join(pieces)
        answer = _require_answer(
            self._client._session.request(
                "PUT",
                location,
                data=body,
                timeout=(CONNECT_S, DATA_S),
                headers={"content-type": "application/octet-stream"},
            )
        )
        if not answer.ok:
            raise _to_error(answer)

    def _call(self, what: str, call: Callable[[], T]) -> T:
        with _translated(what):
            return within(CALL_S + CONNECT_S, what, call)


def _require_answer(answer: Any) -> Any:
    """Return an answer unless something on the way, or a server in trouble, gave it: Hadoop's own name an exception.

    Raises HTTPError of requests. Without this a gateway's 503 would pass for a lacking right.
    """
    import requests

    if answer.status_code in _PASSING and b"RemoteException" not in answer.content:
        raise requests.HTTPError(f"{answer.status_code} {answer.reason}", response=answer)
    return answer


def _require_plain(path: str, what: str) -> None:
    """Refuse a name that the redirection to a DataNode mangles: ``100%41`` arrives as ``100A`` (Hadoop 2.7.3)."""
    if "%" in path:
        raise StorageError(
            f"cannot {what}: WebHDFS cannot keep a '%' in a name", hint="use hdfs://, or rename the file"
        )


@contextmanager
def _translated(what: str) -> Iterator[None]:
    import requests
    import urllib3
    from hdfs.util import HdfsError

    try:
        yield
    except HdfsError as error:
        if error.exception is None:
            raise StorageDenied(f"cannot {what}: {error}", hint="check HADOOP_USER_NAME and the address") from error
        raise refusal(error.exception, str(error), what) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError, KeyError) as error:
        raise StorageUnavailable(
            f"cannot {what}: {type(error).__name__}: {error}",
            hint="check the address (the NameNode's web port, often 9870 or 50070) and that it is up",
        ) from error


def _acl_line(text: str) -> AclLine:
    *scope, kind, name, actions = text.split(":")
    return AclLine(scope == ["default"], kind, name, ACTIONS.index(actions))  # type: ignore[arg-type]


def _octal(mode: int) -> str:
    return f"{mode & ~umask():o}"


def _status(found: dict[str, Any], name: str) -> Status:
    return Status(
        name=name,
        is_folder=found["type"] == "DIRECTORY",
        size_bytes=found["length"],
        mode=int(found["permission"], 8),
        modified_ms=found["modificationTime"],
        file_id=str(found.get("fileId", "")),
    )
