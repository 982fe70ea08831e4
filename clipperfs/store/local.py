"""A registry on a local POSIX filesystem: exclusive creation by hard link, durable by fsync of file and folder.

Why not fsspec's local filesystem for this: its ``pipe_file(mode="create")`` lets two writers win, ``put_file`` ignores
the mode, and ``open("xb")`` shows an empty file (all measured). Source of the claim: ``registry_layout.md`` §3.1.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from clipperfs.digest import CHUNK_BYTES
from clipperfs.errors import StorageError, StoredDataError
from clipperfs.layout import CLAIM_PREFIX
from clipperfs.store.base import Capabilities, Entry, FileKind, Progress
from clipperfs.store.oserror import storage_error, told_plainly

_ABSENT = (errno.ENOENT, errno.ENOTDIR)


class LocalStore:
    """Files below one folder of this host."""

    store_class = "posix"
    capabilities = Capabilities(exclusive_create=True, rename_folder=True, durable=True, native_events=True)

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(os.path.abspath(root))
        self.url = f"file://{self.root}"
        self._prefix = f"{self.root}".rstrip("/") + "/"

    def read(self, key: str, *, limit_bytes: int) -> bytes | None:
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
            descriptor = self._open_beneath(key)
            if descriptor is None:
                return None
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise StoredDataError(f"{key} is not a regular file", hint="remove it from the registry")
            return os.fdopen(descriptor, "rb", buffering=0)

    def stat(self, key: str) -> Entry | None:
        with told_plainly("look at", key):
            try:
                found = os.lstat(self._name(key))
            except OSError as error:
                if error.errno in _ABSENT:
                    return None
                raise
        return _entry(key.rpartition("/")[2], found)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        with told_plainly("list", prefix):
            try:
                with os.scandir(self._path(prefix)) as found:
                    children = sorted((child for child in found if child.name > after), key=lambda child: child.name)
            except OSError as error:
                if error.errno in _ABSENT:
                    return
                raise
        for child in children:
            try:
                if child.is_dir(follow_symlinks=False):  # known from the listing: a look at each would cost the most
                    entry = Entry(child.name, "folder", 0, "", 0.0)
                else:
                    entry = _entry(child.name, child.stat(follow_symlinks=False))
            except FileNotFoundError:  # it went meanwhile
                continue
            except OSError as error:
                raise storage_error(error, "look at", f"{prefix}/{child.name}") from error
            yield entry

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
            self._make_folder(path.parent)
            claim = path.parent / f"{CLAIM_PREFIX}{secrets.token_hex(8)}"
            try:
                _write_new(claim, data)
                try:
                    os.link(claim, path, follow_symlinks=False)
                except FileExistsError:
                    return False
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(claim)
            _sync_folder(path.parent)
        return True

    def replace(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with told_plainly("write", key):
            self._make_folder(path.parent)
            fresh = path.parent / f"{CLAIM_PREFIX}{secrets.token_hex(8)}"
            try:
                _write_new(fresh, data)
                os.rename(fresh, path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(fresh)
                raise
            _sync_folder(path.parent)

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
        with told_plainly("copy to", key):
            self._make_folder(path.parent)
            reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(reading, "rb", buffering=0) as incoming:
                # Not writable by a group, whatever an access list hands down: payload is never changed.
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                writing = os.open(path, flags, 0o755 if executable else 0o644)
                with open(writing, "wb", buffering=0) as outgoing:
                    while chunk := incoming.read(CHUNK_BYTES):
                        state.update(chunk)
                        _write_all(outgoing.fileno(), chunk)
                        if progress is not None:
                            progress(len(chunk))
                    os.fsync(outgoing.fileno())
        return state.hexdigest()

    def rename_folder(self, source: str, target: str) -> bool:
        origin, goal = self._path(source), self._path(target)
        with told_plainly("rename to", target):
            self._make_folder(goal.parent)
            for folder, _, _ in os.walk(origin):
                _sync_folder(Path(folder))
            try:
                os.rename(origin, goal)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    return False
                raise
            _sync_folder(goal.parent)
            if origin.parent != goal.parent:
                _sync_folder(origin.parent)
        return True

    def delete(self, key: str) -> None:
        path = self._path(key)
        with told_plainly("delete", key):
            try:
                os.unlink(path)
            except OSError as error:
                if error.errno in _ABSENT:
                    return
                raise
            _sync_folder(path.parent)

    def delete_folder(self, prefix: str) -> None:
        path = self._path(prefix)
        with told_plainly("delete", prefix):
            try:
                shutil.rmtree(path)
            except FileNotFoundError:
                return
            _sync_folder(path.parent)

    def local_path(self, key: str) -> Path | None:
        return self._path(key)

    def _path(self, key: str) -> Path:
        return Path(self._name(key))

    def _name(self, key: str) -> str:
        """Return the whole name of a file as text: a ``Path`` costs as much as the system call it is for."""
        self._require_key(key)
        return f"{self._prefix}{key}"

    def _require_key(self, key: str) -> None:
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise StorageError(f"{key!r} is not a key")

    def _open_beneath(self, key: str) -> int | None:
        """Open ``key`` for reading without following a link in any of its segments; ``None`` when absent."""
        self._require_key(key)
        *folders, name = key.split("/")
        try:
            at = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for folder in folders:
                    below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                    os.close(at)
                    at = below
                # O_NONBLOCK: a FIFO in place of the file must not hang its reader.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                return os.open(name, flags, dir_fd=at)
            finally:
                os.close(at)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                if self.stat(key) is None:
                    return None
                raise StoredDataError(
                    f"{key} is or lies behind a link or a special file", hint="a registry holds plain files only"
                ) from error
            raise

    def _make_folder(self, folder: Path) -> None:
        """Create ``folder`` and what is missing above it, each name durable before the next depends on it."""
        if folder.is_dir():
            return
        if folder != self.root:
            self._make_folder(folder.parent)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        _sync_folder(folder.parent)


def _entry(name: str, found: os.stat_result) -> Entry:
    kind: FileKind = (
        "file"
        if stat.S_ISREG(found.st_mode)
        else "folder"
        if stat.S_ISDIR(found.st_mode)
        else "link"
        if stat.S_ISLNK(found.st_mode)
        else "special"
    )
    return Entry(
        name=name,
        kind=kind,
        size=0 if kind == "folder" else found.st_size,
        token=f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}",
        modified_unix_s=found.st_mtime,
        executable=kind == "file" and bool(found.st_mode & stat.S_IXUSR),
    )


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
