"""What integration tests share: a registry on the local disk, a small disk, and hooks that answer at once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipperfs import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Return a fresh registry with a cache of its own."""
    return Registry.init(tmp_path / "registry", cache_dir=tmp_path / "cache", actor="test@here")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a small folder that the ``noop`` wrapper can load."""
    return write_version(tmp_path / "version", b"weights")


def write_version(path: Path, weights: bytes, yaml: str = "wrapper: noop\n") -> Path:
    """Write a small version into ``path``."""
    (path / "sub").mkdir(parents=True)
    (path / "weights.bin").write_bytes(weights)
    (path / "sub" / "more.txt").write_text("more")
    (path / "model.yaml").write_text(yaml)
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a mounted disk of 256 KiB. Needs root."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
