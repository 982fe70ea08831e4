"""The author's sample inputs of a version, from its settings or from a JSON file among its own files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clipperfs.documents import VersionSettings
from clipperfs.documents.base import parse_json
from clipperfs.errors import DamagedVersion, InvalidDocument

MAX_SAMPLE_BYTES = 64 * 1024 * 1024


def read_sample(path: Path, settings: VersionSettings) -> list[Any] | None:
    """Return the sample inputs, or ``None`` when the author gave none.

    Args:
        path: The version's files.
        settings: Its effective settings.

    Raises:
        DamagedVersion: the sample's file is absent, too large, not JSON, or not a list with at least one input.
    """
    if not isinstance(settings.sample, str):
        return settings.sample
    sample = read_json_file(path, settings.sample, noun="sample")
    if not isinstance(sample, list) or not sample:
        raise DamagedVersion(
            f"sample file {settings.sample} must be a JSON list with at least one input",
            hint="write a list of inputs, as they would be sent in input_batch",
        )
    return sample


def read_json_file(path: Path, name: str, *, noun: str) -> Any:
    """Return the content of JSON file ``name`` of the version at ``path``. Raises DamagedVersion.

    A link is never followed: it could lead out of the version.
    """
    return parse_json_bytes(read_version_file(path, name, noun=noun), f"{noun} file {name}")


def parse_json_bytes(data: bytes, what: str) -> Any:
    """Return strict JSON. Raises DamagedVersion, which says ``what`` is wrong."""
    try:
        return parse_json(data, limit_bytes=len(data))
    except InvalidDocument as error:
        raise DamagedVersion(f"{what}: {error.message}") from error


def read_version_file(path: Path, name: str, *, noun: str, limit_bytes: int = MAX_SAMPLE_BYTES) -> bytes:
    """Return the bytes of file ``name`` of the version at ``path``. Raises DamagedVersion."""
    try:
        descriptor = os.open(path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes > limit_bytes:
                raise DamagedVersion(f"{noun} file {name}: {size_bytes} bytes are more than the limit of {limit_bytes}")
            return stream.read()
    except OSError as error:
        raise DamagedVersion(f"{noun} file {name} of the version cannot be read: {error.strerror}") from error
