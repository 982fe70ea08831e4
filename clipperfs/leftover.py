"""What interrupted work and passing time leave in a registry: stagings, claims, orphans, hints, statuses, and the sums.

Each of them is found by its age and means nothing any more. Source: ``registry_layout.md`` §8.10.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from clipperfs import layout
from clipperfs.activate import recorded_digest
from clipperfs.documents import ModelState
from clipperfs.errors import StorageDenied
from clipperfs.names import ModelName, VersionName, name_problem
from clipperfs.presence import Presence
from clipperfs.store import Entry, PartedStore
from clipperfs.workspace import Workspace

STAGING_AGE_S = 86_400.0
HINT_AGE_S = 86_400.0
STATUS_AGE_S = 86_400.0
"""How long an expired status of a daemon stays, for people to see that it is missing."""
_OWN_FILES = (layout.MANIFEST_FILE, layout.TOMBSTONE_FILE)


@dataclass(frozen=True, slots=True)
class Total:
    """One class of what a registry holds."""

    what: str
    """Such as ``deleted, in their grace``."""
    count: int
    size_bytes: int
    is_removed: bool
    """Whether it was removed (or would be)."""


@dataclass(slots=True)
class CollectReport:
    """What was removed (or would be), what was kept and why, and how many bytes there are of each class."""

    purged: list[str] = field(default_factory=list)
    stagings: list[str] = field(default_factory=list)
    """Stagings, claims, abandoned publishes, orphans and what probes left."""
    statuses: list[str] = field(default_factory=list)
    """Of daemons that have been gone for a day."""
    hints: int = 0
    freed_bytes: int = 0
    kept: list[tuple[str, str]] = field(default_factory=list)
    totals: list[Total] = field(default_factory=list)

    def add(self, what: str, size_bytes: int, *, removed: bool = False, count: int = 1) -> None:
        """Count something into its class."""
        for at, total in enumerate(self.totals):
            if (total.what, total.is_removed) == (what, removed):
                self.totals[at] = Total(what, total.count + count, total.size_bytes + size_bytes, removed)
                break
        else:
            self.totals.append(Total(what, count, size_bytes, removed))
        if removed:
            self.freed_bytes += size_bytes


@dataclass(frozen=True, slots=True)
class Sweep:
    """One run of a collector: what it works on, and by which rules."""

    workspace: Workspace
    report: CollectReport
    now_unix_s: float
    dry_run: bool
    orphan_age_s: float | None
    """Orphans in which nothing has changed for so long are removed; ``None``: they are only reported."""

    def age_s(self, entries: Iterable[Entry]) -> float:
        """Return how long nothing among the entries has changed; 0 for none."""
        return self.now_unix_s - max((entry.modified_unix_s for entry in entries), default=self.now_unix_s)

    def collect_folder(self, folder: str, inside: list[Entry], what: str) -> None:
        """Remove a folder of leftovers."""
        self.report.stagings.append(folder)
        self.report.add(what, size_of(inside), removed=True)
        if not self.dry_run:
            self.workspace.store.delete_folder(folder)

    def collect_file(self, key: str, entry: Entry, what: str) -> None:
        """Remove a file that was left over."""
        self.report.stagings.append(key)
        self.report.add(what, entry.size, removed=True)
        if not self.dry_run:
            self.workspace.store.delete(key)


def size_of(entries: Iterable[Entry]) -> int:
    """Return the size of files in bytes."""
    return sum(entry.size for entry in entries)


def collect_stagings(sweep: Sweep, model: ModelName, inside: dict[str, list[Entry]]) -> None:
    """Remove the stagings of publishers that died, once they are old.

    Args:
        sweep: the run.
        model: whose stagings.
        inside: what lies below each folder in ``versions/``.
    """
    for entry in list(sweep.workspace.store.list(layout.versions(model))):
        if entry.name.startswith(layout.STAGING_PREFIX):
            _collect_work(sweep, f"{layout.versions(model)}/{entry.name}", inside.get(entry.name, []), "a publish")


def collect_incoming(
    sweep: Sweep, model: ModelName, version: VersionName, state: ModelState, inside: list[Entry]
) -> None:
    """Judge a version without a manifest: a copy that is going on, an abandoned publish, or an orphan."""
    report, store = sweep.report, sweep.workspace.store
    subject, folder = f"{model}/{version}", layout.version(model, version)
    claim = next((entry for entry in inside if entry.name == layout.PUBLISHING_FILE), None)
    age_s, size_bytes = sweep.age_s(inside), size_of(inside)
    limit_s = STAGING_AGE_S if claim is not None else sweep.orphan_age_s
    if age_s < STAGING_AGE_S:
        report.add("incoming versions", size_bytes)
        why = "incoming: it has no manifest; the copy may still be going on"
        report.kept.append((subject, why if claim is None else "incoming: a publish may still be going on"))
    elif recorded_digest(sweep.workspace, model, version, state) is not None:
        report.add("versions", size_bytes)
        report.kept.append((subject, "damaged: a record names it, but its manifest is gone; restore it from a backup"))
    elif limit_s is None or age_s < limit_s:
        report.add("orphans", size_bytes)
        days = age_s / 86_400
        report.kept.append(
            (subject, f"an orphan: no manifest, no record, unchanged for {days:.0f} days; see --orphans")
        )
    elif store.stat(layout.manifest(model, version)) is not None:
        report.kept.append((subject, "it has got a manifest at this moment"))
    else:
        report.stagings.append(folder)
        report.add("orphans" if claim is None else "abandoned publishes", size_bytes, removed=True)
        if not sweep.dry_run:
            # The claim goes last: as long as it is there, nobody takes what is left for a plain copy.
            for entry in inside:
                if entry is not claim:
                    store.delete(f"{folder}/{entry.name}")
            store.delete_folder(folder)


def split_claims(inside: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Part what lies in an incoming version: the claims of files that were being created, and everything else."""
    claims = [entry for entry in inside if _is_claim(entry) and entry.name != layout.PUBLISHING_FILE]
    return claims, [entry for entry in inside if entry not in claims]


