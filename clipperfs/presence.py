"""Which daemons there are: reads ``replicas/*.json`` and judges by the storage's clock which of them still hold.

Source: ``registry_layout.md`` §7.10. Anybody may have written anything there: what is no status is named and left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from clipperfs import layout
from clipperfs.documents import ReplicaStatus, parse_document
from clipperfs.errors import InvalidDocument, StorageDenied, StoredDataError
from clipperfs.limits import LIMITS
from clipperfs.names import name_problem
from clipperfs.store import Entry, Store

PARALLEL_READS = 16
MOST_STATUSES = 4096
"""Files beyond so many are not read."""
LONGEST_LIFE_S = 86_400.0
"""A status holds for a day at most, whatever it says."""
SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Presence:
    """One daemon's status, and how old it is."""

    status: ReplicaStatus
    age_s: float
    """Since it was written."""
    left_s: float
    """Until it expires, by the storage's clock where the storage tells when a file was written; negative: since."""
    is_dated: bool
    """Whether the storage tells when the file was written. Otherwise the daemon's own clock had to be believed."""
    clock_ahead_s: float
    """How far the daemon's clock is ahead of the storage's; negative: behind, 0: not known."""
    may_live: bool
    """Whether any of the clocks lets it hold: what decides where a mistake would cost data."""

    @property
    def is_live(self) -> bool:
        """Say whether the status still holds."""
        return self.left_s > 0


@dataclass(slots=True)
class Presences:
    """Everything found in ``replicas/``."""

    seen: list[Presence] = field(default_factory=list)
    """Sorted by the daemons' names."""
    ignored: list[tuple[str, str]] = field(default_factory=list)
    """Files that are no status, and why."""

    @property
    def live(self) -> list[ReplicaStatus]:
        """Return the statuses that still hold."""
        return [one.status for one in self.seen if one.is_live]


def read_presences(store: Store, *, now_unix_s: float) -> Presences:
    """Read every daemon's status: one listing, and one read for each, several at a time.

    Args:
        store: the registry's filesystem.
        now_unix_s: the present by this host's clock. Where a file is newer than that, the clock is behind the storage's
            and the newest file's time stands for the present.

    Raises StorageError.
    """
    found = Presences()
    candidates: list[Entry] = []
    for entry in store.list(layout.REPLICAS):
        if entry.name.startswith(layout.CLAIM_PREFIX):
            continue
        if (why := _file_problem(entry)) is not None:
            found.ignored.append((entry.name, why))
        elif len(candidates) == MOST_STATUSES:
            found.ignored.append((entry.name, f"not read: it comes after {MOST_STATUSES} others"))
        else:
            candidates.append(entry)
    if not candidates:
        return found
    with ThreadPoolExecutor(min(PARALLEL_READS, len(candidates)), thread_name_prefix="status") as pool:
        read = list(pool.map(lambda entry: _read(store, entry), candidates))
    statuses: list[tuple[Entry, ReplicaStatus]] = []
    for entry, result in zip(candidates, read, strict=True):
        if isinstance(result, ReplicaStatus):
            statuses.append((entry, result))
        elif result is not None:
            found.ignored.append((entry.name, result))
    now = max([now_unix_s, *(entry.modified_unix_s for entry, _ in statuses)])
    found.seen = [date(status, entry.modified_unix_s, now_unix_s=now) for entry, status in statuses]
    return found


def date(status: ReplicaStatus, modified_unix_s: float, *, now_unix_s: float) -> Presence:
    """Say how old a status is and whether it still holds. Pure.

    A daemon writes two readings of its own clock: when it wrote, and when the status expires. Their difference is a
    length of time, which needs no clock in common. It is counted from when the storage says that the file was written.

    Args:
        status: what the daemon wrote.
        modified_unix_s: when the file was written, by the storage's clock; 0: the storage does not tell.
        now_unix_s: the present, by the storage's clock or one that agrees with it.
    """
    said_unix_s = _unix_s(status.time)
    is_dated = modified_unix_s > 0
    written_unix_s = modified_unix_s if is_dated else said_unix_s if said_unix_s is not None else now_unix_s
    life_s = status.expires_unix_s - (said_unix_s if said_unix_s is not None else written_unix_s)
    life_s = min(max(life_s, 0.0), LONGEST_LIFE_S)
    age_s = now_unix_s - written_unix_s
    left_s = life_s - age_s
    return Presence(
        status=status,
        age_s=max(age_s, 0.0),
        left_s=min(left_s, LONGEST_LIFE_S),
        is_dated=is_dated,
        clock_ahead_s=said_unix_s - modified_unix_s if is_dated and said_unix_s is not None else 0.0,
        may_live=left_s > 0 or (status.expires_unix_s > now_unix_s and age_s < LONGEST_LIFE_S),
    )


def _file_problem(entry: Entry) -> str | None:
    if entry.kind != "file":
        return f"is a {entry.kind}, not a file"
    if not entry.name.endswith(SUFFIX):
        return "is not named like a status"
    if (problem := name_problem(entry.name.removesuffix(SUFFIX))) is not None:
        return f"names no daemon: {problem}"
    if entry.size > LIMITS.status_bytes:
        return f"has {entry.size} bytes; the limit is {LIMITS.status_bytes}"
    return None


def _read(store: Store, entry: Entry) -> ReplicaStatus | str | None:
    """Return a status, why a file is none, or ``None`` when it has gone."""
    try:
        data = store.read(f"{layout.REPLICAS}/{entry.name}", limit_bytes=LIMITS.status_bytes)
        if data is None:
            return None
        status = parse_document(ReplicaStatus, data, limit_bytes=LIMITS.status_bytes)
    except (InvalidDocument, StoredDataError, StorageDenied) as error:
        return error.message
    if f"{status.replica}{SUFFIX}" != entry.name:
        return f"says that it is the status of {status.replica[:80]!a}"
    if not math.isfinite(status.expires_unix_s):
        return "never expires"
    return status


def _unix_s(time_text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(time_text)
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError, OSError):
        return None


def valid_models(statuses: Iterable[ReplicaStatus]) -> list[str]:
    """Return the names of the models that daemons report, sorted; names that break the grammar are left out."""
    return sorted({name for status in statuses for name in status.models if name_problem(name) is None})
