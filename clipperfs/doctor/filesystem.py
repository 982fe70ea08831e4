"""What the registry's filesystem promises: rights, exclusive creation, durability, wake-ups, room and clock."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipperfs import layout
from clipperfs.doctor.finding import Finding
from clipperfs.documents import ProbeReport, parse_document
from clipperfs.errors import ClipperfsError, StorageError
from clipperfs.initialise import WAY_OUT
from clipperfs.limits import LIMITS
from clipperfs.mount import Mount, find_mount
from clipperfs.names import name_problem
from clipperfs.store import Store
from clipperfs.workspace import Workspace

MODELS_TRIED = 50
"""Rights are tried in the folders of so many models; more would make the doctor slow where there are thousands."""

CLOCK_DIFFERENCE_S = 5.0
LITTLE_ROOM_BYTES = 1 << 30
LITTLE_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Trial:
    """A file that was created and taken away again."""

    began_unix_s: float
    ended_unix_s: float
    modified_unix_s: float


def place(store: Store) -> Finding:
    """Say where the registry lies."""
    mount = _mount(store)
    where = f"{store.url} ({store.store_class})"
    if mount is None:
        return Finding("place", "ok", where)
    message = f"{where}, on {mount.kind} mounted at {mount.point}"
    if mount.is_read_only:
        return Finding("place", "note", f"{message}, read-only", "remount it to publish from this host")
    return Finding("place", "ok", message)


def rights(workspace: Workspace, has_registry: bool) -> tuple[list[Finding], Trial | None]:
    """Try to create a file in every folder that a writer writes to; return the trial in ``probe/`` for the clock."""
    store = workspace.store
    first: Trial | None = None
    refused: list[str] = []
    reasons: Counter[str] = Counter()
    tried = 0
    for folder in _writers_folders(store) if has_registry else [layout.PROBES]:
        tried += 1
        try:
            trial = _try(store, folder)
        except StorageError as error:
            refused.append(folder)
            reasons[error.hint or error.message] += 1
            continue
        first = trial if folder == layout.PROBES else first
    if not refused:
        return [Finding("rights", "ok", f"this user may create files wherever a writer must: {tried} tried")], first
    shown = ", ".join(refused[:6]) + (f" and {len(refused) - 6} more" if len(refused) > 6 else "")
    message = f"this user cannot create files in {len(refused)} of {tried} folders: {shown}"
    step = f"to publish and activate from here: {reasons.most_common(1)[0][0]}"
    return [Finding("rights", "warning", message, step)], first


def _writers_folders(store: Store) -> Iterator[str]:
    """Yield the folders that exist, and ``probe``."""
    yield layout.PROBES
    for folder in (layout.CHANGES, layout.REPLICAS, layout.MODELS, layout.APPS):
        if store.stat(folder) is not None:
            yield folder
    names = (entry.name for entry in store.list(layout.MODELS) if name_problem(entry.name) is None)
    for _, name in zip(range(MODELS_TRIED), names, strict=False):
        root = layout.subject_root(layout.model_subject(name))
        yield from (f"{root}/{part}" for part in ("log", "versions") if store.stat(f"{root}/{part}") is not None)


def _try(store: Store, folder: str) -> Trial:
    """Create a file in ``folder`` and delete it. Its name is one that readers ignore and collectors collect."""
    key = f"{folder}/{layout.CLAIM_PREFIX}{secrets.token_hex(8)}"
    began_unix_s = time.time()
    try:
        if not store.create(key, b"clipperfs doctor\n"):
            raise StorageError(
                f"{key} is said to be taken, which is not possible", hint="clipperfs doctor --probe full"
            )
        ended_unix_s = time.time()
        found = store.stat(key)
    finally:
        try_delete(store, key)
    return Trial(began_unix_s, ended_unix_s, found.modified_unix_s if found is not None else ended_unix_s)


def try_delete(store: Store, key: str) -> None:
    """Delete what is the doctor's own; where that is not allowed, a collector does it."""
    try:
        store.delete(key)
    except ClipperfsError:
        return


def clock(trial: Trial) -> Finding:
    """Compare this host's clock with the time that the filesystem gave a new file."""
    late_s = max(trial.began_unix_s - trial.modified_unix_s, trial.modified_unix_s - trial.ended_unix_s, 0.0)
    if late_s <= CLOCK_DIFFERENCE_S:
        return Finding("clock", "ok", f"this host and the filesystem agree within {CLOCK_DIFFERENCE_S:.0f} s")
    message = f"this host's clock and that of the filesystem differ by {late_s:.0f} s"
    step = "set both by NTP; order is safe, but times in the history and the age of what gc removes are wrong"
    return Finding("clock", "warning", message, step)


