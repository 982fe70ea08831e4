"""A registry in this process's memory: for tests, and the plainest statement of what the storage interface means."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from clipperfs.errors import StorageError, StoredDataError
from clipperfs.store.base import Capabilities, Entry, Piece, Progress

_stores: dict[str, MemoryStore] = {}


def memory_store(name: str) -> MemoryStore:
    """Return this process's memory store of that name."""
    return _stores.setdefault(name, MemoryStore(name))


class MemoryStore:
    """Files in a dictionary. Folders exist as long as something lies in them; they cannot be renamed in one step."""

    store_class = "memory"
    capabilities = Capabilities(
        exclusive_create=True, rename_folder=False, durable=False, native_events=False, ranged_reads=True
    )

    def __init__(self, name: str = "default") -> None:
        self.url = f"memory://{name}"
        self._lock = threading.Lock()
        self._files: dict[str, tuple[bytes, int, float, bool]] = {}
        self._writes = 0

    def read(self, key: str, *, limit_bytes: int) -> bytes | None:
        with self._lock:
            found = self._files.get(key)
        if found is None:
            return None
        if len(found[0]) > limit_bytes:
            raise StoredDataError(f"{key} is larger than {limit_bytes} bytes", hint="it was not written by clipperfs")
        return found[0]

    def open(self, key: str) -> BinaryIO | None:
        with self._lock:
            found = self._files.get(key)
        return None if found is None else io.BytesIO(found[0])

    def read_range(self, key: str, start: int, length: int) -> Piece | None:
        with self._lock:
            found = self._files.get(key)
        return None if found is None else Piece(found[0][start : start + length], len(found[0]))

    def stat(self, key: str) -> Entry | None:
        with self._lock:
            found = self._files.get(key)
            if found is not None:
                return _entry(key.rpartition("/")[2], found)
            if any(name.startswith(f"{key}/") for name in self._files):
                return Entry(key.rpartition("/")[2], "folder", 0, "", 0.0)
        return None

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        with self._lock:
            below = [
                (key[len(prefix) + 1 :], found) for key, found in self._files.items() if key.startswith(f"{prefix}/")
            ]
        children: dict[str, Entry] = {}
        for path, found in below:
            name, slash, _ = path.partition("/")
            children[name] = Entry(name, "folder", 0, "", 0.0) if slash else _entry(name, found)
        yield from (children[name] for name in sorted(children) if name > after)

    def walk(self, prefix: str) -> Iterator[Entry]:
        with self._lock:
            found = [(key, value) for key, value in self._files.items() if key.startswith(f"{prefix}/")]
        yield from (_entry(key[len(prefix) + 1 :], value) for key, value in found)

    def create(self, key: str, data: bytes) -> bool:
        with self._lock:
            if key in self._files:
                return False
            self._put(key, data)
        return True

    def replace(self, key: str, data: bytes) -> None:
        with self._lock:
            self._put(key, data)

    def upload(
        self,
        source: str | os.PathLike[str],
        key: str,
        *,
        executable: bool = False,
        progress: Progress | None = None,
    ) -> str:
        data = Path(source).read_bytes()
        with self._lock:
            self._put(key, data, executable)
        if progress is not None:
            progress(len(data))
        return hashlib.sha256(data).hexdigest()

    def rename_folder(self, source: str, target: str) -> bool:
        raise StorageError("a memory store does not rename folders, as its capabilities say")

    def delete(self, key: str) -> None:
        with self._lock:
            self._files.pop(key, None)

    def delete_folder(self, prefix: str) -> None:
        with self._lock:
            for key in [key for key in self._files if key.startswith(f"{prefix}/")]:
                del self._files[key]

    def local_path(self, key: str) -> Path | None:
        return None

    def _put(self, key: str, data: bytes, executable: bool = False) -> None:
        self._writes += 1
        self._files[key] = (bytes(data), self._writes, time.time(), executable)


def _entry(name: str, found: tuple[bytes, int, float, bool]) -> Entry:
    data, token, modified_unix_s, executable = found
    return Entry(name, "file", len(data), str(token), modified_unix_s, executable)
