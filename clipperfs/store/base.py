"""The storage interface: the few operations that a registry needs, and what a filesystem declares of them.

Keys are relative to the registry's root. Every method may raise StorageDenied, StorageFull, StorageUnavailable or
StorageError; absence is a return value. Source of the required operations: ``registry_layout.md`` §3.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, runtime_checkable

FileKind = Literal["file", "folder", "link", "special"]

Progress = Callable[[int], None]
"""Called with the number of bytes moved since the last call."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a filesystem can do. A store refuses at once what it does not declare."""

    exclusive_create: bool
    """:meth:`Store.create` lets exactly one of several concurrent writers win, and never shows part of the content."""
    rename_folder: bool
    """:meth:`Store.rename_folder` moves a tree in one step, and never over one that holds something."""
    durable: bool
    """A call that has returned survives a loss of power."""
    native_events: bool
    """The operating system tells of changes (inotify), as an accelerator of polling."""
    ranged_reads: bool = False
    """:meth:`RangedStore.read_range` is there: several parts of one file are worth asking for at the same time."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder, without following links."""

    name: str
    """The last segment from :meth:`Store.list`; the path below the prefix from :meth:`Store.walk`."""
    kind: FileKind
    size: int
    """In bytes; 0 for a folder."""
    token: str
    """Changes when the content does, as far as the filesystem can tell (modification time, ETag). Never proof. Empty
    for a folder where looking at it would cost more than listing it; :meth:`Store.stat` may tell."""
    modified_unix_s: float
    """0 for a folder wherever its token is empty."""
    executable: bool = False


class Store(Protocol):
    """A registry's filesystem. Every method may be called from any thread."""

    url: str
    store_class: str
    capabilities: Capabilities

    def read(self, key: str, *, limit_bytes: int) -> bytes | None:
        """Return a file's content, ``None`` when absent. Raises StoredDataError beyond ``limit_bytes``. Idempotent."""

    def open(self, key: str) -> BinaryIO | None:
        """Open a regular file for reading from its start; ``None`` when absent. Never follows a link."""

    def stat(self, key: str) -> Entry | None:
        """Return a file's or folder's entry, or ``None`` when it is absent. One request. Idempotent."""

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """Yield a folder's direct children named after ``after``, in order of their names. Absent: nothing."""

    def walk(self, prefix: str) -> Iterator[Entry]:
        """Yield everything below a folder but folders themselves, in no particular order, without following links."""

    def create(self, key: str, data: bytes) -> bool:
        """Create a file with this content, exclusively and durably; return ``False`` when the name is taken.

        Guarantees: of concurrent callers at most one gets ``True``; no reader ever sees part of the content. Not
        idempotent: after an error, read back and compare. ``data`` is never empty.
        """

    def replace(self, key: str, data: bytes) -> None:
        """Write a file, over an older one if there is one. Readers see the old content or the new. Idempotent."""

    def upload(
        self,
        source: str | os.PathLike[str],
        key: str,
        *,
        executable: bool = False,
        progress: Progress | None = None,
    ) -> str:
        """Copy a local regular file to ``key``, which nobody else writes; return its SHA-256. Idempotent."""

    def rename_folder(self, source: str, target: str) -> bool:
        """Move a folder in one durable step; return ``False`` when ``target`` holds something. Needs the capability."""

    def delete(self, key: str) -> None:
        """Delete a file; absent is fine. Idempotent."""

    def delete_folder(self, prefix: str) -> None:
        """Delete everything below a folder, and the folder; absent is fine. Not atomic. Idempotent."""

    def local_path(self, key: str) -> Path | None:
        """Return where the key lies on this host's own filesystem, or ``None`` when it does not."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive bytes of a file, and how long the whole file was when they were read."""

    data: bytes
    size_bytes: int
    """Of the whole file. Where no byte lies at the start that was asked for: at most that start."""


@runtime_checkable
class RangedStore(Protocol):
    """What a store offers besides when it declares ``ranged_reads``."""

    capabilities: Capabilities

    def read_range(self, key: str, start: int, length: int) -> Piece | None:
        """Read at most ``length`` bytes from ``start``, fewer only at the file's end; ``None`` when absent.

        Idempotent. Two ranges may belong to different contents when the file is replaced in between: whoever puts them
        together compares the digest of the whole.
        """


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload in parts that was begun and has not ended. What it holds takes room and is not seen by anybody."""

    name: str
    """Of the file that it was to become, as the server knows it."""
    upload: str
    began_unix_s: float
    size_bytes: int


@runtime_checkable
class PartedStore(Protocol):
    """What a store offers besides whose uploads in parts outlive a crash: it goes on with them, and collects them."""

    def upload_known(
        self,
        source: str | os.PathLike[str],
        key: str,
        digest: str,
        *,
        executable: bool = False,
        progress: Progress | None = None,
    ) -> str:
        """Do as :meth:`Store.upload` with a file whose SHA-256 the caller has just computed: it is read once.

        Raises InvalidSource when the bytes that are sent have another.
        """

    def unfinished_uploads(self, prefix: str = "") -> Iterator[Unfinished]:
        """Yield the uploads below a folder that have not ended, by whatever tool."""

    def abort_upload(self, upload: Unfinished) -> None:
        """Take away what an upload holds. Idempotent."""


def ranged(store: Store) -> RangedStore | None:
    """Return the store's way to read ranges, or ``None`` when reading as a stream is all there is."""
    return store if store.capabilities.ranged_reads and isinstance(store, RangedStore) else None


@runtime_checkable
class NeedsDeclaration(Protocol):
    """What a store offers besides when it cannot create exclusively: it writes only for a declared single writer."""

    def declare_single_writer(self) -> None:
        """Let this store write from now on. Nothing but the caller's word keeps a second writer away."""
