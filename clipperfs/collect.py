"""Collect what is no longer needed: deleted versions after their grace, abandoned stagings, old hints.

Source: ``registry_layout.md`` §8.10. Manifests, records and hook reports stay for ever.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime

from clipperfs import layout
from clipperfs.digest import digest_bytes
from clipperfs.documents import ModelState, ReplicaStatus, Tombstone, canonical_bytes, parse_document, utc_now
from clipperfs.errors import Conflict, InvalidDocument, StorageDenied, StoredDataError
from clipperfs.limits import LIMITS
from clipperfs.names import ModelName, VersionName, model_name, name_problem, version_name
from clipperfs.steer import begin_purge, end_purge
from clipperfs.store import Entry, PartedStore
from clipperfs.view import model_names
from clipperfs.workspace import Workspace

STAGING_AGE_S = 86_400.0
HINT_AGE_S = 86_400.0


@dataclass(slots=True)
class CollectReport:
    """What was removed (or would be), and what was kept and why."""

    purged: list[str] = field(default_factory=list)
    stagings: list[str] = field(default_factory=list)
    hints: int = 0
    freed_bytes: int = 0
    kept: list[tuple[str, str]] = field(default_factory=list)


def collect(workspace: Workspace, *, dry_run: bool = False, now_unix_s: float | None = None) -> CollectReport:
    """Remove what is no longer needed. Interrupted at any point, it is completed by running it again.

    Args:
        dry_run: Report only.
        now_unix_s: The present, for tests.
    """
    if not dry_run:
        workspace.before_writing()
    now = time.time() if now_unix_s is None else now_unix_s
    report = CollectReport()
    in_use = loaded_versions(workspace, now)
    for name in model_names(workspace):
        model = model_name(name)
        _collect_versions(workspace, model, in_use, now, report, dry_run)
        _collect_stagings(workspace, model, now, report, dry_run)
    _collect_claims(workspace, now, report, dry_run)
    _collect_probes(workspace, now, report, dry_run)
    _collect_uploads(workspace, now, report, dry_run)
    report.hints = prune_hints(workspace, now_unix_s=now, dry_run=dry_run)
    return report


def prune_hints(workspace: Workspace, *, now_unix_s: float | None = None, dry_run: bool = False) -> int:
    """Delete wake-up hints that are a day old; return how many. Anybody may do so at any time."""
    now = time.time() if now_unix_s is None else now_unix_s
    old = [
        entry.name
        for entry in workspace.store.list(layout.CHANGES)
        if layout.is_change(entry.name) and now - int(entry.name[:13]) / 1000 > HINT_AGE_S
    ]
    for name in [] if dry_run else old:
        workspace.store.delete(f"{layout.CHANGES}/{name}")
    return len(old)


def loaded_versions(workspace: Workspace, now_unix_s: float) -> dict[tuple[str, str], str]:
    """Return which daemon has which (model, version) loaded, by the status files that have not expired."""
    loaded = {}
    for entry in workspace.store.list(layout.REPLICAS):
        try:
            data = workspace.store.read(f"{layout.REPLICAS}/{entry.name}", limit_bytes=LIMITS.status_bytes)
            if data is None or not entry.name.endswith(".json"):
                continue
            status = parse_document(ReplicaStatus, data, limit_bytes=LIMITS.status_bytes)
        except (InvalidDocument, StoredDataError):
            continue  # a hint that cannot be read says nothing
        if status.expires_unix_s < now_unix_s:
            continue
        for model, served in status.models.items():
            for version in served.versions:
                loaded[model, version.version] = status.replica
    return loaded


def _collect_versions(
    workspace: Workspace,
    model: ModelName,
    in_use: dict[tuple[str, str], str],
    now: float,
    report: CollectReport,
    dry_run: bool,
) -> None:
    head = workspace.model_ledger(model).head()
    state = head.record.state if head else ModelState()
    for name, mark in state.retired.items():
        if mark.stage == "retired":
            continue
        subject = f"{model}/{name}"
        left_s = _unix_s(mark.time) + state.policy.grace_s - now
        if mark.stage == "deleted" and left_s > 0:
            report.kept.append((subject, f"deleted; restorable for another {_span(left_s)}"))
        elif (model, name) in in_use:
            report.kept.append((subject, f"deleted, but replica {in_use[model, name]} has it loaded"))
        else:
            version = version_name(name)
            try:
                if mark.stage == "deleted" and not dry_run:
                    begin_purge(workspace, model, version, mark)
            except Conflict as conflict:
                report.kept.append((subject, conflict.message))
                continue
            report.purged.append(subject)
            report.freed_bytes += _purge(workspace, model, version, dry_run)


def _purge(workspace: Workspace, model: ModelName, version: VersionName, dry_run: bool) -> int:
    """Remove a version's payload; return its size. The tombstone comes first: nobody takes the rest for whole."""
    folder = layout.version(model, version)
    keep = (layout.MANIFEST_FILE, layout.TOMBSTONE_FILE)
    payload = [entry for entry in workspace.store.walk(folder) if entry.name not in keep]
    if not dry_run:
        manifest = workspace.store.stat(layout.manifest(model, version))
        tombstone = Tombstone(
            model=model,
            version=version,
            manifest=_recorded_manifest(workspace, model, version) if manifest else None,
            time=utc_now(),
            actor=workspace.actor,
        )
        workspace.store.create(layout.tombstone(model, version), canonical_bytes(tombstone))
        for entry in payload:
            workspace.store.delete(f"{folder}/{entry.name}")
        end_purge(workspace, model, version)
    return sum(entry.size for entry in payload)


