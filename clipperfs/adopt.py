"""Plain copies: what of a version has arrived, and how a complete copy becomes a version of the registry.

Completeness comes from the manifest's sizes and digests, never from the order in which files arrive.
Source: ``registry_layout.md`` §8.5, §8.6.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ValidationError

from clipperfs import layout
from clipperfs.digest import Digest, digest_bytes, digest_stream
from clipperfs.documents import (
    FileEntry,
    Manifest,
    VersionSettings,
    canonical_bytes,
    parse_author_file,
    parse_document,
    utc_now,
)
from clipperfs.documents.base import validation_summary
from clipperfs.errors import (
    Conflict,
    DamagedVersion,
    IncompleteVersion,
    InvalidDocument,
    InvalidSource,
    NotFound,
    StorageDenied,
)
from clipperfs.limits import LIMITS
from clipperfs.names import ModelName, VersionName
from clipperfs.store import Entry, PartedStore
from clipperfs.workspace import Workspace

ABANDONED_UPLOAD_S = 86_400.0

VersionState = Literal["complete", "incoming", "broken", "purged"]


@dataclass(frozen=True, slots=True)
class Assessment:
    """What of a version is there, by its listing: sizes, not digests."""

    state: VersionState
    manifest: Manifest | None = None
    manifest_digest: Digest | None = None
    missing: list[str] = field(default_factory=list)
    """What has not arrived, a line each, for people."""
    wrong: list[str] = field(default_factory=list)
    """What can never become right: a link, a device, a file larger than listed."""
    extra: list[str] = field(default_factory=list)
    """Files that the manifest does not list. They are never served."""
    marker: str | None = None
    """The marker file that says the copy is over, if one is there."""
    listing: str = ""
    """Changes whenever a name, size or token in the listing does."""
    size_bytes: int = 0
    is_publishing: bool = False
    """Whether a publisher has claimed it and has not ended: what is there is not a plain copy."""


def assess(entries: Iterable[Entry], manifest_data: bytes | None) -> Assessment:
    """Judge a version by its listing and its manifest's bytes. Pure."""
    entries = list(entries)
    is_publishing = any(entry.name == layout.PUBLISHING_FILE for entry in entries)
    expected = (entry for entry in entries if layout.is_payload(entry.name) or entry.name in layout.NOT_PAYLOAD)
    found = {entry.name: entry for entry in expected}
    listing = digest_bytes(repr(sorted((entry.name, entry.size, entry.token) for entry in found.values())).encode())
    marker = next((name for name in layout.MARKER_FILES if name in found), None)
    size_bytes = sum(entry.size for name, entry in found.items() if layout.is_payload(name))
    wrong = [f"{name} is a {entry.kind}" for name, entry in sorted(found.items()) if entry.kind != "file"]
    manifest, missing = None, []
    if manifest_data is None:
        halfway = sorted({part for name in found if (part := layout.uncommitted(name)) is not None})
        missing = [layout.MANIFEST_FILE, *(f"the end of the writer that left {part} there" for part in halfway)]
    elif not manifest_data.endswith(b"}\n"):
        missing = [f"{layout.MANIFEST_FILE} (what is there is cut short: its last line does not end)"]
    else:
        try:
            manifest = parse_document(Manifest, manifest_data, limit_bytes=LIMITS.manifest_bytes)
        except InvalidDocument as error:
            missing = [f"{layout.MANIFEST_FILE} (what is there is cut short or not valid: {error.message[:200]})"]
    digest = digest_bytes(manifest_data) if manifest is not None and manifest_data is not None else None
    if layout.TOMBSTONE_FILE in found:
        return Assessment("purged", manifest, digest, listing=listing, size_bytes=size_bytes)
    extra: list[str] = []
    if manifest is not None:
        for wanted in manifest.files:
            entry = found.get(wanted.path)
            if entry is None:
                missing.append(wanted.path)
            elif entry.kind == "file" and entry.size < wanted.size:
                missing.append(f"{wanted.path} ({entry.size} of {wanted.size} bytes)")
            elif entry.kind == "file" and entry.size > wanted.size:
                wrong.append(f"{wanted.path} has {entry.size} bytes, the manifest says {wanted.size}")
        listed = {wanted.path for wanted in manifest.files}
        extra = sorted(name for name in found if name not in listed and layout.is_payload(name))
    state: VersionState = "broken" if wrong else "incoming" if missing else "complete"
    is_publishing = is_publishing and manifest is None
    return Assessment(state, manifest, digest, missing, wrong, extra, marker, listing, size_bytes, is_publishing)


