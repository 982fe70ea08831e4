"""Stores with faults that the check of a history must find; opened by the racing processes by name."""

from __future__ import annotations

import time

from clipperfs.store import Entry
from clipperfs.store.local import LocalStore
from clipperfs.testing.unsafe_store import CheckThenActStore

LAG_S = 0.02


class LaggingStore(LocalStore):
    """Creates exclusively, but does not show a new record to those who look whether it is there, for a moment."""

    def stat(self, key: str) -> Entry | None:
        entry = super().stat(key)
        is_young = entry is not None and time.time() - entry.modified_unix_s < LAG_S
        return None if is_young and "/log/" in key else entry


def open_check_then_act(url: str) -> CheckThenActStore:
    """Open a store on which two writers can win one slot."""
    return CheckThenActStore(url.removeprefix("file://"))


def open_lagging(url: str) -> LaggingStore:
    """Open a store that answers reads from a moment ago."""
    return LaggingStore(url.removeprefix("file://"))
