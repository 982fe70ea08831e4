"""A registry on HDFS: exclusive creation by a temporary file and a rename that refuses an existing target.

The NameNode carries out a rename in one step and one after the other, so of many writers one wins and no reader sees
part of a file. ``mkdirs`` cannot serve as a claim (it is idempotent), nor ``create(overwrite=false)`` (it shows an
empty file), nor the older ``rename`` (it moves a folder *into* an existing one and says true); all measured. Source of
the claim: ``registry_layout.md`` §3.1.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

from clipperfs.digest import CHUNK_BYTES
from clipperfs.errors import StorageError, StorageUnavailable, StoredDataError
from clipperfs.layout import CLAIM_PREFIX
from clipperfs.store.base import Capabilities, Entry, Piece, Progress
from clipperfs.store.hdfs_client import HdfsClient, Status
from clipperfs.store.oserror import told_plainly

T = TypeVar("T")

REPEAT_S = 10.0
"""For so long a question that changes nothing is asked again when it got no answer; the only retries that there are."""
PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0


def hdfs_store(url: str) -> HdfsStore:
    """Return the store for a canonical ``hdfs://`` or ``webhdfs://`` address. Does no I/O. Raises InvalidSetting."""
    parts = urlsplit(url)
    client: HdfsClient
    if parts.scheme == "webhdfs":
        from clipperfs.store.hdfs_web import WebClient

        client = WebClient(f"http://{parts.netloc}")
    else:
        from clipperfs.store.hdfs_rpc import RpcClient

        client = RpcClient(f"hdfs://{parts.netloc}")
    return HdfsStore(url, client)


def _repeated(ask: Callable[[], T]) -> T:
    """Ask again, with growing random pauses, while there is no answer. Raises what the last attempt raises."""
    ends_s, bound_s = time.monotonic() + REPEAT_S, PAUSE_S
    while True:
        try:
            return ask()
        except StorageUnavailable:
            pause_s = random.uniform(0, bound_s)  # noqa: S311
            if time.monotonic() + pause_s >= ends_s:
                raise
        time.sleep(pause_s)
        bound_s = min(2 * bound_s, LONGEST_PAUSE_S)


