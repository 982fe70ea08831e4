"""Bring a version into the local cache: fetched in parallel, proven by digest, visible only when whole.

Source: ``registry_layout.md`` §8.12. What is in the cache already is used without asking the registry.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from clipperfs import layout
from clipperfs.adopt import read_manifest, require_complete
from clipperfs.cache import Lease
from clipperfs.digest import Digest, digest_file, read_chunks
from clipperfs.documents import FileEntry, Manifest
from clipperfs.errors import DamagedVersion, IncompleteVersion
from clipperfs.names import ModelName, VersionName
from clipperfs.store.oserror import told_plainly
from clipperfs.workspace import Workspace

PARALLEL_FILES = 4


@dataclass(frozen=True, slots=True)
class Materialised:
    """A version in the local cache. Keep ``lease`` for as long as the files are needed."""

    path: Path
    manifest: Manifest
    manifest_digest: Digest
    lease: Lease


def materialise(
    workspace: Workspace, model: ModelName, version: VersionName, *, digest: Digest | None = None
) -> Materialised:
    """Return a verified private copy of a version.

    Args:
        digest: The manifest's digest, where a record names it: then no other manifest is accepted, and a copy in the
            cache is used even while the registry is away.

    Raises:
        NotFound: no such version.
        IncompleteVersion: it is still incoming; the message lists what is missing.
        DamagedVersion: a file's bytes are not what the manifest says, or the manifest is not the one named.
        StorageError: the registry or the cache cannot be used.
    """
    manifest = workspace.cache.find_manifest(digest) if digest is not None else None
    if manifest is None or digest is None:
        manifest, digest, data = _fetch_manifest(workspace, model, version, digest)
        workspace.cache.keep_manifest(data)
    lease = workspace.cache.lease(digest)
    try:
        if not workspace.cache.has_tree(digest, manifest):
            with workspace.cache.filling():
                _fetch_files(workspace, model, version, manifest)
                workspace.cache.build_tree(digest, manifest)
        return Materialised(workspace.cache.tree(digest), manifest, digest, lease)
    except BaseException:
        lease.release()
        raise


def verify_copy(copy: Materialised) -> list[str]:
    """Hash the private copy again; return the paths whose bytes are not what the manifest says."""
    damaged = []
    for entry in copy.manifest.files:
        try:
            found = digest_file(copy.path / entry.path)
        except OSError:
            found = (Digest(""), -1)
        if found != (entry.sha256, entry.size):
            damaged.append(entry.path)
    return damaged


def _fetch_manifest(
    workspace: Workspace, model: ModelName, version: VersionName, expected: Digest | None
) -> tuple[Manifest, Digest, bytes]:
    assessment = require_complete(workspace, model, version)
    manifest, digest, data = read_manifest(workspace, model, version)
    if expected is not None and digest != expected:
        raise DamagedVersion(
            f"version {version} of model {model}: its manifest is not the one that was recorded",
            hint=f"somebody changed it after it was published; 'clipperfs verify {model}/{version}' shows what differs",
            expected=expected,
            found=digest,
        )
    assert assessment.manifest is not None
    return manifest, digest, data


def _fetch_files(workspace: Workspace, model: ModelName, version: VersionName, manifest: Manifest) -> None:
    wanted = {str(workspace.cache.blob(entry)): entry for entry in manifest.files if not _has_blob(workspace, entry)}
    workspace.reporter.begin(f"fetch {model}/{version}", sum(entry.size for entry in wanted.values()))
    try:
        with ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="fetch") as pool:
            for done in [pool.submit(_fetch_file, workspace, model, version, entry) for entry in wanted.values()]:
                done.result()
    finally:
        workspace.reporter.end()


def _has_blob(workspace: Workspace, entry: FileEntry) -> bool:
    try:
        return os.lstat(workspace.cache.blob(entry)).st_size == entry.size
    except OSError:
        return False


def _fetch_file(workspace: Workspace, model: ModelName, version: VersionName, entry: FileEntry) -> None:
    source = workspace.store.open(layout.payload(model, version, entry.path))
    if source is None:
        raise IncompleteVersion(f"version {version} of model {model}: {entry.path} is gone", missing=[entry.path])
    part = workspace.cache.new_blob_path()
    state, size_bytes = hashlib.sha256(), 0
    with source, told_plainly("fetch", str(part)):
        try:
            with open(part, "xb") as stream:  # buffered: a raw write may take only a part of a chunk
                for chunk in read_chunks(source):
                    size_bytes += len(chunk)
                    if size_bytes > entry.size:
                        break
                    state.update(chunk)
                    stream.write(chunk)
                    workspace.reporter.advance(len(chunk))
                stream.flush()
                os.fsync(stream.fileno())
            if size_bytes != entry.size or state.hexdigest() != entry.sha256:
                raise DamagedVersion(
                    f"version {version} of model {model}: the bytes of {entry.path} are not those of the manifest",
                    hint="the file was changed or cut short after publishing; publish it again under a new name",
                    path=entry.path,
                )
            os.chmod(part, 0o555 if entry.executable else 0o444)
            os.rename(part, workspace.cache.blob(entry))
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
