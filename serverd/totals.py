"""What frontends have counted that are gone: a daemon's counters never fall because one of its processes died."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from clipperfs.serverd.metrics import add_up

COUNTS: Final[Mapping[str, tuple[str, ...]]] = {
    "http": ("connections_total", "requests", "refused"),
    "cache": ("hits", "misses", "evictions"),
}
"""What is counted in these parts of a snapshot. All else there says how things are, and ends with the process."""

Snapshot = dict[str, Any]


class Totals:
    """The last snapshot of each living frontend, and the sum of those of the dead. Pure.

    Guarantees: what ``all`` returns never adds up to less than before, for counts that a snapshot has shown before.
    """

    def __init__(self) -> None:
        self._latest: dict[int, Snapshot] = {}
        self._dead: Snapshot = {}

    def note(self, pid: int, snapshot: Snapshot) -> None:
        """Take in what a frontend says that it has counted."""
        self._latest[pid] = snapshot

    def bury(self, pid: int) -> None:
        """Keep what a frontend counted that has ended."""
        snapshot = self._latest.pop(pid, None)
        if snapshot is None:
            return
        dead = self._dead
        for app, counts in snapshot.get("apps", {}).items():
            add_up(dead.setdefault("apps", {}).setdefault(app, {}), counts)
        versions = dead.setdefault("versions", {})
        for counts in snapshot.get("versions", ()):
            add_up(versions.setdefault((counts["model"], counts["version"]), {}), counts)
        for part, names in COUNTS.items():
            known = snapshot.get(part, {})
            add_up(dead.setdefault(part, {}), {name: known[name] for name in names if name in known})
        add_up(dead, {"dropped_messages": snapshot.get("dropped_messages", 0)})

    def all(self, pids: Iterable[int]) -> list[Snapshot]:
        """Return a snapshot for each of these frontends that has ever given one, and one for all that have ended."""
        found = [self._latest[pid] for pid in pids if pid in self._latest]
        if self._dead:
            versions = [
                {"model": model, "version": version, **counts}
                for (model, version), counts in self._dead["versions"].items()
            ]
            found.append({**self._dead, "versions": versions})
        return found