def _is_claim(entry: Entry) -> bool:
    return entry.name.startswith(layout.CLAIM_PREFIX) and "/" not in entry.name


def collect_claims(sweep: Sweep, place: str, entries: Iterable[Entry]) -> None:
    """Remove the claims that writers left in a folder who died between two system calls."""
    for entry in entries:
        if _is_claim(entry) and sweep.now_unix_s - entry.modified_unix_s > STAGING_AGE_S:
            sweep.collect_file(f"{place}/{entry.name}", entry, "claims of writers that died")


def collect_probes(sweep: Sweep) -> None:
    """Remove what probes that died left in their scratch folders, once it is old. Their reports stay."""
    for entry in list(sweep.workspace.store.list(layout.PROBES)):
        if entry.kind == "folder" and layout.is_probe_scratch(entry.name):
            folder = f"{layout.PROBES}/{entry.name}"
            _collect_work(sweep, folder, list(sweep.workspace.store.walk(folder)), "a probe")
        elif layout.is_probe_report(entry.name):
            sweep.report.add("probe reports", entry.size)


def collect_uploads(sweep: Sweep) -> None:
    """Take away the parts of uploads that nobody has ended for a day: no listing shows them, but they take room."""
    store, report = sweep.workspace.store, sweep.report
    if not isinstance(store, PartedStore):
        return
    try:
        for upload in list(store.unfinished_uploads()):
            if sweep.now_unix_s - upload.began_unix_s < STAGING_AGE_S:
                report.kept.append((upload.name, "an upload may still be going on, or be taken up again"))
                continue
            if not sweep.dry_run:
                store.abort_upload(upload)
            report.stagings.append(f"{upload.name} (parts of an upload)")
            report.add("parts of uploads", upload.size_bytes, removed=True)
    except StorageDenied as error:  # a right of its own, which older policies of buckets lack
        report.kept.append(("uploads that never ended", error.message))


def collect_statuses(sweep: Sweep, seen: list[Presence]) -> None:
    """Remove the statuses of daemons that have been gone for a day."""
    for one in seen:
        if one.may_live or one.left_s > -STATUS_AGE_S:
            continue
        sweep.report.statuses.append(one.status.replica)
        if not sweep.dry_run:
            sweep.workspace.store.delete(layout.replica_status(one.status.replica))


def old_hints(workspace: Workspace, now_unix_s: float) -> Iterator[Entry]:
    """Yield the wake-up hints that are a day old."""
    for entry in list(workspace.store.list(layout.CHANGES)):
        if layout.is_change(entry.name) and now_unix_s - int(entry.name[:13]) / 1000 > HINT_AGE_S:
            yield entry


def prune_hints(workspace: Workspace, *, now_unix_s: float | None = None) -> int:
    """Delete wake-up hints that are a day old; return how many. Anybody may do so at any time."""
    old = list(old_hints(workspace, time.time() if now_unix_s is None else now_unix_s))
    for entry in old:
        workspace.store.delete(f"{layout.CHANGES}/{entry.name}")
    return len(old)


def is_version(name: str) -> bool:
    """Say whether a folder in ``versions/`` can be a version."""
    return name_problem(name) is None


def is_incoming(inside: Iterable[Entry]) -> bool:
    """Say whether what lies below a version's folder lacks a manifest, and a tombstone too."""
    return not any(entry.name in _OWN_FILES for entry in inside)


def _collect_work(sweep: Sweep, folder: str, inside: list[Entry], work: str) -> None:
    """Remove a folder in which nothing has changed for a day."""
    itself = None if inside else sweep.workspace.store.stat(folder)
    if sweep.age_s([itself] if itself is not None else inside) < STAGING_AGE_S:
        sweep.report.kept.append((folder, f"{work} may still be going on"))
        sweep.report.add(f"work of {work} that may go on", size_of(inside))
    else:
        sweep.collect_folder(folder, inside, f"leftovers of {work} that died")