def newest_report(store: Store) -> ProbeReport | None:
    """Return the newest probe report of the registry, or ``None``. One that cannot be read is passed over."""
    try:
        names = [entry.name for entry in store.list(layout.PROBES) if layout.is_probe_report(entry.name)]
        for name in reversed(names):
            data = store.read(f"{layout.PROBES}/{name}", limit_bytes=LIMITS.probe_bytes)
            if data is not None:
                return parse_document(ProbeReport, data, limit_bytes=LIMITS.probe_bytes)
    except ClipperfsError:
        return None
    return None


def writers(store: Store, report: ProbeReport | None, is_declared: bool) -> Finding:
    """Say whether several writers are safe."""
    if is_declared:
        message = "one writer at a time, as was declared; if a second one writes, history can be lost"
        return Finding("writers", "warning", message, "let one CI job at a time write, and nobody else")
    if not store.capabilities.exclusive_create:
        message = f"the class {store.store_class} cannot create a file exclusively: reading is safe, writing is refused"
        return Finding("writers", "unsafe", message, WAY_OUT)
    if report is not None and not report.exclusive:
        failed = "; ".join(f"{check.name}: {check.detail}" for check in report.checks if check.outcome == "failed")
        return Finding("writers", "unsafe", f"several writers would lose history: {failed} ({_when(report)})", WAY_OUT)
    if report is not None and report.winners:
        races = f"{report.rounds} rounds of {report.processes} processes, one winner in each ({_when(report)})"
        return Finding("writers", "ok", f"any number of writers: {races}")
    mount = _mount(store)
    if store.store_class == "posix" and mount is not None and mount.is_known_local:
        return Finding("writers", "ok", f"any number of writers on this host: a hard link on {mount.kind} is exclusive")
    if store.store_class == "memory":
        return Finding("writers", "ok", "any number of threads of this process; nobody else sees it")
    message = "whether several writers are safe has not been tried here"
    return Finding("writers", "warning", message, "clipperfs doctor --probe full")


def oddities(report: ProbeReport) -> list[Finding]:
    """Return what a probe found beside exclusivity: late listings, errors, slow calls."""
    findings = []
    for check in report.checks:
        if check.outcome == "failed" and report.exclusive:
            findings.append(
                Finding("probe", "warning", f"{check.name}: {check.detail}", "clipperfs doctor --probe full")
            )
    if report.errors:
        seen = ", ".join(f"{name} {count} times" for name, count in report.errors.items())
        findings.append(Finding("probe", "note", f"errors while racing, none of which changed a winner: {seen}"))
    times = [
        f"{call} {report.latency[call].p50_ms:.3g} / {report.latency[call].p99_ms:.3g} ms"
        for call in ("read", "list", "create", "contested create")
        if call in report.latency
    ]
    if times:
        findings.append(Finding("latency", "ok", f"median / 99th percentile: {', '.join(times)}"))
    return findings


def durability(store: Store) -> Finding:
    """Say what survives a loss of power."""
    mount = _mount(store)
    if store.store_class == "memory" or (mount is not None and mount.is_volatile):
        kind = mount.kind if mount is not None else "memory"
        message = f"{kind}: everything is gone when {'the host restarts' if mount else 'this process ends'}"
        return Finding("durability", "warning", message, "use it for tests only")
    if store.capabilities.durable:
        return Finding("durability", "ok", "what a command has said is done survives a loss of power")
    return Finding("durability", "note", f"the class {store.store_class} does not promise to survive a loss of power")


def watching(store: Store) -> Finding:
    """Say how daemons notice changes."""
    mount = _mount(store)
    if store.capabilities.native_events and (mount is None or not mount.is_shared):
        return Finding("watching", "ok", "daemons on this host notice changes at once (inotify), and poll besides")
    where = f"{mount.kind} tells this kernel nothing of what others write" if mount else "no wake-ups here"
    return Finding("watching", "note", f"polling only: {where}; a change is noticed within one poll")


def room(store: Store) -> list[Finding]:
    """Say how much room there is, where that can be known."""
    path = store.local_path(layout.REGISTRY)
    return [] if path is None else [room_at("room", path.parent, "publishing")]


def room_at(subject: str, folder: Path, work: str) -> Finding:
    """Say how much room a folder's filesystem has. The folder need not exist."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    usage, files = shutil.disk_usage(folder), os.statvfs(folder)
    free = f"{usage.free / 1e9:.3g} GB of {usage.total / 1e9:.3g} GB are free"
    is_little = usage.free < LITTLE_ROOM_BYTES or usage.free < LITTLE_SHARE * usage.total
    if files.f_files and files.f_favail < 10_000:
        return Finding(subject, "warning", f"only {files.f_favail} more files fit", f"make room before {work} fails")
    if is_little:
        return Finding(subject, "warning", f"only {free}", f"make room before {work} fails")
    return Finding(subject, "ok", free)


def _mount(store: Store) -> Mount | None:
    path = store.local_path(layout.REGISTRY)
    return find_mount(path.parent) if path is not None else None


def _when(report: ProbeReport) -> str:
    return f"{report.plan} probe from {report.host}, {report.time}"
