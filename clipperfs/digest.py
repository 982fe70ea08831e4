"""SHA-256 of bytes, files and streams: the identity of everything that clipperfs stores."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO, NewType

Digest = NewType("Digest", str)
"""64 lower-case hexadecimal characters."""

NO_DIGEST = Digest("0" * 64)
"""Stands where a chain begins: the ``prev`` of the first record of a log."""

CHUNK_BYTES = 1 << 20

_HEX = re.compile(r"[0-9a-f]{64}")


def is_digest(text: object) -> bool:
    """Say whether ``text`` is the hexadecimal form of a SHA-256."""
    return isinstance(text, str) and _HEX.fullmatch(text) is not None


def digest_bytes(data: bytes) -> Digest:
    """Return the SHA-256 of ``data``."""
    return Digest(hashlib.sha256(data).hexdigest())


def digest_file(
    path: str | os.PathLike[str], progress: Callable[[int], None] = lambda size_bytes: None
) -> tuple[Digest, int]:
    """Return the SHA-256 and the size in bytes of a local file. ``progress`` is told of each chunk's size."""
    with open(path, "rb", buffering=0) as stream:
        return digest_stream(stream, progress)


def digest_stream(stream: BinaryIO, progress: Callable[[int], None] = lambda size_bytes: None) -> tuple[Digest, int]:
    """Read ``stream`` to its end; return the SHA-256 and the number of bytes read."""
    state, size_bytes = hashlib.sha256(), 0
    for chunk in read_chunks(stream):
        state.update(chunk)
        size_bytes += len(chunk)
        progress(len(chunk))
    return Digest(state.hexdigest()), size_bytes


def read_chunks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of ``stream`` in chunks of at most ``CHUNK_BYTES``."""
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk
