"""A registry on any other filesystem that fsspec knows: readable, and writable by one declared writer only.

Nothing is claimed of such a filesystem: ``create`` looks first and writes then. That loses history when two writers
meet, so it is refused until somebody has declared that there is only one (``registry_layout.md`` §10).
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar
from urllib.parse import urlsplit

from clipperfs.digest import CHUNK_BYTES
from clipperfs.errors import (
    InvalidSetting,
    StorageDenied,
    StorageError,
    StorageUnavailable,
    StoredDataError,
)
from clipperfs.store.base import Capabilities, Entry, FileKind, Progress
from clipperfs.store.deadline import Deadline
from clipperfs.store.oserror import storage_error

P = ParamSpec("P")
T = TypeVar("T")

CALL_LIMIT_S = 30.0

KINDS: dict[str, FileKind] = {"file": "file", "directory": "folder", "link": "link"}

_NOT_ALONE = frozenset(
    ("simplecache", "filecache", "blockcache", "cached", "dir", "reference", "generic", "async_wrapper", "data", "dask")
)
_ARCHIVES = frozenset(("zip", "tar", "libarchive"))
"""Layers over another filesystem, or nothing that holds folders."""


def canonical_fsspec_url(url: str) -> str:
    """Return the one spelling of an address that fsspec knows: scheme and host in lower case, no slash at the end.

    Raises:
        InvalidSetting: fsspec does not know the scheme, or the address holds a password, a query or a fragment.
    """
    from fsspec.registry import known_implementations, registry

    parts = urlsplit(url)
    if parts.scheme in _NOT_ALONE | _ARCHIVES or parts.scheme not in {*known_implementations, *registry}:
        raise InvalidSetting(
            f"no filesystem is known for {parts.scheme}://",
            hint="give a folder, or an address of a filesystem that fsspec knows; a package of its own may be needed",
            scheme=parts.scheme,
        )
    if parts.password is not None:
        raise InvalidSetting(
            "a registry's address holds no password: it is shown in messages and records",
            hint="put it where the filesystem's package looks for it (fsspec: FSSPEC_<SCHEME>_PASSWORD)",
        )
    if parts.query or parts.fragment:
        raise InvalidSetting(f"a registry's address has no '?' or '#': {url}")
    path = "/".join(part for part in parts.path.split("/") if part)
    if any(part in (".", "..") for part in path.split("/")):
        raise InvalidSetting(f"a registry's address has no '.' or '..': {url}")
    return f"{parts.scheme}://{parts.netloc.lower()}/{path}".rstrip("/")


class FsspecStore:
    """Files below one address of a filesystem of fsspec.

    Args:
        url: in its one spelling.
        filesystem: an instance to use; by default the one that the address names, opened with the first call.
        limit_s: a hard limit for each request, whatever the filesystem's own package waits for.
    """

    store_class = "fsspec"
    capabilities = Capabilities(exclusive_create=False, rename_folder=False, durable=False, native_events=False)

    def __init__(
        self, url: str, *, filesystem: Any = None, root: str | None = None, limit_s: float = CALL_LIMIT_S
    ) -> None:
        self.url = url
        self._filesystem = filesystem
        self._root = root
        self._deadline = Deadline(limit_s)
        self._may_write = False

    def declare_single_writer(self) -> None:
        """Let this store write from now on."""
        self._may_write = True

    def read(self, key: str, *, limit_bytes: int) -> bytes | None:
        stream = self.open(key)
        if stream is None:
            return None
        with stream:
            data = stream.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise StoredDataError(f"{key} is larger than {limit_bytes} bytes", hint="it was not written by clipperfs")
        return data

    def open(self, key: str) -> BinaryIO | None:
        try:
            stream = self._call("open", key, lambda: self._fs().open(self._path(key), "rb"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IsADirectoryError as error:
            raise StoredDataError(f"{key} is not a regular file", hint="remove it from the registry") from error
        return io.BufferedReader(_Reader(stream, lambda what, function: self._call(what, key, function)), 1 << 20)

    def stat(self, key: str) -> Entry | None:
        try:
            return _entry(self._call("look at", key, lambda: self._fs().info(self._path(key))))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        base = self._path(prefix)
        try:
            found = self._call("list", prefix, lambda: self._fs().ls(base, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return
        children: dict[str, dict[str, Any]] = {}
        for info in found:
            path = str(info["name"]).rstrip("/")
            head, _, name = path.rpartition("/")
            if head.strip("/") == base.strip("/") and name > after:  # a page of links leads elsewhere, too
                children[name] = info
        for name in sorted(children):
            info = children[name]
            if info.get("type") == "file" and info.get("size") is None:  # a page of links knows no sizes
                entry = self.stat(f"{prefix}/{name}")
                if entry is not None:
                    yield entry
            else:
                yield _entry({**info, "name": name})

    def walk(self, prefix: str) -> Iterator[Entry]:
        pending = [""]
        while pending:
            folder = pending.pop()
            for entry in self.list(f"{prefix}/{folder}".rstrip("/")):
                path = f"{folder}/{entry.name}".lstrip("/")
                if entry.kind == "folder":
                    pending.append(path)
                else:
                    yield Entry(path, entry.kind, entry.size, entry.token, entry.modified_unix_s, entry.executable)

    def create(self, key: str, data: bytes) -> bool:
        self._require_declaration("create", key)
        if self.stat(key) is not None:
            return False
        self.replace(key, data)
        return True

    def replace(self, key: str, data: bytes) -> None:
        self._require_declaration("write", key)
        self._call("write", key, lambda: self._write(key, data))

    def upload(
        self,
        source: str | os.PathLike[str],
        key: str,
        *,
        executable: bool = False,
        progress: Progress | None = None,
    ) -> str:
        self._require_declaration("copy to", key)
        state = hashlib.sha256()
        reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(reading, "rb", buffering=0) as incoming:
            outgoing = self._call("copy to", key, lambda: self._open_new(key))
            try:
                while chunk := incoming.read(CHUNK_BYTES):
                    state.update(chunk)
                    self._call("copy to", key, partial(outgoing.write, chunk))
                    if progress is not None:
                        progress(len(chunk))
            finally:
                self._call("copy to", key, outgoing.close)
        return state.hexdigest()

    def rename_folder(self, source: str, target: str) -> bool:
        raise StorageError("this class of filesystem does not rename folders, as its capabilities say")

    def delete(self, key: str) -> None:
        self._require_declaration("delete", key)
        try:
            self._call("delete", key, lambda: self._fs().rm_file(self._path(key)))
        except FileNotFoundError:
            return

    def delete_folder(self, prefix: str) -> None:
        self._require_declaration("delete", prefix)
        try:
            self._call("delete", prefix, lambda: self._fs().rm(self._path(prefix), recursive=True))
        except FileNotFoundError:
            return

    def local_path(self, key: str) -> Path | None:
        return None

    def _fs(self) -> Any:
        """Return the filesystem, opened without any of fsspec's caches: they answer "absent" for ever."""
        if self._filesystem is None:
            import fsspec

            try:
                self._filesystem, self._root = fsspec.core.url_to_fs(
                    self.url, use_listings_cache=False, skip_instance_cache=True
                )
            except ImportError as error:
                raise InvalidSetting(f"{self.url} needs another package: {error}") from error
        return self._filesystem

    def _path(self, key: str) -> str:
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise StorageError(f"{key!r} is not a key")
        self._fs()
        return f"{(self._root or '').rstrip('/')}/{key}"

    def _write(self, key: str, data: bytes) -> None:
        with self._open_new(key) as stream:
            stream.write(data)

    def _open_new(self, key: str) -> Any:
        path = self._path(key)
        parent = path.rpartition("/")[0]
        if parent.strip("/"):
            self._fs().makedirs(parent, exist_ok=True)
        return self._fs().open(path, "wb")

    def _call(self, action: str, key: str, function: Callable[[], T]) -> T:
        """Run a request within its limit; raise what it means, but absence as it comes."""
        try:
            return self._deadline.run(f"{action} {key}", function)
        except FileNotFoundError as error:
            # The http filesystem says "not found" of whatever goes wrong: absence must be said by the server itself.
            cause = error.__cause__
            if not isinstance(cause, Exception) or isinstance(cause, FileNotFoundError | LookupError):
                raise
            if _status(cause) in (404, 410):
                raise
            raise _told_plainly(cause, action, key) from error
        except (FileExistsError, IsADirectoryError, NotADirectoryError, StorageError, InvalidSetting):
            raise
        except Exception as error:
            raise _told_plainly(error, action, key) from error

    def _require_declaration(self, action: str, key: str) -> None:
        if not self._may_write:
            raise StorageDenied(
                f"cannot {action} {key}: {self.url} is read-only: nothing says that it creates exclusively",
                hint="publish on a local disk, S3 or HDFS; or create the registry with clipperfs init --single-writer",
                key=key,
            )


