"""Read one object as a stream: in ranges, several at a time for a large one, each tried again on its own when cut."""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from clipperfs.errors import StorageError
from clipperfs.store.s3_error import EMPTY_RANGE, TAKEN, is_absent, status_of
from clipperfs.store.s3_request import Requests

RANGE_BYTES = 4 << 20
PARALLEL_RANGES = 4
"""Four files are fetched at a time, so that at most 80 MiB are held in memory."""


@dataclass(frozen=True, slots=True)
class Range:
    """Part of an object, and what the server says of the whole."""

    data: bytes
    size_bytes: int
    """Of the whole object."""
    etag: str


def read_range(
    requests: Requests, name: str, key: str, start: int, *, length: int = RANGE_BYTES, etag: str | None = None
) -> Range | None:
    """Read up to ``length`` bytes from ``start`` in one request; ``None`` when the object is absent.

    Args:
        name: The object's whole name in the bucket.
        key: For error messages.
        start: The first byte. Where nothing lies there, the answer is empty, and its size is not known (0).
        length: At least 1.
        etag: Of the object that the rest belongs to; another one is an error.

    Raises StorageError.
    """

    async def get(client: Any) -> Range | None:
        condition = {"IfMatch": etag} if etag is not None else {}
        window = f"bytes={start}-{start + length - 1}"
        try:
            answer = await client.get_object(Bucket=requests.bucket, Key=name, Range=window, **condition)
        except Exception as error:
            if is_absent(error) and etag is None:
                return None
            if status_of(error) == EMPTY_RANGE and (start == 0 or etag is None):
                return Range(b"", 0, "")
            if status_of(error) in (TAKEN, 404) and etag is not None:
                raise StorageError(f"{key} changed while it was being read", hint="run it again", key=key) from error
            raise
        async with answer["Body"] as body:
            data = await body.read()
        if len(data) != answer["ContentLength"]:
            raise ConnectionResetError(f"{len(data)} of {answer['ContentLength']} bytes arrived")
        _, _, size = str(answer.get("ContentRange", "")).rpartition("/")
        if not size.isdigit() and start:
            raise StorageError(f"the server does not read {key} in ranges", hint="it is not compatible with S3")
        return Range(data, int(size) if size.isdigit() else len(data), str(answer.get("ETag", "")))

    return requests.call("read", key, get, size_bytes=length)


class ObjectStream(io.RawIOBase):
    """An object's bytes from the first to the last. Raises StorageError on reading. Not for several threads at once."""

    def __init__(self, requests: Requests, name: str, key: str, first: Range) -> None:
        self._requests, self._name, self._key = requests, name, key
        self._etag = first.etag
        self._size_bytes = first.size_bytes
        self._rest = memoryview(first.data)
        self._asked_bytes = len(first.data)
        self._coming: deque[Future[Range | None]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._ask()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._rest and self._coming:
            found = self._coming.popleft().result()
            assert found is not None
            self._rest = memoryview(found.data)
            self._ask()
        count = min(len(buffer), len(self._rest))
        memoryview(buffer).cast("B")[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        super().close()

    def _ask(self) -> None:
        """Keep the next ranges on their way."""
        while self._asked_bytes < self._size_bytes and len(self._coming) < PARALLEL_RANGES:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(PARALLEL_RANGES, thread_name_prefix="range")
            self._coming.append(
                self._pool.submit(read_range, self._requests, self._name, self._key, self._asked_bytes, etag=self._etag)
            )
            self._asked_bytes += RANGE_BYTES
