"""The local cache: verified private copies of versions, blobs shared by digest, never a version in use evicted.

    blobs/sha256/<digest>[x]     one file for each content; 'x' where it may be executed
    versions/<manifest digest>/  a version's tree, of hard links to blobs
    manifests/<manifest digest>  the manifest's bytes
    recorded/<registry>/<model>  which versions a log records: see ``clipperfs.recorded``
    signatures/<manifest digest>-<key id>  a signature over it: proven anew each time, without the registry
    locks/<manifest digest>      held shared by whoever uses the version; its time is the last use
    partial/<digest>[x]          the beginning of a content; its writer holds its lock (:mod:`clipperfs.fetch`)
    filling/<manifest digest>    somebody began to bring this version in: its blobs stay, though no tree links to them

Why our own: fsspec's caches return a truncated file without an error (measured).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipperfs.digest import Digest, digest_bytes, is_digest
from clipperfs.documents import FileEntry, Manifest, parse_document
from clipperfs.errors import InvalidDocument
from clipperfs.limits import LIMITS
from clipperfs.store.oserror import storage_error, told_plainly

STALE_TEMPORARY_S = 86_400.0
"""What interrupted work left behind is kept for so long, in case it is taken up again."""


def default_cache_dir() -> Path:
    """Return the user's cache folder (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and os.path.isabs(base) else Path.home() / ".cache") / "clipperfs"


@dataclass(frozen=True, slots=True)
class CachedVersion:
    """A version in the cache."""

    digest: Digest
    size_bytes: int
    last_used_unix_s: float