def look_at(workspace: Workspace, model: ModelName, version: VersionName) -> Assessment:
    """Assess a version in the registry by one listing and one read. Raises NotFound when there is nothing of it."""
    entries = list(workspace.store.walk(layout.version(model, version)))
    if not entries:
        raise NotFound(
            f"model {model} has no version {version}",
            hint=f"'clipperfs show {model}' lists its versions",
            model=model,
            version=version,
        )
    has_manifest = any(entry.name == layout.MANIFEST_FILE and entry.kind == "file" for entry in entries)
    key = layout.manifest(model, version)
    data = workspace.store.read(key, limit_bytes=LIMITS.manifest_bytes) if has_manifest else None
    return assess(entries, data)


def require_complete(workspace: Workspace, model: ModelName, version: VersionName) -> Assessment:
    """Return the assessment of a complete version. Raises NotFound, IncompleteVersion, DamagedVersion."""
    assessment = look_at(workspace, model, version)
    name = f"version {version} of model {model}"
    if assessment.state == "purged":
        raise NotFound(f"{name} was deleted; its manifest and its history remain", model=model, version=version)
    if assessment.state == "broken":
        raise DamagedVersion(
            f"{name} is broken: {'; '.join(assessment.wrong[:3])}",
            hint="mend the copy, or delete it and publish again",
            wrong=assessment.wrong,
        )
    if assessment.state == "incoming":
        more = f" and {len(assessment.missing) - 5} more" if len(assessment.missing) > 5 else ""
        hint = "wait for the copy to end"
        if assessment.missing == [layout.MANIFEST_FILE]:
            hint = f"when the copy has ended, run 'clipperfs seal {model} {version}'"
        raise IncompleteVersion(
            f"{name} is incoming; missing: {', '.join(assessment.missing[:5])}{more}",
            hint=hint,
            missing=assessment.missing,
        )
    return assessment


def read_manifest(workspace: Workspace, model: ModelName, version: VersionName) -> tuple[Manifest, Digest, bytes]:
    """Read a version's manifest. Raises NotFound, DamagedVersion."""
    data = workspace.store.read(layout.manifest(model, version), limit_bytes=LIMITS.manifest_bytes)
    if data is None:
        raise NotFound(f"version {version} of model {model} has no manifest", model=model, version=version)
    try:
        return parse_document(Manifest, data, limit_bytes=LIMITS.manifest_bytes), digest_bytes(data), data
    except InvalidDocument as error:
        raise DamagedVersion(f"the manifest of version {version} of model {model}: {error.message}") from error


def find_uploads(workspace: Workspace, model: ModelName, version: VersionName) -> list[str]:
    """Return the files of a copy that somebody is sending in parts: no listing shows them before they are whole.

    Those that were begun more than a day ago are taken for abandoned.
    """
    store = workspace.store
    if not isinstance(store, PartedStore):
        return []
    try:
        uploads = list(store.unfinished_uploads(layout.version(model, version)))
    except StorageDenied:  # a right of its own; without it the rules of the listing must do
        return []
    return sorted({one.name for one in uploads if time.time() - one.began_unix_s < ABANDONED_UPLOAD_S})


