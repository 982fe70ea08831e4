"""Whether a version's private copy is what its manifest lists: by digest, or by a quick look at what has changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from clipperfs.digest import digest_bytes, digest_stream
from clipperfs.documents import Manifest
from clipperfs.layout import MANIFEST_FILE

Fingerprint = Mapping[str, tuple[int, ...]]
"""By path: what the filesystem says of it. A write, also one that restores the modification time, shows in ctime."""


def take_fingerprint(path: Path) -> Fingerprint:
    """Return what ``stat`` says of everything below ``path``."""
    return {
        name: (info.st_ino, info.st_mode, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        for name, info in _walk(path)
    }


def copy_problems(path: Path, manifest: Manifest, manifest_digest: str) -> list[str]:
    """Return how the files at ``path`` differ from the manifest; nothing when they are exactly what it lists.

    Links, devices and files that the manifest does not list are differences; so is another ``manifest.json``.
    """
    expected = {entry.path: entry for entry in manifest.files}
    problems, seen = [], set()
    for name, info in _walk(path):
        if stat.S_ISDIR(info.st_mode):
            continue
        if not stat.S_ISREG(info.st_mode):
            problems.append(f"{name} is a {_kind(info.st_mode)}")
            seen.add(name)
            continue
        if name == MANIFEST_FILE:
            if digest_bytes((path / name).read_bytes()) != manifest_digest:
                problems.append(f"{name} is not the manifest that was read")
            continue
        entry = expected.get(name)
        if entry is None:
            problems.append(f"{name} is not in the manifest")
            continue
        seen.add(name)
        if info.st_size != entry.size:
            problems.append(f"{name} has {info.st_size} bytes instead of {entry.size}")
        elif (found := _digest(path / name)) != entry.sha256:
            problems.append(f"{name} has SHA-256 {found[:12]}… instead of {entry.sha256[:12]}…")
    problems += [f"{name} is missing" for name in expected if name not in seen]
    return problems


def changed_since(before: Fingerprint, path: Path, manifest: Manifest, manifest_digest: str) -> list[str]:
    """Return what has changed in the copy since ``before``, or nothing.

    An inode that looks different is not yet a change (another version may have been hard-linked to the same blob), so
    then everything is hashed again.
    """
    if take_fingerprint(path) == before:
        return []
    return copy_problems(path, manifest, manifest_digest)


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the relative name and ``lstat`` of everything below ``root``, in order, without following links."""
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = f"{folder}/{entry.name}" if folder else entry.name
                yield name, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)


def _digest(path: Path) -> str:
    # O_NONBLOCK: if a pipe has taken the file's place since lstat, opening it must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as stream:
        return digest_stream(stream)[0]


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "symbolic link"
    return "pipe" if stat.S_ISFIFO(mode) else "special file"
