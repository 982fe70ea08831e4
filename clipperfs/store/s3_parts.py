"""Send one large file in parts, taking over the parts that an earlier attempt left on the server.

An upload that is cut off stays on the server until it is completed, aborted or collected. The next attempt finds it by
the object's name and sends only the parts that are missing or differ, by size and MD5 (a part's ETag; where the server
encrypts with keys of its own the ETag is another, and the part is sent again). Nothing rests on that comparison alone:
what is fetched is compared with the manifest's SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from clipperfs.errors import InvalidSource, StorageDenied, StorageError, StorageFull, StorageUnavailable
from clipperfs.store.base import Unfinished
from clipperfs.store.s3_error import is_absent, status_of
from clipperfs.store.s3_request import Requests

PART_BYTES = 8 << 20
"""A file up to this size is a single PUT; also the size of a part, up to ``MOST_PARTS`` of them."""
MOST_PARTS = 9_000
"""S3 allows 10,000."""
PARALLEL_PARTS = 4
UPLOADS_COMPARED = 4

Tell = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Part:
    """What the server says of one part of an upload that has not ended."""

    size_bytes: int
    etag: str

    def holds(self, data: bytes) -> bool:
        """Say whether it is the same bytes, as far as size and MD5 tell."""
        return (
            self.size_bytes == len(data)
            and self.etag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()
        )


@dataclass(frozen=True, slots=True)
class Target:
    """What is to become of a large file: one object, with its metadata."""

    requests: Requests
    name: str
    """The object's whole name in the bucket."""
    key: str
    """For error messages."""
    digest: str
    size_bytes: int
    metadata: dict[str, str]

    def is_there(self) -> bool:
        """Say whether this very content is there. Raises StorageError."""

        async def head(client: Any) -> bool:
            try:
                found = await client.head_object(Bucket=self.requests.bucket, Key=self.name)
            except Exception as error:
                if is_absent(error):
                    return False
                raise
            return bool(found["ContentLength"] == self.size_bytes and found["Metadata"] == self.metadata)

        return self.requests.call("look at", self.key, head)


def send_in_parts(target: Target, stream: BinaryIO, tell: Tell) -> None:
    """Send a file that is not there yet, or make use of what is there of it.

    Raises:
        InvalidSource: the file changed while it was read; its parts are taken away.
        StorageError: it is not there; the parts that are stay for the next attempt.
    """
    told_bytes = 0

    def tell_once(sent_bytes: int) -> None:
        nonlocal told_bytes
        if sent_bytes > told_bytes:
            tell(sent_bytes - told_bytes)
            told_bytes = sent_bytes

    earlier = _find_upload(target)
    if earlier is not None:
        # It may be completed or aborted by somebody else meanwhile, or have been begun for another content: an upload's
        # metadata shows only when it has ended.
        try:
            _send(target, stream, *earlier, tell_once)
        except (StorageUnavailable, StorageDenied, StorageFull):
            raise
        except StorageError:
            pass
        if target.is_there():
            tell_once(target.size_bytes)
            return
    stream.seek(0)

    async def begin(client: Any) -> str:
        answer = await client.create_multipart_upload(
            Bucket=target.requests.bucket, Key=target.name, Metadata=target.metadata
        )
        return str(answer["UploadId"])

    _send(target, stream, target.requests.call("upload", target.key, begin), {}, tell_once)


def list_unfinished(requests: Requests, prefix: str) -> Iterator[Unfinished]:
    """Yield the uploads below a prefix that were begun and have not ended. Raises StorageError."""
    for found in _uploads(requests, prefix):
        parts = _list_parts(requests, found["Key"], found["UploadId"])
        size_bytes = sum(part.size_bytes for part in parts.values())
        yield Unfinished(found["Key"], found["UploadId"], found["Initiated"].timestamp(), size_bytes)


def abort(requests: Requests, name: str, key: str, upload: str) -> None:
    """Take an upload's parts away; one that is gone is fine. Raises StorageError."""

    async def call(client: Any) -> None:
        try:
            await client.abort_multipart_upload(Bucket=requests.bucket, Key=name, UploadId=upload)
        except Exception as error:
            if status_of(error) != 404:
                raise

    requests.call("abort the upload of", key, call)