class Lease:
    """Holds a version in the cache for as long as it is open. Survives nothing: the lock goes with the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Cache:
    """A folder on this host, shared safely by any number of processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def tree(self, digest: Digest) -> Path:
        """Return where a version's tree is, or would be."""
        return self.root / "versions" / digest

    def blob(self, entry: FileEntry) -> Path:
        """Return where a file's content is, or would be."""
        return self.root / "blobs" / "sha256" / (entry.sha256 + ("x" if entry.executable else ""))

    def lease(self, digest: Digest) -> Lease:
        """Take hold of a version, present or about to be, so that nobody evicts it. Raises StorageError."""
        path = self._folder("locks") / digest
        with told_plainly("lock", str(path)):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            os.utime(path)
        return Lease(descriptor)

    def find_manifest(self, digest: Digest) -> Manifest | None:
        """Return a manifest whose bytes are in the cache and have that digest."""
        try:
            data = (self.root / "manifests" / digest).read_bytes()
        except OSError:
            return None
        if digest_bytes(data) != digest:
            return None
        try:
            return parse_document(Manifest, data, limit_bytes=LIMITS.manifest_bytes)
        except InvalidDocument:
            return None

    def keep_manifest(self, data: bytes) -> None:
        """Keep a manifest's bytes under their digest. Raises StorageError."""
        self.write(self._folder("manifests") / digest_bytes(data), data)

    def find_signature(self, digest: Digest, key_id: str) -> bytes | None:
        """Return a signature document that was kept. Nothing says that it is valid: the caller proves it."""
        try:
            with open(self.root / "signatures" / f"{digest}-{key_id}", "rb") as stream:
                return stream.read(LIMITS.signature_bytes + 1)
        except OSError:
            return None

    def keep_signature(self, digest: Digest, key_id: str, data: bytes) -> None:
        """Keep a signature document. Raises StorageError."""
        self.write(self._folder("signatures") / f"{digest}-{key_id}", data)

    def has_tree(self, digest: Digest, manifest: Manifest) -> bool:
        """Say whether the version's tree is there with the right files of the right sizes."""
        tree = self.tree(digest)
        try:
            return all(os.lstat(tree / entry.path).st_size == entry.size for entry in manifest.files)
        except OSError:
            return False

    def build_tree(self, digest: Digest, manifest: Manifest) -> Path:
        """Make the version's tree of links to blobs that are all there, in one visible step. Raises StorageError."""
        goal = self.tree(digest)
        building = self._folder("versions") / f".building-{secrets.token_hex(8)}"
        with told_plainly("build", str(goal)):
            try:
                for entry in manifest.files:
                    link = building / entry.path
                    link.parent.mkdir(parents=True, exist_ok=True)
                    os.link(self.blob(entry), link)
                building.mkdir(exist_ok=True)
                while not _has_renamed(building, goal):
                    if self.has_tree(digest, manifest):
                        break  # another process was quicker, and somebody may be reading its tree
                    with contextlib.suppress(FileNotFoundError):  # an older tree with a file lost or changed
                        os.rename(goal, building.with_name(f".broken-{secrets.token_hex(8)}"))
            finally:
                shutil.rmtree(building, ignore_errors=True)
        return goal

    def discard(self, digest: Digest, manifest: Manifest) -> None:
        """Forget a version's tree and blobs: they were found to be damaged."""
        shutil.rmtree(self.tree(digest), ignore_errors=True)
        for entry in manifest.files:
            with contextlib.suppress(OSError):
                os.unlink(self.blob(entry))

    def has_blob(self, entry: FileEntry) -> bool:
        """Say whether a file's content is there."""
        try:
            return os.lstat(self.blob(entry)).st_size == entry.size
        except OSError:
            return False

    def find_twin(self, entry: FileEntry) -> Path | None:
        """Return the blob with the same content that differs in whether it may be executed, if it is there."""
        twin = entry.model_copy(update={"executable": not entry.executable})
        return self.blob(twin) if self.has_blob(twin) else None

    def partial(self, entry: FileEntry) -> Path:
        """Return where the beginning of a file's content is, or would be."""
        return self.root / "partial" / self.blob(entry).name

    def lock_partial(self, entry: FileEntry) -> int | None:
        """Open the beginning of a content for writing, alone; ``None`` when somebody else writes it.

        Returns a descriptor. Closing it, or the end of the process, lets go. Raises StorageError.
        """
        path = self._folder("partial") / self.partial(entry).name
        self._folder("blobs/sha256")
        with told_plainly("lock", str(path)):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
            except (BlockingIOError, FileNotFoundError):
                pass
            os.close(descriptor)  # another's, or renamed or removed since it was opened
            return None

    @contextlib.contextmanager
    def filling(self, digest: Digest) -> Iterator[None]:
        """Keep blobs that no tree links to yet from being swept while the block runs.

        When it fails, or the process dies, those of this version stay for a day, to be used by the next attempt.
        """
        marker = self._folder("filling") / digest
        with told_plainly("write", str(marker)):
            marker.touch(mode=0o600)
        with self._locked(fcntl.LOCK_SH):
            yield
        with contextlib.suppress(OSError):  # the version is there; a marker that stays keeps blobs for a day, no more
            marker.unlink()

    def new_blob_path(self) -> Path:
        """Return a fresh path beside the blobs, to be renamed to :meth:`blob` when its content is proven."""
        return self._folder("blobs/sha256") / f".part-{secrets.token_hex(8)}"

    def versions(self) -> list[CachedVersion]:
        """Return what is in the cache, the longest unused first."""
        found = []
        for tree in (self.root / "versions").glob("*"):
            if not is_digest(tree.name):
                continue
            size_bytes = _tree_bytes(tree)
            try:
                last_used = os.stat(self.root / "locks" / tree.name).st_mtime
            except OSError:
                last_used = 0.0
            found.append(CachedVersion(Digest(tree.name), size_bytes, last_used))
        return sorted(found, key=lambda version: version.last_used_unix_s)

    def evict(self, limit_bytes: int) -> int:
        """Drop the longest unused versions until the cache holds at most ``limit_bytes``; return the bytes freed.

        Never drops a version that anybody holds, so the cache may stay above the limit.
        """
        versions = self.versions()
        excess, freed = sum(version.size_bytes for version in versions) - limit_bytes, 0
        for version in versions:
            if freed >= excess:
                break
            if self._drop(version.digest):
                freed += version.size_bytes
        with (
            told_plainly("sweep", str(self.root)),
            contextlib.suppress(BlockingIOError),
            self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB),
        ):
            self._sweep()  # while somebody fills the cache, it is left to whoever evicts next
        return max(freed, 0)

    def write(self, path: Path, data: bytes) -> None:
        """Write a small file in one visible, durable step. Raises StorageError."""
        part = path.with_name(f".part-{secrets.token_hex(8)}")
        with told_plainly("write", str(path)):
            try:
                with open(part, "xb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.rename(part, path)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part)

    def is_held(self, digest: Digest) -> bool:
        """Say whether a process of this host holds a version at this moment. What cannot be found out is not held."""
        try:
            descriptor = os.open(self.root / "locks" / digest, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _drop(self, digest: Digest) -> bool:
        path = self._folder("locks") / digest
        with told_plainly("lock", str(path)):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            away = self.root / "versions" / f".evicted-{secrets.token_hex(8)}"
            os.rename(self.tree(digest), away)
            shutil.rmtree(away, ignore_errors=True)
            return True
        except (BlockingIOError, FileNotFoundError):
            return False
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove blobs that no tree links to, and what interrupted work left behind."""
        wanted = self._wanted_blobs()
        for blob in (self.root / "blobs" / "sha256").glob("*"):
            if os.lstat(blob).st_nlink == 1 and blob.name not in wanted:
                blob.unlink()
        for partial in (self.root / "partial").glob("*"):
            _remove_unlocked(partial)
        for left in [*(self.root / "versions").glob(".*"), *(self.root / "manifests").glob(".*")]:
            with contextlib.suppress(FileNotFoundError):  # its owner may be removing it at this moment
                if left.name.startswith(".evicted-") or time.time() - os.lstat(left).st_mtime > STALE_TEMPORARY_S:
                    shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()

    def _wanted_blobs(self) -> set[str]:
        """Return the names of the blobs of versions that somebody began to bring in less than a day ago."""
        wanted: set[str] = set()
        for marker in (self.root / "filling").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - os.lstat(marker).st_mtime > STALE_TEMPORARY_S:
                    marker.unlink()
                elif (manifest := self.find_manifest(Digest(marker.name))) is not None:
                    wanted.update(self.blob(entry).name for entry in manifest.files)
        return wanted

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        path = self._folder(".") / "lock"
        with told_plainly("lock", str(path)):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, how)
            except BlockingIOError:
                raise  # the answer to whoever does not want to wait
            except OSError as error:
                raise storage_error(error, "lock", str(path)) from error
            yield
        finally:
            os.close(descriptor)

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        with told_plainly("create", str(folder)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder


def _tree_bytes(tree: Path) -> int:
    """Return the size of the files below ``tree``; what another process removes meanwhile does not count."""
    size_bytes = 0
    for folder, _, names in os.walk(tree):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size_bytes += os.lstat(os.path.join(folder, name)).st_size
    return size_bytes


def _remove_unlocked(partial: Path) -> None:
    """Remove the beginning of a content that nobody has written to for a day."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError):
        if time.time() - os.lstat(partial).st_mtime <= STALE_TEMPORARY_S:
            return
        descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()
        finally:
            os.close(descriptor)


def _has_renamed(source: Path, target: Path) -> bool:
    """Rename a folder unless the target holds something; say whether it was renamed."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True
