"""Publish a local folder as a version: hash while copying, the manifest last, then the record.

Where the filesystem can rename a folder, the version appears in one step; elsewhere it is incoming until its manifest
is there. Publishing is not activating. Source: ``registry_layout.md`` §8.4.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from clipperfs import layout
from clipperfs.adopt import Assessment, look_at, new_manifest, require_bytes, seal_copy
from clipperfs.digest import Digest, digest_bytes
from clipperfs.documents import (
    Evidence,
    FileEntry,
    Manifest,
    ModelRecord,
    ModelState,
    VersionSettings,
    canonical_bytes,
    utc_now,
)
from clipperfs.documents.base import parse_json
from clipperfs.errors import (
    Conflict,
    IncompleteVersion,
    InvalidDocument,
    InvalidSource,
    NotFound,
    StorageDenied,
    StorageError,
)
from clipperfs.ledger import Draft, Head
from clipperfs.limits import LIMITS
from clipperfs.names import ModelName, VersionName
from clipperfs.recorded import find_recorded
from clipperfs.signing.version import sign_version
from clipperfs.source import Source, SourceFile, hash_source
from clipperfs.store import PartedStore, Store
from clipperfs.workspace import Workspace

SMALL_BYTES = 8 << 20
SMALL_FILES_AT_ONCE = 4
"""Files up to that size are sent so many at a time to a store of uploads in parts."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A version that is in the registry and in its model's log."""

    manifest_digest: Digest
    manifest: Manifest
    record: Head[ModelRecord]
    was_there: bool
    """Whether the same bytes had been published before."""


@dataclass(frozen=True, slots=True)
class Brought:
    """A version whose files are in the registry, whether or not a record says so."""

    manifest_digest: Digest
    manifest: Manifest
    was_there: bool
    """Whether the same bytes were there before."""


def publish(
    workspace: Workspace, model: ModelName, version: VersionName, source: Source, reason: str | None
) -> Committed:
    """Bring a source into the registry as a version and record it.

    Guarantees: a crash at any point leaves nothing, a staging that nobody sees, or a complete version; running it again
    completes. Publishing the same bytes again changes nothing.

    Raises:
        Conflict: the version exists with other content, or was deleted.
        InvalidSource: a file changed or vanished while it was read.
        StorageDenied: a right is lacking; when it is the one to activate, the version is there and not recorded.
        StorageError: the registry could not be written; nothing is visible.
    """
    brought = _bring(workspace, model, version, source)
    try:
        return record_version(
            workspace,
            model,
            version,
            brought.manifest,
            brought.manifest_digest,
            "publish",
            reason,
            was_there=brought.was_there,
        )
    except StorageDenied as error:
        error.message = f"version {version} of model {model} is there, but not recorded: {error.message}"
        raise


def bring(workspace: Workspace, model: ModelName, version: VersionName, source: Source) -> Brought:
    """Bring a source into the registry as a version, and sign it if there is a key, but write no record.

    That needs the right to publish alone: a daemon adopts the version, or somebody who may activate seals it. Raises
    what :func:`publish` raises.
    """
    brought = _bring(workspace, model, version, source)
    _sign(workspace, model, version, brought.manifest_digest)
    return brought


def _bring(workspace: Workspace, model: ModelName, version: VersionName, source: Source) -> Brought:
    try:
        existing: Assessment | None = look_at(workspace, model, version)
    except NotFound:
        existing = None
    if existing is not None and existing.manifest is not None:
        return _bring_again(workspace, model, version, source, existing)
    if existing is not None and not existing.is_publishing:
        raise Conflict(
            f"version {version} of model {model} holds files without a manifest",
            hint=f"a copy is going on, or ended without one: 'clipperfs seal {model} {version}', "
            f"or 'clipperfs delete {model} {version}', or take another version name",
        )
    if workspace.store.capabilities.rename_folder:
        manifest, digest = _publish_by_rename(workspace, model, version, source)
    elif (written := _publish_in_place(workspace, model, version, source)) is not None:
        manifest, digest = written
    else:
        return _bring_again(workspace, model, version, source, look_at(workspace, model, version))
    return Brought(digest, manifest, was_there=False)


def adopt(
    workspace: Workspace, model: ModelName, version: VersionName, settings: VersionSettings | None, reason: str | None
) -> Committed:
    """Make a plain copy a version of the registry: write its manifest if it has none, and record it.

    Raises NotFound, IncompleteVersion, DamagedVersion, InvalidDocument, Conflict, StorageError.
    """
    assessment = look_at(workspace, model, version)
    was_there = assessment.manifest is not None
    if assessment.missing == [layout.MANIFEST_FILE]:
        seal_copy(workspace, model, version, settings)
        assessment = look_at(workspace, model, version)
    if assessment.state == "incoming":
        raise IncompleteVersion(
            f"version {version} of model {model} is incoming; missing: {', '.join(assessment.missing[:5])}",
            hint="wait for the copy to end",
            missing=assessment.missing,
        )
    if assessment.state == "purged":
        raise Conflict(f"version {version} of model {model} was deleted", hint="take another version name")
    if assessment.manifest is None or assessment.manifest_digest is None or assessment.wrong:
        raise IncompleteVersion(f"version {version} of model {model}: {'; '.join(assessment.wrong)}", missing=[])
    if was_there and find_recorded(workspace, model, version) is None:
        require_bytes(workspace, model, version, assessment.manifest)
    return record_version(
        workspace,
        model,
        version,
        assessment.manifest,
        assessment.manifest_digest,
        "adopt",
        reason,
        was_there=was_there,
    )


