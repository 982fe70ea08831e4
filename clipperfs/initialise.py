"""Create a registry, after a probe has shown that history is safe on its filesystem (``registry_layout.md`` §8.1)."""

from __future__ import annotations

import secrets
from typing import Literal

from clipperfs import layout
from clipperfs.documents import SINGLE_WRITER, ProbeReport, RegistryDocument, canonical_bytes, utc_now
from clipperfs.errors import Conflict, UnsafeStorage
from clipperfs.limits import LIMITS
from clipperfs.mount import find_mount
from clipperfs.probe.plan import PLANS
from clipperfs.probe.run import probe, store_report
from clipperfs.publish import create_or_read
from clipperfs.store import NeedsDeclaration, Store
from clipperfs.workspace import Workspace

Effort = Literal["full", "quick", "skip"]

WAY_OUT = (
    "take a filesystem that creates exclusively (local disk, S3 with conditional writes, HDFS); or, when there will "
    "never be more than one writer at a time: clipperfs init --single-writer"
)


def initialise(workspace: Workspace, effort: Effort | None, *, single_writer: bool) -> ProbeReport | None:
    """Create ``registry.json`` where there is none; return the probe's report if one was made. Idempotent.

    Args:
        effort: how hard to probe; ``None``: what this filesystem calls for. A registry that is there already is probed
            only when it is asked for.
        single_writer: declare that at most one writer at a time will ever be at work.

    Raises:
        UnsafeStorage: more than one writer won a name, or the filesystem cannot promise that this never happens.
            Nothing was created.
        Conflict: the registry is there, without (or with) the declaration.
        StoredDataError, UnknownFeature: what is there cannot be used.
        StorageError: the storage failed.
    """
    store = workspace.store
    is_there = store.stat(layout.REGISTRY) is not None
    if is_there:
        if single_writer and not workspace.is_single_writer:
            raise Conflict(
                f"the registry at {store.url} was created for any number of writers",
                hint="registry.json never changes; create another registry with --single-writer and publish into it",
            )
    elif single_writer and isinstance(store, NeedsDeclaration):
        store.declare_single_writer()
    report = None
    if not is_there and not single_writer and not store.capabilities.exclusive_create:
        raise UnsafeStorage(
            f"{store.url} cannot hold a registry of several writers: its class ({store.store_class}) has no way to "
            "create a file exclusively",
            hint=WAY_OUT,
        )
    wanted = effort or ("skip" if is_there or single_writer else needed_effort(store))
    if wanted != "skip":
        report = probe(store, PLANS[wanted], actor=workspace.actor, tell=workspace.reporter.note)
        if not report.exclusive and not (single_writer or (is_there and workspace.is_single_writer)):
            raise unsafe(store, report)
    if not is_there:
        document = RegistryDocument(
            registry_id=secrets.token_hex(16),
            created=utc_now(),
            created_by=workspace.actor,
            store_class=store.store_class,
            required_features=[SINGLE_WRITER] if single_writer else [],
        )
        create_or_read(store, layout.REGISTRY, canonical_bytes(document), LIMITS.registry_bytes)
    if single_writer and not workspace.is_single_writer:  # another process was first, and declared nothing
        raise Conflict(f"somebody else has just created the registry at {store.url}, for any number of writers")
    if report is not None:
        store_report(store, report)
    return report


def needed_effort(store: Store) -> Effort:
    """Return how hard a new registry's filesystem is probed when nobody says.

    Not at all in memory, and where this kernel alone keeps the files: there a hard link is exclusive by POSIX. Of a
    network mount that is only said. In full where a server's conditional write decides: some take the condition and do
    not keep it. Quickly elsewhere: HDFS decides under one lock, and WebHDFS would take minutes.
    """
    if store.store_class == "memory":
        return "skip"
    path = store.local_path(layout.REGISTRY)
    if path is None:
        return "quick" if store.capabilities.rename_folder else "full"
    mount = find_mount(path.parent)
    return "skip" if mount is not None and mount.is_known_local else "full"


def unsafe(store: Store, report: ProbeReport) -> UnsafeStorage:
    """Return the error that says what a probe found."""
    failed = [f"{check.name}: {check.detail}" for check in report.checks if check.outcome == "failed"]
    return UnsafeStorage(
        f"{store.url} would lose history: {'; '.join(failed) or 'the probe was not finished'}",
        hint=WAY_OUT,
        probe=report.model_dump(mode="json", by_alias=True),
    )
