"""SHA-256 of bytes, files and streams."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from clipperfs.digest import (
    CHUNK_BYTES,
    NO_DIGEST,
    digest_bytes,
    digest_file,
    digest_stream,
    is_digest,
    read_chunks,
)

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""The test vector of FIPS 180-4."""


def test_digest_is_sha256_in_lower_case_hexadecimal() -> None:
    assert digest_bytes(b"abc") == ABC
    assert digest_bytes(b"") == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_file_stream_and_bytes_agree_at_every_chunk_boundary(tmp_path: Path, size: int) -> None:
    data = bytes(n % 251 for n in range(size % 1000)) + b"\x5a" * (size - size % 1000)
    (tmp_path / "file").write_bytes(data)
    expected = (digest_bytes(data), size)
    assert digest_file(tmp_path / "file") == expected
    assert digest_stream(io.BytesIO(data)) == expected
    assert b"".join(read_chunks(io.BytesIO(data))) == data


def test_missing_file_raises_the_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digest_file(tmp_path / "absent")


@pytest.mark.parametrize("text", [ABC, NO_DIGEST, "0123456789abcdef" * 4])
def test_digest_text_is_recognised(text: str) -> None:
    assert is_digest(text)


@pytest.mark.parametrize(
    "text", ["", ABC.upper(), ABC[:-1], ABC + "0", ABC + "\n", "g" * 64, "０" * 64, None, 1, b"0" * 64]
)
def test_other_text_is_no_digest(text: object) -> None:
    assert not is_digest(text)