def record_version(
    workspace: Workspace,
    model: ModelName,
    version: VersionName,
    manifest: Manifest,
    digest: Digest,
    op: str,
    reason: str | None,
    *,
    was_there: bool,
) -> Committed:
    """Append the record that a version exists, unless one says so already.

    Raises Conflict when the log says that this version is another, or deleted.
    """
    ledger = workspace.model_ledger(model)
    known = find_recorded(workspace, model, version)

    def decide(base: Head[ModelRecord] | None) -> Draft | None:
        state = base.record.state if base else ModelState()
        if version in state.retired and state.retired[version].stage != "retired":
            raise Conflict(
                f"version {version} of model {model} is deleted",
                hint=f"'clipperfs delete {model} {version} --restore' brings it back; or take another version name",
            )
        return Draft(op, state, reason, Evidence(version=version, manifest=digest))

    if known is not None:
        if known.record.evidence.manifest != digest:
            raise Conflict(
                f"version {version} of model {model} was recorded with another manifest",
                hint="its manifest was replaced after publishing; versions are immutable: take another version name",
                recorded=known.record.evidence.manifest,
                found=digest,
            )
        if op == "publish":
            _sign(workspace, model, version, digest)
        return Committed(digest, manifest, known, was_there)
    if op == "publish":
        _sign(workspace, model, version, digest)  # before the record, which wakes those who look for a signature
    committed, _ = ledger.append(decide, actor=workspace.actor)
    assert committed is not None
    return Committed(digest, manifest, committed, was_there)


def _sign(workspace: Workspace, model: ModelName, version: VersionName, digest: Digest) -> None:
    """Sign what this workspace has published itself, if it has a key. What others copied is signed on request only."""
    signer = workspace.signer
    if signer is not None:
        sign_version(workspace, signer, model, version, digest)


def _publish_by_rename(
    workspace: Workspace, model: ModelName, version: VersionName, source: Source
) -> tuple[Manifest, Digest]:
    staging = layout.staging(model, secrets.token_hex(8))
    try:
        manifest = new_manifest(_upload(workspace, source, staging), source.settings, workspace.actor)
        data = canonical_bytes(manifest)
        workspace.store.replace(f"{staging}/{layout.MANIFEST_FILE}", data)
        if not workspace.store.rename_folder(staging, layout.version(model, version)):
            return _lost_to(workspace, model, version, manifest)
        return manifest, digest_bytes(data)
    finally:
        workspace.store.delete_folder(staging)


def _publish_in_place(
    workspace: Workspace, model: ModelName, version: VersionName, source: Source
) -> tuple[Manifest, Digest] | None:
    """Upload into the version's own folder, the manifest last; ``None`` when it has a manifest meanwhile.

    A claim that names the content keeps publishers of other content out. Those of the same content write the same
    bytes, so they need not wait for one another, and an interrupted attempt is resumed by running it again.

    That is why the files are read twice: their digests are in the claim, which is there before their first byte is; and
    they are hashed again as they are sent, because a file may change in between.
    """
    entries = hash_source(source, workspace.reporter)
    claim = layout.publishing(model, version)
    _claim_content(workspace, model, version, new_manifest(entries, source.settings, workspace.actor))
    if workspace.store.stat(layout.manifest(model, version)) is not None:
        # Somebody finished, and took its claim away, between the first look and this claim.
        workspace.store.delete(claim)
        return None
    sent = _upload(workspace, source, layout.version(model, version), {entry.path: entry.sha256 for entry in entries})
    if sorted(sent, key=lambda entry: entry.path) != entries:
        raise InvalidSource(f"{source.root} changed while it was read", hint="publish when it is finished")
    manifest = new_manifest(sent, source.settings, workspace.actor)
    data = canonical_bytes(manifest)
    there = create_or_read(workspace.store, layout.manifest(model, version), data, LIMITS.manifest_bytes)
    workspace.store.delete(claim)
    if there != data:
        return _lost_to(workspace, model, version, manifest)
    return manifest, digest_bytes(data)


