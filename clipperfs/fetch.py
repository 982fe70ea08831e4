"""Fetch contents into the local cache: in ranges where the store can, hashed in order on the way, resumed after a cut.

What has arrived of a content lies in the cache as ``partial/<digest>``, always a beginning of it without a hole: its
length is the record of what has arrived. Whoever writes it holds its lock, so that processes of one host fetch a
content once. Only the digest of the whole makes it a blob, whatever it was put together from.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import BinaryIO

from clipperfs import layout
from clipperfs.digest import read_chunks
from clipperfs.documents import FileEntry
from clipperfs.errors import DamagedVersion, IncompleteVersion, StorageError
from clipperfs.names import ModelName, VersionName
from clipperfs.store import RangedStore, ranged
from clipperfs.store.oserror import told_plainly
from clipperfs.workspace import Workspace

FILES_AT_ONCE = 4
RANGE_BYTES = 8 << 20
RANGES_AT_ONCE = 8
"""Of all files together, on their way or waiting to be written: at most 64 MiB are held in memory."""
LOOK_S = 0.05
"""How often a content that another process fetches is looked at."""
STALL_S = 60.0
"""When it has not grown for so long, its writer is not waited for any longer."""


class Fetch:
    """Brings files of one version into the cache. As a context manager it ends its threads with its block."""

    def __init__(self, workspace: Workspace, model: ModelName, version: VersionName) -> None:
        self._workspace = workspace
        self._cache = workspace.cache
        self._model, self._version = model, version
        self._ranged = ranged(workspace.store)
        self._free = threading.Semaphore(RANGES_AT_ONCE)
        self._given_up = threading.Event()
        self._files = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="fetch")
        self._ranges = ThreadPoolExecutor(RANGES_AT_ONCE, thread_name_prefix="range")

    def __enter__(self) -> Fetch:
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up.set()
        self._files.shutdown(wait=True, cancel_futures=True)
        self._ranges.shutdown(wait=True, cancel_futures=True)

    def fetch(self, entries: list[FileEntry]) -> None:
        """Return when all contents are blobs of the cache. What has arrived of others stays when one fails.

        Raises:
            IncompleteVersion: a file is gone.
            DamagedVersion: a file's bytes are not those of the manifest.
            StorageError: the registry or the cache cannot be used.
        """
        going = [self._files.submit(self._fetch_file, entry) for entry in entries]
        for ended in as_completed(going):
            ended.result()

    def _fetch_file(self, entry: FileEntry) -> None:
        told_bytes = 0

        def tell(arrived_bytes: int) -> None:
            nonlocal told_bytes
            if arrived_bytes > told_bytes:
                self._workspace.reporter.advance(arrived_bytes - told_bytes)
                told_bytes = arrived_bytes

        with told_plainly("fetch", str(self._cache.blob(entry))):
            descriptor, path = self._claim(entry, tell)
            if descriptor < 0:
                tell(entry.size)
                return
            with open(descriptor, "r+b", buffering=0) as partial:  # closing it lets go of the lock
                try:
                    resumed = os.fstat(partial.fileno()).st_size > 0
                    if not self._complete(entry, partial, tell):
                        partial.truncate(0)
                        if not resumed or not self._complete(entry, partial, tell):
                            raise self._damaged(entry)
                    os.fsync(partial.fileno())
                    os.fchmod(partial.fileno(), 0o555 if entry.executable else 0o444)
                    os.rename(path, self._cache.blob(entry))
                except (DamagedVersion, OSError):  # not its bytes; or the local disk is full or in doubt
                    _remove(path)
                    raise
                except BaseException:
                    if path != str(self._cache.partial(entry)):
                        _remove(path)
                    raise

    def _claim(self, entry: FileEntry, tell: Callable[[int], None]) -> tuple[int, str]:
        """Return a partial content to write to, locked; a negative descriptor when the blob is there."""
        grown_s, size_bytes = time.monotonic(), -1
        while True:
            self._require_going_on()
            if self._cache.has_blob(entry):
                return -1, ""
            path = self._cache.partial(entry)
            descriptor = self._cache.lock_partial(entry)
            if descriptor is not None:
                if not self._cache.has_blob(entry):  # its last writer may have ended just before
                    return descriptor, str(path)
                _remove(str(path))
                os.close(descriptor)
                return -1, ""
            with contextlib.suppress(FileNotFoundError):
                if (found := os.stat(path).st_size) != size_bytes:
                    grown_s, size_bytes = time.monotonic(), found
                    tell(found)
            if time.monotonic() - grown_s > STALL_S:
                own = self._cache.new_blob_path()
                return os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), str(own)
            time.sleep(LOOK_S)

    def _complete(self, entry: FileEntry, partial: BinaryIO, tell: Callable[[int], None]) -> bool:
        """Fetch what is missing of a content; say whether the whole has the right digest."""
        state, arrived_bytes = hashlib.sha256(), 0
        partial.seek(0)
        for chunk in read_chunks(partial):
            state.update(chunk)
            arrived_bytes += len(chunk)
            if arrived_bytes > entry.size:
                return False
        tell(arrived_bytes)
        with contextlib.closing(self._arriving(entry, arrived_bytes)) as arriving:
            for data in arriving:
                self._require_going_on()
                arrived_bytes += len(data)
                if arrived_bytes > entry.size:
                    return False
                _write_all(partial.fileno(), data)
                state.update(data)
                tell(arrived_bytes)
        return arrived_bytes == entry.size and state.hexdigest() == entry.sha256

    def _arriving(self, entry: FileEntry, start: int) -> Generator[bytes, None, None]:
        """Yield the bytes of a file from ``start``, in order."""
        if start == entry.size:
            return
        if (twin := self._cache.find_twin(entry)) is not None:
            with open(twin, "rb", buffering=0) as stream:
                stream.seek(start)
                yield from read_chunks(stream)
        elif self._ranged is not None:
            yield from self._arriving_ranges(self._ranged, entry, start)
        else:
            stream_or_none = self._workspace.store.open(self._key(entry))
            if stream_or_none is None:
                raise self._gone(entry)
            with stream_or_none as stream:
                if stream.seekable():
                    stream.seek(start)
                else:
                    _skip(stream, start)
                yield from read_chunks(stream)

    def _arriving_ranges(self, store: RangedStore, entry: FileEntry, start: int) -> Generator[bytes, None, None]:
        coming: deque[Future[bytes]] = deque()
        asked = start
        try:
            while coming or asked < entry.size:
                # One range of each file, and more as long as there is room: whoever holds room holds what comes next.
                while asked < entry.size and self._free.acquire(blocking=not coming):
                    length = min(RANGE_BYTES, entry.size - asked)
                    coming.append(self._ranges.submit(self._read_range, store, entry, asked, length))
                    asked += length
                first = coming.popleft()
                try:
                    yield first.result()
                finally:
                    self._free.release()
        finally:
            for future in coming:
                future.cancel()
                self._free.release()

    def _read_range(self, store: RangedStore, entry: FileEntry, start: int, length: int) -> bytes:
        self._require_going_on()
        piece = store.read_range(self._key(entry), start, length)
        if piece is None:
            raise self._gone(entry)
        if piece.size_bytes != entry.size:
            raise self._damaged(entry)
        return piece.data

    def _require_going_on(self) -> None:
        if self._given_up.is_set():
            raise StorageError("fetching was given up: another file failed", hint="run it again; it goes on from here")

    def _key(self, entry: FileEntry) -> str:
        return layout.payload(self._model, self._version, entry.path)

    def _gone(self, entry: FileEntry) -> IncompleteVersion:
        return IncompleteVersion(
            f"version {self._version} of model {self._model}: {entry.path} is gone", missing=[entry.path]
        )

    def _damaged(self, entry: FileEntry) -> DamagedVersion:
        return DamagedVersion(
            f"version {self._version} of model {self._model}: the bytes of {entry.path} are not those of the manifest",
            hint="the file was changed or cut short after publishing; publish it again under a new name",
            path=entry.path,
        )


def _skip(stream: BinaryIO, count: int) -> None:
    while count and (chunk := stream.read(min(count, 1 << 20))):
        count -= len(chunk)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
