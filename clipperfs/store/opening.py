"""From an address to a store: which class of filesystem it is, and what to say when there is none for it."""

from __future__ import annotations

import os
import re

from clipperfs.errors import InvalidSetting
from clipperfs.store.base import Store

WRITABLE_SCHEMES = ("file", "memory", "s3")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def canonical_url(url: str | os.PathLike[str]) -> str:
    """Return the one spelling of a registry's address: an absolute ``file://`` URL for a local path.

    Raises:
        InvalidSetting: the address is empty, chained (``::``), of a scheme without a store class, or holds what does
            not belong into one, such as credentials.
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
    raise InvalidSetting(
        f"no store class for {scheme}:// in this release",
        hint=f"registries live on a local filesystem or in an S3 bucket for now; known: {', '.join(WRITABLE_SCHEMES)}",
        scheme=scheme,
    )


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