def _claim_content(workspace: Workspace, model: ModelName, version: VersionName, mine: Manifest) -> None:
    """Say which content the version is going to have. Raises Conflict when somebody has said another."""
    content = digest_bytes(canonical_bytes(mine.model_copy(update={"created": "", "created_by": ""})))
    claim = {"content": content, "actor": workspace.actor, "time": utc_now()}
    data = (json.dumps(claim, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()
    key = layout.publishing(model, version)
    there = create_or_read(workspace.store, key, data, LIMITS.record_bytes)
    try:
        found = parse_json(there, limit_bytes=LIMITS.record_bytes)
    except InvalidDocument:
        found = None
    found = found if isinstance(found, dict) else {}
    if found.get("content") != content:
        raise Conflict(
            f"version {version} of model {model} is being published with other content, by "
            f"{found.get('actor', 'somebody')} since {found.get('time', 'an unknown time')}",
            hint="take another version name; if that publisher is dead, run it again with its own files, or wait until "
            "its claim is a day old and 'clipperfs gc' removes it",
            model=model,
            version=version,
        )


def create_or_read(store: Store, key: str, data: bytes, limit_bytes: int) -> bytes:
    """Create a file exclusively; return what is there in the end: ``data``, or what somebody else was quicker with.

    Raises StorageError when nothing is there.
    """
    failure: StorageError | None = None
    try:
        if store.create(key, data):
            return data
    except StorageError as error:  # a lost answer looks like a failure
        failure = error
    there = store.read(key, limit_bytes=limit_bytes)
    if there is None:
        raise failure or StorageError(f"{key} was created by somebody else and is gone again", hint="run it again")
    return there


def _lost_to(workspace: Workspace, model: ModelName, version: VersionName, mine: Manifest) -> tuple[Manifest, Digest]:
    """Somebody else put this version there meanwhile: the same content is as good as ours, other content a conflict."""
    there = look_at(workspace, model, version)
    if there.manifest is None or there.manifest_digest is None or not _is_same(there.manifest, mine):
        raise _other_content(model, version)
    return there.manifest, there.manifest_digest


def _bring_again(
    workspace: Workspace,
    model: ModelName,
    version: VersionName,
    source: Source,
    existing: Assessment,
) -> Brought:
    assert existing.manifest is not None and existing.manifest_digest is not None
    if existing.state == "purged":
        raise Conflict(f"version {version} of model {model} was deleted", hint="take another version name")
    if {file.name: file.size_bytes for file in source.files} != {
        entry.path: entry.size for entry in existing.manifest.files
    }:
        raise _other_content(model, version)  # nothing needs to be read to see that
    mine = new_manifest(hash_source(source, workspace.reporter), source.settings, workspace.actor)
    if not _is_same(existing.manifest, mine):
        raise _other_content(model, version)
    if existing.state != "complete":
        raise Conflict(
            f"version {version} of model {model} has this manifest, but its files are not all there",
            hint="the copy that brought the manifest is still going on; or 'clipperfs verify' shows the damage",
            missing=existing.missing,
            wrong=existing.wrong,
        )
    return Brought(existing.manifest_digest, existing.manifest, was_there=True)


def _upload(
    workspace: Workspace, source: Source, folder: str, known: Mapping[str, str] | None = None
) -> list[FileEntry]:
    """Send a source's files; return what was sent.

    Args:
        known: the files' digests by their names, where they have been read before. Then the store may make use of what
            an interrupted attempt has sent.
    """
    store = workspace.store

    def send(file: SourceFile) -> FileEntry:
        moved = 0

        def progress(size_bytes: int) -> None:
            nonlocal moved
            moved += size_bytes
            workspace.reporter.advance(size_bytes)

        key = f"{folder}/{file.name}"
        try:
            if known is not None and isinstance(store, PartedStore):
                digest = store.upload_known(
                    file.path, key, known[file.name], executable=file.executable, progress=progress
                )
            else:
                digest = store.upload(file.path, key, executable=file.executable, progress=progress)
        except FileNotFoundError as error:
            raise InvalidSource(f"{file.path} vanished while it was read") from error
        if moved != file.size_bytes:
            raise InvalidSource(f"{file.path} changed while it was read", hint="publish when it is finished")
        return FileEntry(path=file.name, size=moved, sha256=digest, executable=file.executable)

    # A large file is sent in several parts at a time by itself; a small one is one round trip, mostly waiting.
    small_bytes = SMALL_BYTES if known is not None and isinstance(store, PartedStore) else -1
    small = [file for file in source.files if file.size_bytes <= small_bytes]
    large = [file for file in source.files if file.size_bytes > small_bytes]
    workspace.reporter.begin(f"publish {source.root.name}", source.size_bytes)
    try:
        entries = [send(file) for file in large]
        with ThreadPoolExecutor(SMALL_FILES_AT_ONCE, thread_name_prefix="upload") as pool:
            entries += pool.map(send, small)
    finally:
        workspace.reporter.end()
    return entries


def _is_same(one: Manifest, other: Manifest) -> bool:
    return one.files == other.files and one.settings == other.settings


def _other_content(model: ModelName, version: VersionName) -> Conflict:
    return Conflict(
        f"version {version} of model {model} exists with other content",
        hint="versions are immutable: take another version name",
        model=model,
        version=version,
    )