def seal_copy(workspace: Workspace, model: ModelName, version: VersionName, settings: VersionSettings | None) -> Digest:
    """Write the manifest of a copy that came without one; return its digest.

    Args:
        settings: What to say about serving it, beside what its ``model.yaml`` says.

    Raises:
        NotFound: nothing of this version is there.
        DamagedVersion: it holds a link or a special file.
        InvalidDocument: its ``model.yaml`` is not valid.
        IncompleteVersion: its listing changed while it was being read.
        Conflict: somebody else sealed other content first.
    """
    before = look_at(workspace, model, version)
    if before.wrong:
        raise DamagedVersion(f"version {version} of model {model} cannot be sealed: {'; '.join(before.wrong[:3])}")
    if before.is_publishing:
        raise IncompleteVersion(
            f"version {version} of model {model} is being published",
            hint="if the publisher is dead, run 'clipperfs publish' again with the same files",
            missing=[],
        )
    if uploads := find_uploads(workspace, model, version):
        raise IncompleteVersion(
            f"version {version} of model {model}: {uploads[0]} is being uploaded",
            hint="wait for the copy to end; if its tool is dead, abort that upload (aws s3api abort-multipart-upload)",
            missing=uploads,
        )
    arrived = _list_payload(workspace, model, version)
    files = _hash_files(workspace, model, version)
    own = read_author_settings(workspace, model, version)
    if settings is not None and settings.wrapper is not None:
        own = own.model_copy(update={"wrapper": settings.wrapper})
    if _list_payload(workspace, model, version) != arrived:  # a manifest by another sealer is no change of the copy
        raise IncompleteVersion(
            f"version {version} of model {model} changed while it was being sealed",
            hint="the copy is still going on; seal it again when it has ended",
            missing=[],
        )
    data = canonical_bytes(new_manifest(files, own, workspace.actor))
    key = layout.manifest(model, version)
    if workspace.store.create(key, data):
        return digest_bytes(data)
    manifest, digest, _ = read_manifest(workspace, model, version)
    if manifest.files != files:
        raise Conflict(f"version {version} of model {model} was sealed by somebody else with other content")
    return digest


def new_manifest(files: list[FileEntry], settings: VersionSettings, actor: str) -> Manifest:
    """Return a manifest of ``files``. Raises InvalidSource when they cannot make a version."""
    try:
        return Manifest(
            created=utc_now(), created_by=actor, files=sorted(files, key=lambda entry: entry.path), settings=settings
        )
    except ValidationError as error:
        raise InvalidSource(f"these files cannot make a version: {validation_summary(error)}") from error


def read_author_settings(workspace: Workspace, model: ModelName, version: VersionName) -> VersionSettings:
    """Return what a version's ``model.yaml`` says; nothing when there is none. Raises InvalidDocument."""
    key = layout.payload(model, version, layout.AUTHOR_FILE)
    data = workspace.store.read(key, limit_bytes=LIMITS.author_bytes)
    return VersionSettings() if data is None else parse_author_file(data).settings()


def _list_payload(workspace: Workspace, model: ModelName, version: VersionName) -> list[tuple[str, int, str]]:
    """Return name, size and change token of every payload file."""
    entries = workspace.store.walk(layout.version(model, version))
    return sorted((entry.name, entry.size, entry.token) for entry in entries if layout.is_payload(entry.name))


def require_bytes(workspace: Workspace, model: ModelName, version: VersionName, manifest: Manifest) -> None:
    """Compare a copy's bytes with its manifest: some tools give files their full size first and their bytes later.

    Raises IncompleteVersion, which lists the files that differ.
    """
    wanted = {entry.path: entry.sha256 for entry in manifest.files}
    found = {entry.path: entry.sha256 for entry in _hash_files(workspace, model, version, wanted)}
    differing = [path for path, digest in wanted.items() if found.get(path) != digest]
    if differing:
        raise IncompleteVersion(
            f"version {version} of model {model}: {', '.join(differing[:5])}: the bytes are not the manifest's",
            hint="wait for the copy to end; if it has ended, copy the files again",
            missing=differing,
        )


def _hash_files(
    workspace: Workspace, model: ModelName, version: VersionName, only: Container[str] | None = None
) -> list[FileEntry]:
    payload = [
        entry
        for entry in workspace.store.walk(layout.version(model, version))
        if layout.is_payload(entry.name) and entry.kind == "file" and (only is None or entry.name in only)
    ]
    if not payload:
        raise IncompleteVersion(f"version {version} of model {model} holds no files yet", missing=[])
    for entry in payload:
        if (problem := layout.path_problem(entry.name)) is not None:
            raise DamagedVersion(f"version {version} of model {model}: path {entry.name!a} {problem}")
    workspace.reporter.begin(f"read {model}/{version}", sum(entry.size for entry in payload))
    files = []
    try:
        for entry in payload:
            stream = workspace.store.open(layout.payload(model, version, entry.name))
            if stream is None:
                raise IncompleteVersion(
                    f"version {version} of model {model}: {entry.name} is gone", missing=[entry.name]
                )
            with stream:
                digest, size_bytes = digest_stream(stream, workspace.reporter.advance)
            files.append(FileEntry(path=entry.name, size=size_bytes, sha256=digest, executable=entry.executable))
    finally:
        workspace.reporter.end()
    return sorted(files, key=lambda entry: entry.path)
