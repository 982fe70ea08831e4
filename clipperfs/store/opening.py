"""From an address to a store: which class of filesystem it is, and what to say when there is none for it."""

from __future__ import annotations

import os

from clipperfs.errors import InvalidSetting
from clipperfs.store.base import Store

WRITABLE_SCHEMES = ("file", "memory")
CONDITIONAL_SCHEMES = ("az", "abfs", "abfss", "gs", "gcs")
OWN_CLASS_LATER = ("s3", "s3a", "hdfs", "webhdfs")
"""Not left to the class for everything else, which would call them read-only."""


def canonical_url(url: str | os.PathLike[str]) -> str:
    """Return the one spelling of a registry's address: an absolute ``file://`` URL for a local path.

    Raises:
        InvalidSetting: the address is empty, chained (``::``), or of a scheme that nobody knows.
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
    if scheme in OWN_CLASS_LATER:
        raise InvalidSetting(
            f"no store class for {scheme}:// in this release",
            hint=f"for any number of writers: {', '.join(WRITABLE_SCHEMES)}",
            scheme=scheme,
        )
    from clipperfs.store.fsspec_store import canonical_fsspec_url

    return canonical_fsspec_url(text)


def open_store(url: str | os.PathLike[str]) -> Store:
    """Return the store for an address. Does no I/O. Raises InvalidSetting."""
    address = canonical_url(url)
    scheme, _, rest = address.partition("://")
    if scheme == "memory":
        from clipperfs.store.memory import memory_store

        return memory_store(rest)
    if scheme in CONDITIONAL_SCHEMES:
        from clipperfs.store.conditional_store import ConditionalStore

        return ConditionalStore(address)
    if scheme != "file":
        from clipperfs.store.fsspec_store import FsspecStore

        return FsspecStore(address)
    from clipperfs.store.local import LocalStore

    return LocalStore(rest)
