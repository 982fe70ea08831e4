"""Bring a version into the local cache: fetched in parallel, proven by digest, visible only when whole.

Source: ``registry_layout.md`` §8.12. What is in the cache already is used without asking the registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipperfs.adopt import read_manifest, require_complete
from clipperfs.cache import Lease
from clipperfs.digest import Digest, digest_file
from clipperfs.documents import Manifest
from clipperfs.errors import DamagedVersion
from clipperfs.fetch import Fetch
from clipperfs.names import ModelName, VersionName
from clipperfs.workspace import Workspace


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
            with workspace.cache.filling(digest):
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


def find_manifest(workspace: Workspace, model: ModelName, version: VersionName, digest: Digest) -> Manifest:
    """Return the manifest that a record names, without the files: what of them is damaged or gone matters to nobody.

    Raises:
        NotFound, DamagedVersion, StorageError: it is gone, or is not the one that was recorded.
    """
    manifest = workspace.cache.find_manifest(digest)
    if manifest is None:
        manifest, _, data = _read_manifest(workspace, model, version, digest)
        workspace.cache.keep_manifest(data)
    return manifest


def _fetch_manifest(
    workspace: Workspace, model: ModelName, version: VersionName, expected: Digest | None
) -> tuple[Manifest, Digest, bytes]:
    assessment = require_complete(workspace, model, version)
    assert assessment.manifest is not None
    return _read_manifest(workspace, model, version, expected)


def _read_manifest(
    workspace: Workspace, model: ModelName, version: VersionName, expected: Digest | None
) -> tuple[Manifest, Digest, bytes]:
    manifest, digest, data = read_manifest(workspace, model, version)
    if expected is not None and digest != expected:
        raise DamagedVersion(
            f"version {version} of model {model}: its manifest is not the one that was recorded",
            hint=f"somebody changed it after it was published; 'clipperfs verify {model}/{version}' shows what differs",
            expected=expected,
            found=digest,
        )
    return manifest, digest, data


def _fetch_files(workspace: Workspace, model: ModelName, version: VersionName, manifest: Manifest) -> None:
    cache = workspace.cache
    wanted = {str(cache.blob(entry)): entry for entry in manifest.files if not cache.has_blob(entry)}
    workspace.reporter.begin(f"fetch {model}/{version}", sum(entry.size for entry in wanted.values()))
    try:
        with Fetch(workspace, model, version) as fetch:
            fetch.fetch(list(wanted.values()))
    finally:
        workspace.reporter.end()
