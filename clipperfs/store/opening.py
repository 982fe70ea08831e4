"""From an address to a store: which class of filesystem it is, and what to say when there is none for it."""

from __future__ import annotations

import os
import re

from clipperfs.errors import InvalidSetting
from clipperfs.store.base import Store

CONDITIONAL_SCHEMES = ("az", "abfs", "abfss", "gs", "gcs")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_HDFS_PLACE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(:[0-9]{1,5})?")


def canonical_url(url: str | os.PathLike[str]) -> str:
    """Return the one spelling of a registry's address: an absolute ``file://`` URL for a local path.

    Raises:
        InvalidSetting: the address is empty, chained (``::``), of a scheme that nobody knows, or holds what does not
            belong into one, such as credentials.
    """
    text = os.fspath(url)
    if not text:
        raise InvalidSetting(
            "the registry's address is empty", hint="give a folder or a URL such as file:///srv/models"
        )
    if "::" in text:
        raise InvalidSetting(f"chained addresses are not supported: {text}", hint="give the innermost address alone")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return "file://" + os.path.abspath(os.path.expanduser(text))
    if scheme in ("file", "local"):
        return "file://" + os.path.abspath(rest)
    if scheme == "memory":
        return f"memory://{rest.strip('/') or 'default'}"
    if scheme in ("s3", "s3a"):
        return _s3_url(rest)
    if scheme in ("hdfs", "webhdfs"):
        return _hdfs_address(scheme, rest)
    from clipperfs.store.fsspec_store import canonical_fsspec_url

    return canonical_fsspec_url(text)


def open_store(url: str | os.PathLike[str]) -> Store:
    """Return the store for an address. Does no I/O. Raises InvalidSetting."""
    address = canonical_url(url)
    scheme, _, rest = address.partition("://")
    if scheme == "memory":
        from clipperfs.store.memory import memory_store

        return memory_store(rest)
    if scheme == "s3":
        from clipperfs.store.s3 import S3Store  # heavy: only who uses it waits for it

        return S3Store(*rest.partition("/")[::2])
    if scheme in ("hdfs", "webhdfs"):
        from clipperfs.store.hdfs import hdfs_store

        return hdfs_store(address)
    if scheme in CONDITIONAL_SCHEMES:
        from clipperfs.store.conditional_store import ConditionalStore

        return ConditionalStore(address)
    if scheme != "file":
        from clipperfs.store.fsspec_store import FsspecStore

        return FsspecStore(address)
    from clipperfs.store.local import LocalStore

    return LocalStore(rest)


def _s3_url(rest: str) -> str:
    bucket, _, path = rest.partition("/")
    if "@" in bucket:  # told without the address: it may hold a secret
        raise InvalidSetting(
            "an s3:// address holds no credentials",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and give s3://bucket/prefix",
        )
    segments = [segment for segment in path.split("/") if segment]
    if _BUCKET.fullmatch(bucket) is None or ".." in segments or "." in segments or "?" in rest or "#" in rest:
        raise InvalidSetting(
            f"not an address in a bucket: s3://{rest}",
            hint="give s3://bucket/prefix; the server's address goes into AWS_ENDPOINT_URL",
        )
    return "/".join(["s3:/", bucket, *segments])


def _hdfs_address(scheme: str, rest: str) -> str:
    place, _, path = rest.partition("/")
    needs_port = scheme == "webhdfs"
    if _HDFS_PLACE.fullmatch(place) is None or (needs_port and ":" not in place) or "?" in rest or "#" in rest:
        raise InvalidSetting(
            f"{scheme}://{rest} is not the address of a folder on HDFS",
            hint="give hdfs://HOST:PORT/path, hdfs://NAMESERVICE/path or webhdfs://HOST:PORT/path; "
            "the user is that of HADOOP_USER_NAME",
        )
    folder = os.path.normpath(f"/{path}").lstrip("/")
    return f"{scheme}://{place}/{folder}"
