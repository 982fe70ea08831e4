"""Collect what is no longer needed: deleted versions after their grace, leftovers by age; and say what there is.

Source: ``registry_layout.md`` §8.10. Manifests, records and hook reports stay for ever.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from datetime import datetime

from clipperfs import layout
from clipperfs.cluster import age
from clipperfs.digest import Digest, digest_bytes
from clipperfs.documents import ModelState, Retirement, Tombstone, canonical_bytes, utc_now
from clipperfs.errors import Conflict, InvalidSetting, StoredDataError
from clipperfs.layout import Subject
from clipperfs.leftover import STAGING_AGE_S as STAGING_AGE_S
from clipperfs.leftover import CollectReport as CollectReport
from clipperfs.leftover import (
    Sweep,
    collect_claims,
    collect_incoming,
    collect_probes,
    collect_stagings,
    collect_statuses,
    collect_uploads,
    is_incoming,
    is_version,
    old_hints,
    size_of,
    split_claims,
)
from clipperfs.leftover import Total as Total
from clipperfs.leftover import prune_hints as prune_hints
from clipperfs.limits import LIMITS
from clipperfs.names import ModelName, VersionName, model_name, name_problem, version_name
from clipperfs.presence import Presence, read_presences
from clipperfs.steer import begin_purge, end_purge
from clipperfs.store import Entry
from clipperfs.workspace import Workspace


def collect(
    workspace: Workspace,
    *,
    dry_run: bool = False,
    orphan_age_s: float | None = None,
    now_unix_s: float | None = None,
) -> CollectReport:
    """Remove what is no longer needed. Interrupted at any point, it is completed by running it again.

    Costs, for each model, a walk through its versions and one through its reports, and a few listings.

    Args:
        workspace: the registry.
        dry_run: report only.
        orphan_age_s: also remove copies that have neither a manifest nor a record and have not changed for so long
            (a day at least); ``None``: only report them.
        now_unix_s: the present, for tests.

    Raises InvalidSetting, StorageError.
    """
    if orphan_age_s is not None and orphan_age_s < STAGING_AGE_S:
        raise InvalidSetting(
            "a copy that changed within a day may still be going on", hint="give a day or more, such as --orphans 30d"
        )
    if not dry_run:
        workspace.before_writing()
    now = now_unix_s
    if now is None:
        now = time.time() if dry_run else _cautious_now(workspace)
    sweep = Sweep(workspace, CollectReport(), now, dry_run, orphan_age_s)
    seen = read_presences(workspace.store, now_unix_s=now).seen
    in_use = loaded_versions(seen)
    for kind in (layout.MODELS, layout.APPS):
        for entry in list(workspace.store.list(kind)):
            if entry.kind == "folder" and name_problem(entry.name) is None:
                _collect_subject(sweep, Subject("model" if kind == layout.MODELS else "app", entry.name))
                if kind == layout.MODELS:
                    try:
                        _collect_model(sweep, model_name(entry.name), in_use)
                    except StoredDataError as error:  # of this model nothing goes; others do not suffer
                        sweep.report.kept.append((entry.name, error.message))
    for place in (layout.CHANGES, layout.REPLICAS, layout.PROBES):
        collect_claims(sweep, place, list(workspace.store.list(place)))
    collect_probes(sweep)
    collect_uploads(sweep)
    collect_statuses(sweep, seen)
    for hint in old_hints(workspace, now):
        sweep.report.hints += 1
        sweep.report.add("old hints", hint.size, removed=True)
        if not dry_run:
            workspace.store.delete(f"{layout.CHANGES}/{hint.name}")
    return sweep.report


def _cautious_now(workspace: Workspace) -> float:
    """Return the earlier of this host's clock and the storage's: no clock that runs ahead makes anything look old."""
    key = f"{layout.CHANGES}/{layout.CLAIM_PREFIX}{secrets.token_hex(8)}"
    workspace.store.create(key, b"what time is it?\n")
    try:
        entry = workspace.store.stat(key)
    finally:
        workspace.store.delete(key)
    now = time.time()
    return min(now, entry.modified_unix_s) if entry is not None and entry.modified_unix_s > 0 else now


def loaded_versions(seen: list[Presence]) -> dict[tuple[str, str], str]:
    """Return which daemon has which (model, version) loaded, by the statuses that may still hold."""
    return {
        (model, loaded.version): one.status.replica
        for one in seen
        if one.may_live
        for model, served in one.status.models.items()
        for loaded in served.versions
    }


def _collect_subject(sweep: Sweep, subject: Subject) -> None:
    """Collect claims beside and among the records of a model or an application, and count the records."""
    root, log = layout.subject_root(subject), layout.log(subject)
    records = list(sweep.workspace.store.list(log))
    collect_claims(sweep, root, list(sweep.workspace.store.list(root)))
    collect_claims(sweep, log, records)
    slots = [entry for entry in records if layout.slot_seq(entry.name) is not None]
    sweep.report.add("records", size_of(slots), count=len(slots))


def _collect_model(sweep: Sweep, model: ModelName, in_use: dict[tuple[str, str], str]) -> None:
    workspace, report = sweep.workspace, sweep.report
    head = workspace.model_ledger(model).head()
    state = head.record.state if head else ModelState()
    below = _by_folder(sweep, layout.versions(model))
    collect_stagings(sweep, model, below)
    for name, inside in sorted(below.items()):
        if not is_version(name):
            continue
        version = version_name(name)
        mark = state.retired.get(name)
        if mark is None and is_incoming(inside):
            claims, copy = split_claims(inside)
            collect_claims(sweep, layout.version(model, version), claims)
            if copy:
                collect_incoming(sweep, model, version, state, copy)
            continue
        collect_claims(sweep, layout.version(model, version), inside)
        if mark is None or mark.stage == "retired":
            report.add("versions" if mark is None else "retired versions", size_of(inside))
    for name, mark in state.retired.items():
        if mark.stage != "retired":
            _collect_deleted(sweep, model, version_name(name), mark, state, below.get(name, []), in_use)
    for folder, inside in _by_folder(sweep, f"{layout.MODELS}/{model}/checks").items():
        collect_claims(sweep, f"{layout.MODELS}/{model}/checks/{folder}", inside)
        reports = [entry for entry in inside if not entry.name.startswith(layout.CLAIM_PREFIX)]
        report.add("hook reports", size_of(reports), count=len(reports))


def _by_folder(sweep: Sweep, prefix: str) -> dict[str, list[Entry]]:
    """Return what lies below each folder of a folder, by one walk; names are relative to the inner one."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in sweep.workspace.store.walk(prefix):
        folder, slash, path = entry.name.partition("/")
        if slash:
            found[folder].append(
                Entry(path, entry.kind, entry.size, entry.token, entry.modified_unix_s, entry.executable)
            )
    return found


