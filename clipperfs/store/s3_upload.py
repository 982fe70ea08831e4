"""Upload one local file: a single PUT when it is small, in parts when it is large, hashed on the way.

The digest goes with the object as metadata, so that a large file of an interrupted attempt is not sent twice. That is
why it must be known before a large file is sent: a server takes metadata at the beginning.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any, BinaryIO

from clipperfs.digest import digest_stream
from clipperfs.store.base import Progress
from clipperfs.store.s3_parts import PART_BYTES, Target, changed, read_up_to, send_in_parts
from clipperfs.store.s3_request import Requests

DIGEST = "clipperfs-sha256"
EXECUTABLE = "clipperfs-executable"


def upload_stream(
    requests: Requests,
    name: str,
    key: str,
    stream: BinaryIO,
    *,
    executable: bool,
    progress: Progress | None,
    digest: str | None = None,
) -> str:
    """Send a local file's bytes; return their SHA-256.

    Args:
        digest: What they are, where the caller has read them before; a large file is then read once, else twice.

    Raises:
        InvalidSource: the file changed while it was read, or since ``digest`` was computed.
        StorageError: it is not there. The parts of a large one stay for the next attempt.
    """
    tell = progress or (lambda _: None)
    if os.fstat(stream.fileno()).st_size <= PART_BYTES:
        data = read_up_to(stream, PART_BYTES + 1)
        if len(data) <= PART_BYTES:
            return _upload_whole(requests, name, key, data, executable, tell, digest)
        stream.seek(0)  # it has grown in this very moment
    if digest is None:
        digest, size_bytes = digest_stream(stream)
        stream.seek(0)
    else:
        size_bytes = os.fstat(stream.fileno()).st_size
    target = Target(requests, name, key, digest, size_bytes, _metadata(digest, executable))
    if target.is_there():
        tell(size_bytes)
    else:
        send_in_parts(target, stream, tell)
    return digest


def _upload_whole(
    requests: Requests,
    name: str,
    key: str,
    data: bytes,
    executable: bool,
    tell: Callable[[int], None],
    expected: str | None,
) -> str:
    digest = hashlib.sha256(data).hexdigest()
    if expected is not None and digest != expected:
        raise changed(key)

    async def put(client: Any) -> None:
        await client.put_object(Bucket=requests.bucket, Key=name, Body=data, Metadata=_metadata(digest, executable))

    requests.call("upload", key, put, size_bytes=len(data))
    tell(len(data))
    return digest


def _metadata(digest: str, executable: bool) -> dict[str, str]:
    return {DIGEST: digest} | ({EXECUTABLE: "1"} if executable else {})
