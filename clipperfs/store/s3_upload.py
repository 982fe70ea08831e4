"""Upload one local file: a single PUT when it is small, parts in parallel when it is large, hashed on the way.

The digest goes with the object as metadata, so that a large file of an interrupted attempt is not sent twice.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

from clipperfs.digest import digest_stream
from clipperfs.errors import InvalidSource, StorageError
from clipperfs.store.base import Progress
from clipperfs.store.s3_error import is_absent
from clipperfs.store.s3_request import Requests

PART_BYTES = 8 << 20
"""A file up to this size is a single PUT; also the size of a part, up to ``MOST_PARTS`` of them."""
MOST_PARTS = 9_000
"""S3 allows 10,000."""
PARALLEL_PARTS = 4
DIGEST = "clipperfs-sha256"
EXECUTABLE = "clipperfs-executable"


def upload_stream(
    requests: Requests, name: str, key: str, stream: BinaryIO, *, executable: bool, progress: Progress | None
) -> str:
    """Send a local file's bytes; return their SHA-256.

    Raises:
        InvalidSource: the file changed while it was read.
        StorageError: it is not there, and no part of it is left behind if the server can be reached.
    """
    tell = progress or (lambda _: None)
    first = _read_up_to(stream, PART_BYTES + 1)
    if len(first) <= PART_BYTES:
        return _upload_whole(requests, name, key, first, executable, tell)
    del first
    stream.seek(0)
    expected, size_bytes = digest_stream(stream)
    if not _is_there(requests, name, key, expected, size_bytes, executable):
        stream.seek(0)
        _upload_parts(requests, name, key, stream, expected, size_bytes, executable, tell)
    else:
        tell(size_bytes)
    return expected


def _upload_whole(
    requests: Requests, name: str, key: str, data: bytes, executable: bool, tell: Callable[[int], None]
) -> str:
    digest = hashlib.sha256(data).hexdigest()

    async def put(client: Any) -> None:
        await client.put_object(Bucket=requests.bucket, Key=name, Body=data, Metadata=_metadata(digest, executable))

    requests.call("upload", key, put, size_bytes=len(data))
    tell(len(data))
    return digest


def _upload_parts(
    requests: Requests,
    name: str,
    key: str,
    stream: BinaryIO,
    expected: str,
    size_bytes: int,
    executable: bool,
    tell: Callable[[int], None],
) -> None:
    metadata = _metadata(expected, executable)

    async def begin(client: Any) -> str:
        answer = await client.create_multipart_upload(Bucket=requests.bucket, Key=name, Metadata=metadata)
        return str(answer["UploadId"])

    upload = requests.call("upload", key, begin)
    try:
        parts = _send_parts(requests, name, key, stream, upload, expected, size_bytes, tell)

        async def complete(client: Any) -> None:
            await client.complete_multipart_upload(
                Bucket=requests.bucket, Key=name, UploadId=upload, MultipartUpload={"Parts": parts}
            )

        try:
            requests.call("upload", key, complete, size_bytes=size_bytes // 64)
        except StorageError:
            # A lost answer looks like an upload that is no longer known.
            if not _is_there(requests, name, key, expected, size_bytes, executable):
                raise
    except BaseException:

        async def abort(client: Any) -> None:
            await client.abort_multipart_upload(Bucket=requests.bucket, Key=name, UploadId=upload)

        with contextlib.suppress(StorageError):
            requests.call("abort the upload of", key, abort)
        raise


def _send_parts(
    requests: Requests,
    name: str,
    key: str,
    stream: BinaryIO,
    upload: str,
    expected: str,
    size_bytes: int,
    tell: Callable[[int], None],
) -> list[dict[str, Any]]:
    part_bytes = max(PART_BYTES, -(-size_bytes // MOST_PARTS))
    state = hashlib.sha256()
    done: list[dict[str, Any]] = []
    moving: deque[tuple[Future[str], int]] = deque()

    def settle() -> None:
        future, moved = moving.popleft()
        done.append({"ETag": future.result(), "PartNumber": len(done) + 1})
        tell(moved)

    def send(data: bytes, number: int) -> str:
        async def put(client: Any) -> str:
            answer = await client.upload_part(
                Bucket=requests.bucket, Key=name, UploadId=upload, PartNumber=number, Body=data
            )
            return str(answer["ETag"])

        return requests.call("upload", key, put, size_bytes=len(data))

    pool = ThreadPoolExecutor(PARALLEL_PARTS, thread_name_prefix="upload")
    try:
        while data := _read_up_to(stream, part_bytes):
            state.update(data)
            if len(moving) == PARALLEL_PARTS:
                settle()
            moving.append((pool.submit(send, data, len(done) + len(moving) + 1), len(data)))
        while moving:
            settle()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if state.hexdigest() != expected:
        raise InvalidSource(f"{key} changed while it was read", hint="publish when it is finished")
    return done


def _is_there(requests: Requests, name: str, key: str, digest: str, size_bytes: int, executable: bool) -> bool:
    """Say whether an earlier attempt has put this very content there."""

    async def head(client: Any) -> bool:
        try:
            found = await client.head_object(Bucket=requests.bucket, Key=name)
        except Exception as error:
            if is_absent(error):
                return False
            raise
        return bool(found["ContentLength"] == size_bytes and found["Metadata"] == _metadata(digest, executable))

    return requests.call("look at", key, head)


def _metadata(digest: str, executable: bool) -> dict[str, str]:
    return {DIGEST: digest} | ({EXECUTABLE: "1"} if executable else {})


def _read_up_to(stream: BinaryIO, count: int) -> bytes:
    """Read ``count`` bytes, fewer only at the end: a raw stream may give less than it was asked for."""
    chunks = []
    while count and (chunk := stream.read(count)):
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)
