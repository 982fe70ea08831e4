"""A registry in a bucket of S3 or a compatible server: exclusive creation by one conditional PUT.

Keys are objects below a prefix; folders exist as long as something lies in them. Source of the claim:
``registry_layout.md`` §3.1. What is promised of which server, and how that was tested: ``docs/storage_s3.md``.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from clipperfs.errors import InvalidSetting, InvalidSource, StorageError, StorageUnavailable, StoredDataError
from clipperfs.store.base import Capabilities, Entry, Piece, Progress, Unfinished
from clipperfs.store.s3_error import CONTENDED, NOT_OFFERED, TAKEN, code_of, is_absent, status_of
from clipperfs.store.s3_parts import abort, list_unfinished
from clipperfs.store.s3_request import CallLimits, Requests
from clipperfs.store.s3_stream import ObjectStream, read_range
from clipperfs.store.s3_upload import EXECUTABLE, upload_stream

CONTENDED_ATTEMPTS = 8
"""How often a creation is tried again that the server declined because of another one at the same moment."""
DELETED_AT_ONCE = 1_000
DOCUMENT_SUFFIX = ".json"


class S3Store:
    """Objects of one bucket below one prefix.

    The server's address, the credentials and the region come from where every AWS tool finds them:
    ``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, ``AWS_ACCESS_KEY_ID`` and so on, or ``~/.aws/config``.

    Args:
        bucket: The bucket's name. It must exist.
        prefix: What all keys lie below; may be empty.
        limits: How long to wait.
        options: For tests: what s3fs is given beside the environment, such as ``endpoint_url``.
    """

    store_class = "s3"
    capabilities = Capabilities(
        exclusive_create=True, rename_folder=False, durable=True, native_events=False, ranged_reads=True
    )

    def __init__(self, bucket: str, prefix: str = "", *, limits: CallLimits | None = None, **options: Any) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.url = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self.requests = Requests(bucket, limits, **options)

    def read(self, key: str, *, limit_bytes: int) -> bytes | None:
        name = self._name(key)

        async def get(client: Any) -> tuple[bytes | None, int]:
            try:
                answer = await client.get_object(Bucket=self.bucket, Key=name)
            except Exception as error:
                if is_absent(error):
                    return None, 0
                raise
            size_bytes = int(answer["ContentLength"])
            async with answer["Body"] as body:
                if size_bytes > limit_bytes:
                    return None, size_bytes
                data = bytes(await body.read())
            if len(data) != size_bytes:
                raise ConnectionResetError(f"{len(data)} of {size_bytes} bytes arrived")
            return data, size_bytes

        data, size_bytes = self.requests.call("read", key, get)
        if size_bytes > limit_bytes:
            raise StoredDataError(f"{key} is larger than {limit_bytes} bytes", hint="it was not written by clipperfs")
        return data

    def open(self, key: str) -> BinaryIO | None:
        first = read_range(self.requests, self._name(key), key, 0)
        if first is None:
            return None
        return io.BufferedReader(ObjectStream(self.requests, self._name(key), key, first), 1 << 20)

    def read_range(self, key: str, start: int, length: int) -> Piece | None:
        found = read_range(self.requests, self._name(key), key, start, length=length)
        return None if found is None else Piece(found.data, found.size_bytes)

    def stat(self, key: str) -> Entry | None:
        """Return an entry by one request. A key that is no document may be a folder's: when absent, a second one asks.

        See :meth:`clipperfs.store.Store.stat`.
        """
        name = self._name(key)
        bare = key.rpartition("/")[2]

        async def head(client: Any) -> Entry | None:
            try:
                found = await client.head_object(Bucket=self.bucket, Key=name)
            except Exception as error:
                if is_absent(error):
                    return None
                raise
            return _entry(
                bare, found["ContentLength"], found["ETag"], found["LastModified"], EXECUTABLE in found["Metadata"]
            )

        async def look_below(client: Any) -> bool:
            page = await client.list_objects_v2(Bucket=self.bucket, Prefix=f"{name}/", MaxKeys=1)
            return bool(page.get("Contents"))

        entry = self.requests.call("look at", key, head)
        if entry is None and not key.endswith(DOCUMENT_SUFFIX) and self.requests.call("look at", key, look_below):
            return Entry(bare, "folder", 0, "", 0.0)
        return entry

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        folder = f"{self._name(prefix)}/"
        children: dict[str, Entry] = {}
        start = {"StartAfter": folder + after} if after else {}
        for page in self._pages(prefix, Prefix=folder, Delimiter="/", **start):
            for found in page.get("Contents", []):
                if name := found["Key"][len(folder) :]:
                    children.setdefault(name, _entry(name, found["Size"], found["ETag"], found["LastModified"]))
            for below in page.get("CommonPrefixes", []):
                if name := below["Prefix"][len(folder) : -1]:
                    children[name] = Entry(name, "folder", 0, "", 0.0)
        # The server sorts 'a-b' before 'a/', and takes 'a/' to come after 'a'.
        yield from (children[name] for name in sorted(children) if name > after)

    def walk(self, prefix: str) -> Iterator[Entry]:
        folder = f"{self._name(prefix)}/"
        for page in self._pages(prefix, Prefix=folder):
            for found in page.get("Contents", []):
                name = found["Key"][len(folder) :]
                if name and not name.endswith("/"):  # some tools mark a folder by an empty object
                    yield _entry(name, found["Size"], found["ETag"], found["LastModified"])

    def create(self, key: str, data: bytes) -> bool:
        if not data:
            raise StorageError(f"{key} would be empty", hint="a claim needs content")
        name = self._name(key)

        async def put(client: Any) -> int:
            try:
                await client.put_object(Bucket=self.bucket, Key=name, Body=data, IfNoneMatch="*")
            except Exception as error:
                if (status := status_of(error)) in (TAKEN, CONTENDED, NOT_OFFERED):
                    return status
                raise
            return 200

        for attempt in range(CONTENDED_ATTEMPTS):
            # Not tried again when the answer is lost: whether the first one took effect, only the caller can tell.
            status = self.requests.call("create", key, put, is_repeatable=False, size_bytes=len(data))
            if status == NOT_OFFERED:
                raise InvalidSetting(
                    f"the server of bucket {self.bucket} cannot create an object exclusively (If-None-Match: *)",
                    hint="writers could undo each other there; docs/storage_s3.md names servers that can",
                )
            if status != CONTENDED:
                return status != TAKEN
            time.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311
        raise StorageUnavailable(f"{key} is being created by others all the time", hint="run it again", key=key)

    def replace(self, key: str, data: bytes) -> None:
        name = self._name(key)

        async def put(client: Any) -> None:
            await client.put_object(Bucket=self.bucket, Key=name, Body=data)

        self.requests.call("write", key, put, size_bytes=len(data))

    def upload(
        self,
        source: str | os.PathLike[str],
        key: str,
        *,
        executable: bool = False,
        progress: Progress | None = None,
    ) -> str:
        """Copy a local file to ``key``. See :meth:`clipperfs.store.Store.upload`.

        Raises InvalidSource when the file cannot be read, FileNotFoundError when it is gone.
        """
        return self._upload(source, key, None, executable, progress)

    def upload_known(
        self,
        source: str | os.PathLike[str],
        key: str,
        digest: str,
        *,
        executable: bool = False,
        progress: Progress | None = None,
    ) -> str:
        return self._upload(source, key, digest, executable, progress)

    def unfinished_uploads(self, prefix: str = "") -> Iterator[Unfinished]:
        folder = self._name(prefix) if prefix else self.prefix
        return list_unfinished(self.requests, f"{folder}/" if folder else "")

    def abort_upload(self, upload: Unfinished) -> None:
        abort(self.requests, upload.name, upload.name, upload.upload)

    def _upload(
        self,
        source: str | os.PathLike[str],
        key: str,
        digest: str | None,
        executable: bool,
        progress: Progress | None,
    ) -> str:
        name = self._name(key)
        try:
            descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise InvalidSource(f"cannot read {os.fspath(source)}: {error.strerror}") from error
        with open(descriptor, "rb", buffering=0) as stream:
            return upload_stream(
                self.requests, name, key, stream, executable=executable, progress=progress, digest=digest
            )

    def rename_folder(self, source: str, target: str) -> bool:
        raise StorageError("an S3 store does not rename folders, as its capabilities say")

    def delete(self, key: str) -> None:
        name = self._name(key)

        async def remove(client: Any) -> None:
            await client.delete_object(Bucket=self.bucket, Key=name)

        self.requests.call("delete", key, remove)

    def delete_folder(self, prefix: str) -> None:
        folder = f"{self._name(prefix)}/"
        names = [found["Key"] for page in self._pages(prefix, Prefix=folder) for found in page.get("Contents", [])]
        for start in range(0, len(names), DELETED_AT_ONCE):
            batch = {"Objects": [{"Key": name} for name in names[start : start + DELETED_AT_ONCE]], "Quiet": True}

            async def remove(client: Any, batch: dict[str, Any] = batch) -> list[dict[str, Any]]:
                answer = await client.delete_objects(Bucket=self.bucket, Delete=batch)
                return list(answer.get("Errors", []))

            if failed := self.requests.call("delete", prefix, remove):
                raise StorageError(
                    f"cannot delete {len(failed)} objects below {prefix}: {failed[0].get('Code')}", hint="run it again"
                )

    def local_path(self, key: str) -> Path | None:
        return None

    def bucket_policy(self) -> str | None:
        """Return the bucket's policy document, ``None`` when it has none. Raises StorageDenied, StorageError."""

        async def get(client: Any) -> str | None:
            try:
                answer = await client.get_bucket_policy(Bucket=self.bucket)
            except Exception as error:
                if code_of(error) == "NoSuchBucketPolicy":
                    return None
                raise
            return str(answer["Policy"])

        return self.requests.call("read the policy of", self.bucket, get)

    def _pages(self, prefix: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Yield the pages of a listing, each a request of its own."""
        further: dict[str, str] = {}
        while True:

            async def get(client: Any, further: dict[str, str] = further) -> dict[str, Any]:
                page: dict[str, Any] = await client.list_objects_v2(Bucket=self.bucket, **query, **further)
                return page

            page = self.requests.call("list", prefix, get)
            yield page
            if not page.get("IsTruncated"):
                return
            further = {"ContinuationToken": page["NextContinuationToken"]}

    def _name(self, key: str) -> str:
        """Return an object's whole name in the bucket."""
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise StorageError(f"{key!r} is not a key")
        return f"{self.prefix}/{key}" if self.prefix else key


def _entry(name: str, size: int, etag: str, modified: Any, executable: bool = False) -> Entry:
    return Entry(name, "file", int(size), str(etag), modified.timestamp(), executable)
