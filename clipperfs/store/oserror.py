"""Errors of the operating system, told in the project's own terms."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from clipperfs.errors import StorageDenied, StorageError, StorageFull, StorageUnavailable
from clipperfs.rights import denial

_DENIED = frozenset([errno.EACCES, errno.EPERM, errno.EROFS])
_FULL = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
_AWAY = frozenset(
    [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV, errno.ENXIO]
)


@contextmanager
def told_plainly(action: str, key: str) -> Iterator[None]:
    """Turn an ``OSError`` into a StorageError that names the call and the key."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, action, key) from error
    except StorageDenied as error:  # a client has found its own words, and knows nothing of keys
        name_right(error, action, key)
        raise


def name_right(error: StorageError, action: str, key: str) -> StorageError:
    """Let a denial say which right on which model is lacking; any other error stays as it is. Returns the error."""
    named = denial(action, key, error.message) if isinstance(error, StorageDenied) else None
    if named is not None and "model" not in error.fields:
        error.message, error.hint, fields = named
        error.fields = {"key": key, **error.fields, **fields}
        error.args = (error.message,)
    return error


def storage_error(error: OSError, action: str, key: str) -> StorageError:
    """Return what an ``OSError`` means: denied, full, away, or something else."""
    what = f"cannot {action} {key}: {error.strerror or error}"
    fields = {"key": key, "errno": errno.errorcode.get(error.errno or 0, str(error.errno))}
    if error.errno in _DENIED:
        right = "the filesystem is mounted read-only" if error.errno == errno.EROFS else "this user lacks the right"
        denied = StorageDenied(
            what, hint=f"{right}; ask the registry's owner for write access to that folder", **fields
        )
        return denied if error.errno == errno.EROFS else name_right(denied, action, key)
    if error.errno in _FULL:
        return StorageFull(
            what, hint="make room on the filesystem and run the command again; nothing was lost", **fields
        )
    if error.errno in _AWAY:
        return StorageUnavailable(what, hint="check the mount, then run the command again", **fields)
    return StorageError(what, hint="run the command again; if it fails in the same way, check the filesystem", **fields)