class HdfsStore:
    """Files below one folder of an HDFS."""

    store_class = "hdfs"

    def __init__(self, url: str, client: HdfsClient) -> None:
        self.url = url
        self.client = client
        self.root = urlsplit(url).path.rstrip("/")
        """The registry's folder; empty for the root of the filesystem."""
        self.capabilities = Capabilities(
            exclusive_create=True,
            rename_folder=True,
            durable=client.durable,
            native_events=False,
            ranged_reads=True,
        )

    def read(self, key: str, *, limit_bytes: int) -> bytes | None:
        return _repeated(lambda: self._read(key, limit_bytes))

    def _read(self, key: str, limit_bytes: int) -> bytes | None:
        stream = self.open(key)
        if stream is None:
            return None
        with stream, told_plainly("read", key):
            data = stream.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise StoredDataError(f"{key} is larger than {limit_bytes} bytes", hint="it was not written by clipperfs")
        return data

    def open(self, key: str) -> BinaryIO | None:
        with told_plainly("open", key):
            try:
                return cast(BinaryIO, self.client.open(self._path(key)))
            except (FileNotFoundError, NotADirectoryError):
                found = self._status(self._path(key))
            if found is not None and found.is_folder:
                raise StoredDataError(f"{key} is not a regular file", hint="remove it from the registry")
            return None

    def read_range(self, key: str, start: int, length: int) -> Piece | None:
        return _repeated(lambda: self._read_range(key, start, length))

    def _read_range(self, key: str, start: int, length: int) -> Piece | None:
        path = self._path(key)
        with told_plainly("read", key):
            found = self._status(path)
            if found is None or found.is_folder:
                return None
            if start >= found.size_bytes:
                return Piece(b"", found.size_bytes)
            try:
                with self.client.open(path, start=start, length=length) as stream:
                    data = stream.read(length)
            except (FileNotFoundError, NotADirectoryError):
                return None
        if len(data) < min(length, found.size_bytes - start):
            raise StorageUnavailable(f"cannot read {key}: its data ended early", hint="run it again", key=key)
        return Piece(data, found.size_bytes)

    def stat(self, key: str) -> Entry | None:
        def look() -> Status | None:
            with told_plainly("look at", key):
                return self._status(self._path(key))

        found = _repeated(look)
        return None if found is None else _entry(found, found.name)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        def ask() -> list[Status]:
            with told_plainly("list", prefix):
                try:
                    return list(self.client.list(self._path(prefix)))
                except (FileNotFoundError, NotADirectoryError):
                    return []

        for one in sorted(_repeated(ask), key=lambda status: status.name):
            if one.name > after:
                yield _entry(one, one.name)

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
        path = self._path(key)
        with told_plainly("create", key):
            claim = self._write_beside(path, data)
            try:
                self.client.rename(claim, path, overwrite=False)
            except FileExistsError:
                self._drop(claim)
                return False
            except (OSError, StorageError) as error:
                return self._settle(claim, key, data, error)
        return True

    def replace(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with told_plainly("write", key):
            fresh = self._write_beside(path, data)
            try:
                self.client.rename(fresh, path, overwrite=True)
            except BaseException:
                self._drop(fresh)
                raise

    def upload(
        self,
        source: str | os.PathLike[str],
        key: str,
        *,
        executable: bool = False,
        progress: Progress | None = None,
    ) -> str:
        path = self._path(key)
        state = hashlib.sha256()
        size_bytes = 0

        def pieces() -> Iterator[bytes]:
            nonlocal size_bytes
            while chunk := incoming.read(CHUNK_BYTES):
                yield chunk
                state.update(chunk)
                size_bytes += len(chunk)
                if progress is not None:
                    progress(len(chunk))

        with told_plainly("copy to", key):
            reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(reading, "rb", buffering=0) as incoming, told_plainly("copy to", key):
            self.client.write(path, pieces(), mode=0o777 if executable else 0o666, overwrite=True)
            self._require_size(path, size_bytes)
        return state.hexdigest()

    def rename_folder(self, source: str, target: str) -> bool:
        origin, goal = self._path(source), self._path(target)
        with told_plainly("rename to", target):
            self.client.make_folder(goal.rpartition("/")[0])
            for _ in range(2):
                try:
                    self.client.rename(origin, goal, overwrite=False)
                except FileExistsError:
                    if not self._remove_empty(goal):
                        return False
                except FileNotFoundError:
                    # The client tried again after a lost answer. Nobody else knows the source: it has moved.
                    if self.client.status(goal) is None:
                        raise
                    return True
                else:
                    return True
        return False

    def delete(self, key: str) -> None:
        with told_plainly("delete", key):
            self.client.delete(self._path(key), recursive=False)

    def delete_folder(self, prefix: str) -> None:
        with told_plainly("delete", prefix):
            self.client.delete(self._path(prefix), recursive=True)

    def local_path(self, key: str) -> Path | None:
        return None

    def _path(self, key: str) -> str:
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise StorageError(f"{key!r} is not a key")
        return f"{self.root}/{key}"

    def _status(self, path: str) -> Status | None:
        try:
            return self.client.status(path)
        except NotADirectoryError:  # nothing can lie below a file
            return None

    def _write_beside(self, path: str, data: bytes) -> str:
        """Return the path of a new file with this content in the folder of ``path``: whole, closed and checked."""
        claim = f"{path.rpartition('/')[0]}/{CLAIM_PREFIX}{secrets.token_hex(8)}"
        try:
            self.client.write(claim, [data], mode=0o666, overwrite=False)
            self._require_size(claim, len(data))
        except BaseException:
            self._drop(claim)
            raise
        return claim

    def _drop(self, claim: str) -> None:
        with contextlib.suppress(OSError, StorageError):  # what is left means nothing and is collected in a day
            self.client.delete(claim, recursive=False)

    def _settle(self, claim: str, key: str, data: bytes, error: Exception) -> bool:
        """Find out what became of a rename whose answer is not known, and make sure that nothing becomes of it later.

        A rename needs its source. When the claim could be deleted, the rename has not happened and never will.
        """
        try:
            if self.client.delete(claim, recursive=False):
                raise error
            found = self.read(key, limit_bytes=len(data))
        except StoredDataError:  # longer than what was to be written: somebody else's
            return False
        except StorageError:
            raise error from None
        if found is None:
            raise error
        return found == data

    def _remove_empty(self, path: str) -> bool:
        """Remove a folder if nothing lies in it, in one step; say whether it is gone."""
        found = self.client.status(path)
        if found is not None and not found.is_folder:
            return False
        try:
            self.client.delete(path, recursive=False)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                return False
            raise
        return True

    def _require_size(self, path: str, size_bytes: int) -> None:
        found = self.client.status(path)
        if found is None or found.size_bytes != size_bytes:
            there = "nothing" if found is None else f"{found.size_bytes} bytes"
            raise StorageUnavailable(
                f"cannot write {path}: of {size_bytes} bytes, {there} arrived",
                hint="run the command again; if it fails in the same way, look for a quota or a full DataNode "
                "(WebHDFS answers that all is well to a write that a quota has cut)",
            )


def _entry(found: Status, name: str) -> Entry:
    return Entry(
        name=name,
        kind="folder" if found.is_folder else "file",
        size=0 if found.is_folder else found.size_bytes,
        token=f"{found.file_id}-{found.size_bytes}-{found.modified_ms}",
        modified_unix_s=found.modified_ms / 1000,
        executable=not found.is_folder and bool(found.mode & 0o100),
    )