def _collect_deleted(
    sweep: Sweep,
    model: ModelName,
    version: VersionName,
    mark: Retirement,
    state: ModelState,
    inside: list[Entry],
    in_use: dict[tuple[str, str], str],
) -> None:
    """Purge a deleted version whose grace is over and which nobody uses."""
    workspace, report, subject = sweep.workspace, sweep.report, f"{model}/{version}"
    payload = [entry for entry in inside if entry.name not in (layout.MANIFEST_FILE, layout.TOMBSTONE_FILE)]
    size_bytes = size_of(payload)
    left_s = _unix_s(mark.time) + state.policy.grace_s - sweep.now_unix_s
    if mark.stage == "deleted" and left_s > 0:
        report.add("deleted versions, restorable", size_bytes)
        report.kept.append((subject, f"deleted; restorable for another {age(left_s)}"))
        return
    digest = _manifest_digest(workspace, model, version)
    if mark.stage == "deleted" and (user := _user_of(workspace, model, version, digest, in_use)) is not None:
        report.add("deleted versions, still in use", size_bytes)
        report.kept.append((subject, f"deleted, but {user}"))
        return
    try:
        if mark.stage == "deleted" and not sweep.dry_run:
            begin_purge(workspace, model, version, mark)
    except Conflict as conflict:
        report.kept.append((subject, conflict.message))
        return
    report.purged.append(subject)
    report.add("deleted versions", size_bytes, removed=True)
    if not sweep.dry_run:
        _purge(workspace, model, version, digest, payload)


def _user_of(
    workspace: Workspace,
    model: ModelName,
    version: VersionName,
    digest: Digest | None,
    in_use: dict[tuple[str, str], str],
) -> str | None:
    """Return who uses a version: a daemon that says so, or a process of this host that holds its private copy."""
    if (model, version) in in_use:
        return f"replica {in_use[model, version]} has it loaded"
    if digest is not None and workspace.cache.is_held(digest):
        return f"a process of this host uses its copy in {workspace.cache.root}"
    return None


def _purge(
    workspace: Workspace, model: ModelName, version: VersionName, digest: Digest | None, payload: list[Entry]
) -> None:
    """Remove a version's payload. The tombstone comes first: nobody takes the rest for whole."""
    tombstone = Tombstone(model=model, version=version, manifest=digest, time=utc_now(), actor=workspace.actor)
    workspace.store.create(layout.tombstone(model, version), canonical_bytes(tombstone))
    for entry in payload:
        workspace.store.delete(f"{layout.version(model, version)}/{entry.name}")
    end_purge(workspace, model, version)


def _manifest_digest(workspace: Workspace, model: ModelName, version: VersionName) -> Digest | None:
    data = workspace.store.read(layout.manifest(model, version), limit_bytes=LIMITS.manifest_bytes)
    return digest_bytes(data) if data is not None else None


def _unix_s(time_text: str) -> float:
    try:
        return datetime.fromisoformat(time_text).timestamp()
    except ValueError:
        return float("inf")  # a time that cannot be read never lets a payload go