def _find_upload(target: Target) -> tuple[str, dict[int, Part]] | None:
    """Return the upload of this object that has not ended and holds most, and its parts; ``None`` when there is none.

    There may be several: beginning one is tried again when the answer is lost. Asking that fails finds none.
    """
    with contextlib.suppress(StorageError):
        mine = [one for one in _uploads(target.requests, target.name) if one["Key"] == target.name]
        newest = sorted(mine, key=lambda one: one["Initiated"])[-UPLOADS_COMPARED:]
        found = [(str(one["UploadId"]), _list_parts(target.requests, target.name, one["UploadId"])) for one in newest]
        return max(found, key=lambda upload: len(upload[1]), default=None)
    return None


def _send(target: Target, stream: BinaryIO, upload: str, there: dict[int, Part], tell: Tell) -> None:
    """Send the parts that are not there, and complete the upload."""
    requests, name = target.requests, target.name
    try:
        parts = _send_parts(target, stream, upload, there, tell)
    except InvalidSource:
        with contextlib.suppress(StorageError):
            abort(requests, name, target.key, upload)
        raise

    async def complete(client: Any) -> None:
        await client.complete_multipart_upload(
            Bucket=requests.bucket, Key=name, UploadId=upload, MultipartUpload={"Parts": parts}
        )

    try:
        requests.call("upload", target.key, complete, size_bytes=target.size_bytes // 64)
    except StorageError:
        # A lost answer looks like an upload that is no longer known.
        if not target.is_there():
            raise


def _send_parts(
    target: Target, stream: BinaryIO, upload: str, there: dict[int, Part], tell: Tell
) -> list[dict[str, Any]]:
    part_bytes = max(PART_BYTES, -(-target.size_bytes // MOST_PARTS))
    state, sent_bytes = hashlib.sha256(), 0
    done: list[dict[str, Any]] = []
    moving: deque[tuple[Future[str], int]] = deque()

    def settle() -> None:
        nonlocal sent_bytes
        future, moved = moving.popleft()
        done.append({"ETag": future.result(), "PartNumber": len(done) + 1})
        sent_bytes += moved
        tell(sent_bytes)

    def send(data: bytes, number: int) -> str:
        known = there.get(number)
        if known is not None and known.holds(data):
            return known.etag

        async def put(client: Any) -> str:
            answer = await client.upload_part(
                Bucket=target.requests.bucket, Key=target.name, UploadId=upload, PartNumber=number, Body=data
            )
            return str(answer["ETag"])

        return target.requests.call("upload", target.key, put, size_bytes=len(data))

    pool = ThreadPoolExecutor(PARALLEL_PARTS, thread_name_prefix="upload")
    try:
        while data := read_up_to(stream, part_bytes):
            state.update(data)
            if len(moving) == PARALLEL_PARTS:
                settle()
            moving.append((pool.submit(send, data, len(done) + len(moving) + 1), len(data)))
        while moving:
            settle()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if state.hexdigest() != target.digest:
        raise changed(target.key)
    return done


def changed(key: str) -> InvalidSource:
    """Return the error about a source whose bytes are not those that were read before."""
    return InvalidSource(f"{key} changed while it was read", hint="publish when it is finished")


def read_up_to(stream: BinaryIO, count: int) -> bytes:
    """Read ``count`` bytes, fewer only at the end: a raw stream may give less than it was asked for."""
    chunks = []
    while count and (chunk := stream.read(count)):
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def _uploads(requests: Requests, prefix: str) -> Iterator[dict[str, Any]]:
    """Yield what the server says of the uploads of objects whose names begin with ``prefix``."""
    further: dict[str, str] = {}
    while True:

        async def get(client: Any, further: dict[str, str] = further) -> dict[str, Any]:
            page: dict[str, Any] = await client.list_multipart_uploads(Bucket=requests.bucket, Prefix=prefix, **further)
            return page

        page = requests.call("list the uploads below", prefix, get)
        yield from page.get("Uploads", [])
        if not page.get("IsTruncated"):
            return
        further = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}


def _list_parts(requests: Requests, name: str, upload: str) -> dict[int, Part]:
    """Return an upload's parts by their numbers."""
    parts: dict[int, Part] = {}
    further: dict[str, int] = {}
    while True:

        async def get(client: Any, further: dict[str, int] = further) -> dict[str, Any]:
            page: dict[str, Any] = await client.list_parts(Bucket=requests.bucket, Key=name, UploadId=upload, **further)
            return page

        page = requests.call("list the parts of", name, get)
        for one in page.get("Parts", []):
            parts[int(one["PartNumber"])] = Part(int(one["Size"]), str(one["ETag"]))
        if not page.get("IsTruncated"):
            return parts
        further = {"PartNumberMarker": int(page["NextPartNumberMarker"])}
