"""Questions to the history: which records, the state at a moment, and everything as lines for another system."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from clipperfs import layout
from clipperfs.documents import ModelRecord, Record
from clipperfs.durations import duration_s
from clipperfs.errors import InvalidSetting
from clipperfs.layout import Subject
from clipperfs.ledger import Head, Ledger
from clipperfs.names import name_problem
from clipperfs.view import model_names
from clipperfs.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records are wanted. What is ``None`` or empty does not matter."""

    ops: frozenset[str] = frozenset()
    actor: str | None = None
    """Part of the actor's name, whatever the case."""
    since: datetime | None = None
    until: datetime | None = None
    version: str | None = None

    def wants(self, record: Record) -> bool:
        """Say whether a record passes. A record whose time cannot be read passes no limit of time."""
        if self.ops and record.op not in self.ops:
            return False
        if self.actor is not None and self.actor.casefold() not in record.actor.casefold():
            return False
        if self.version is not None and record.evidence.version != self.version:
            return False
        if self.since is None and self.until is None:
            return True
        moment = moment_of(record)
        return moment is not None and not (
            (self.since is not None and moment < self.since) or (self.until is not None and moment > self.until)
        )


def moment_of(record: Record) -> datetime | None:
    """Return a record's time, or ``None`` when its writer wrote something else."""
    try:
        moment = datetime.fromisoformat(record.time)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def parse_moment(text: str, *, now: datetime | None = None) -> datetime:
    """Return the moment that a person means: a date, a date and time (UTC unless it says otherwise), or an age.

    Raises:
        InvalidSetting: it is none of these.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            if text.strip().isdigit():  # a number alone is a time of day or a year just as well
                raise InvalidSetting("no unit")
            age_s = duration_s(text)
        except InvalidSetting as error:
            raise InvalidSetting(
                f"{text!r} is no moment",
                hint="write 2026-11-20, 2026-11-20T12:00:00Z, or an age such as 90m, 24h or 7d",
            ) from error
        return (now or datetime.now(UTC)) - timedelta(seconds=age_s)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def record_at(ledger: Ledger[ModelRecord], moment: datetime) -> Head[ModelRecord] | None:
    """Return the newest record that had been written by ``moment``, or ``None`` when there was none yet.

    Records are in the order of their numbers; times are what writers' clocks said. Of records whose clocks disagree
    with that order, the one with the highest number counts. Raises DamagedLog.
    """
    for head in ledger.records():
        written = moment_of(head.record)
        if written is not None and written <= moment:
            return head
    return None


def export(workspace: Workspace) -> Iterator[tuple[Subject, Head[Any]]]:
    """Yield every record of every model and application, each log from its first record on, verified.

    Raises DamagedLog, UnknownFeature at the first log that cannot be read as a whole: an export is evidence.
    """
    workspace.document()
    ledgers: list[Ledger[Any]] = [workspace.model_ledger(name) for name in model_names(workspace)]
    ledgers += [
        workspace.app_ledger(entry.name)
        for entry in workspace.store.list(layout.APPS)
        if name_problem(entry.name) is None
    ]
    for ledger in ledgers:
        for head in ledger.from_the_first():
            yield ledger.subject, head