def _recorded_manifest(workspace: Workspace, model: ModelName, version: VersionName) -> str | None:
    data = workspace.store.read(layout.manifest(model, version), limit_bytes=LIMITS.manifest_bytes)
    return digest_bytes(data) if data is not None else None


def _collect_stagings(workspace: Workspace, model: ModelName, now: float, report: CollectReport, dry_run: bool) -> None:
    """Remove the stagings of publishers that died, once they are old."""
    for entry in list(workspace.store.list(layout.versions(model))):
        if not entry.name.startswith(layout.STAGING_PREFIX):
            continue
        folder = f"{layout.versions(model)}/{entry.name}"
        _collect_folder(workspace, folder, entry, "a publish", now, report, dry_run)


def _collect_folder(
    workspace: Workspace, folder: str, entry: Entry, work: str, now: float, report: CollectReport, dry_run: bool
) -> None:
    """Remove a folder in which nothing has changed for a day."""
    inside = list(workspace.store.walk(folder))
    newest = max((file.modified_unix_s for file in inside), default=entry.modified_unix_s)
    if now - newest < STAGING_AGE_S:
        report.kept.append((folder, f"{work} may still be going on"))
        return
    report.stagings.append(folder)
    report.freed_bytes += sum(file.size for file in inside)
    if not dry_run:
        workspace.store.delete_folder(folder)


def _collect_claims(workspace: Workspace, now: float, report: CollectReport, dry_run: bool) -> None:
    """Remove the claims that writers left behind who died between two system calls, wherever a file can be created."""
    places: list[str] = [layout.CHANGES, layout.REPLICAS, layout.PROBES]
    for kind in (layout.MODELS, layout.APPS):
        for entry in workspace.store.list(kind):
            if entry.kind == "folder" and name_problem(entry.name) is None:
                places += _places_of(workspace, f"{kind}/{entry.name}")
    for place in places:
        for entry in list(workspace.store.list(place)):
            if entry.name.startswith(layout.CLAIM_PREFIX) and now - entry.modified_unix_s > STAGING_AGE_S:
                report.stagings.append(f"{place}/{entry.name}")
                report.freed_bytes += entry.size
                if not dry_run:
                    workspace.store.delete(f"{place}/{entry.name}")


def _collect_probes(workspace: Workspace, now: float, report: CollectReport, dry_run: bool) -> None:
    """Remove what probes that died left in their scratch folders, once it is old. Their reports stay."""
    for entry in list(workspace.store.list(layout.PROBES)):
        if entry.kind == "folder" and layout.is_probe_scratch(entry.name):
            _collect_folder(workspace, f"{layout.PROBES}/{entry.name}", entry, "a probe", now, report, dry_run)


def _collect_uploads(workspace: Workspace, now: float, report: CollectReport, dry_run: bool) -> None:
    """Take away the parts of uploads that nobody has ended for a day: no listing shows them, but they take room."""
    store = workspace.store
    if not isinstance(store, PartedStore):
        return
    try:
        for upload in list(store.unfinished_uploads()):
            if now - upload.began_unix_s < STAGING_AGE_S:
                report.kept.append((upload.name, "an upload may still be going on, or be taken up again"))
                continue
            if not dry_run:
                store.abort_upload(upload)
            report.stagings.append(f"{upload.name} (parts of an upload)")
            report.freed_bytes += upload.size_bytes
    except StorageDenied as error:  # a right of its own, which older policies of buckets lack
        report.kept.append(("uploads that never ended", error.message))


def _places_of(workspace: Workspace, root: str) -> list[str]:
    """Return the folders of one model or application in which a writer's claim can lie."""
    deeper = [
        f"{root}/{folder}/{entry.name}"
        for folder in ("versions", "checks")
        for entry in workspace.store.list(f"{root}/{folder}")
        if entry.kind == "folder" and not entry.name.startswith(layout.STAGING_PREFIX)
    ]
    return [root, f"{root}/log", *deeper]


def _unix_s(time_text: str) -> float:
    try:
        return datetime.fromisoformat(time_text).timestamp()
    except ValueError:
        return float("inf")  # a time that cannot be read never lets a payload go


def _span(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.0f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