class _Reader(io.RawIOBase):
    """A file of fsspec, each read within the limit."""

    def __init__(self, stream: Any, call: Callable[[str, Callable[[], Any]], Any]) -> None:
        self._stream = stream
        self._call = call

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._call("read", lambda: self._stream.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _entry(info: dict[str, Any]) -> Entry:
    kind = "link" if info.get("islink") else KINDS.get(str(info.get("type")), "special")
    size = int(info.get("size") or 0) if kind != "folder" else 0
    stamps = [
        info.get(name) for name in ("ETag", "etag", "mtime", "modified", "LastModified", "last_modified", "created")
    ]
    known = [stamp for stamp in stamps if stamp is not None]
    token = "-".join([str(size), *map(str, known)])
    return Entry(str(info["name"]).rstrip("/").rpartition("/")[2], kind, size, token, _unix_s(known))


def _unix_s(stamps: list[Any]) -> float:
    """Return the first time among some stamps, 0 when there is none."""
    for stamp in stamps:
        if hasattr(stamp, "timestamp"):
            return float(stamp.timestamp())
        if isinstance(stamp, int | float):
            return float(stamp)
    return 0.0


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error carries: each package calls it otherwise."""
    found = (getattr(error, name, None) for name in ("status", "status_code", "code"))
    return next((status for status in found if isinstance(status, int)), None)


def _told_plainly(error: Exception, action: str, key: str) -> StorageError:
    """Return what an error of a filesystem's package means, by its HTTP status where it has one."""
    status = _status(error)
    what = f"cannot {action} {key}: {type(error).__name__}: {str(error)[:300]}"
    if isinstance(error, PermissionError) or status in (401, 403):
        return StorageDenied(what, hint="ask the registry's owner for the right", key=key)
    if isinstance(error, NotImplementedError) or status == 405:
        return StorageDenied(what, hint="this filesystem is read-only for clipperfs", key=key)
    is_network = type(error).__module__.partition(".")[0] in (
        "aiohttp",
        "urllib3",
        "requests",
        "paramiko",
        "ftplib",
        "azure",
    )
    if isinstance(error, ConnectionError | TimeoutError) or is_network or (status is not None and status >= 429):
        return StorageUnavailable(what, hint="check that the filesystem answers, then run it again", key=key)
    if isinstance(error, OSError) and error.errno is not None:
        return storage_error(error, action, key)
    return StorageError(what, hint="run it again; if it fails in the same way, check the filesystem", key=key)
