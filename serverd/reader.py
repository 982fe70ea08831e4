"""One look at the registry after another: which ledgers have a new head, and whether it continues the one known.

Blocks on the storage; the watcher calls it on a thread, one look at a time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from clipperfs.serverd.statedir import StateDir

from clipperfs import layout
from clipperfs.documents import AppRecord, ChangeHint, ModelRecord, parse_document
from clipperfs.errors import ClipperfsError, InvalidDocument, StorageError, StoredDataError
from clipperfs.layout import Subject
from clipperfs.ledger import Head, Ledger
from clipperfs.limits import LIMITS
from clipperfs.names import name_problem
from clipperfs.workspace import Workspace, read_registry_document

PROBED_SUBJECTS = 32
"""Up to this many ledgers are asked for their next slot at every look; beyond, hints and full sweeps must do: the cost
of a look is bounded, whatever the registry holds."""
PROBED_AT_ONCE = 4
"""So many, in turn, where each look goes over a network: hints may be lost, and every question costs a request."""
EXAMINED_AT_ONCE = 16
"""So many ledgers are asked about at once where each question is a request over a network."""

AnyHead: TypeAlias = Head[ModelRecord] | Head[AppRecord]


@dataclass(frozen=True, slots=True)
class Look:
    """What is known after a look. Complete, never a delta."""

    models: Mapping[str, ModelRecord]
    apps: Mapping[str, AppRecord]
    changed: tuple[Subject, ...]
    alarms: Mapping[str, str]
    """By ledger: why it is not followed, though what is served of it goes on being served."""


class RegistryReader:
    """Follows every ledger that matters to a daemon.

    Guarantees: a head is remembered in ``heads.json`` before it is used; a log that moved back, forked or vanished is
    never followed, and what was known of it stays.
    """

    def __init__(self, workspace: Workspace, state: StateDir, models: list[str] | None) -> None:
        self.workspace = workspace
        self._state = state
        self._only = None if models is None else frozenset(models)
        self._heads: dict[Subject, AnyHead] = {}
        self._alarms: dict[str, str] = {}
        self._last_hint = ""
        self._turn = 0
        self._told: SimpleQueue[Subject] = SimpleQueue()
        self._registry_id, self._remembered = _read_memory(state)
        workspace.known_registry_id = self._registry_id
        self._is_memory_due = False
        self._known_sizes = (-1, -1)
        self._in_order: list[Subject] = []
        self._unread: list[Subject] = []
        """Followed in an earlier life, and not read in this one."""
        self.answers = 0
        """How many ledgers have been looked at so far: as long as it grows, the storage answers."""

    def tell(self, subject: Subject) -> None:
        """Have the next look ask for a ledger's head: somebody says that it has changed. Any thread."""
        self._told.put(subject)

    def look(self, *, full: bool) -> Look:
        """Look for new heads.

        Args:
            full: look at every ledger, not only where a hint or a cheap probe says that something is new.

        Raises:
            NotFound: the registry is not there any more.
            StorageError: it does not answer.
            StoredDataError: another registry is in its place, or ``registry.json`` is damaged.
        """
        document = read_registry_document(self.workspace.store)
        if self._registry_id not in (None, document.registry_id):
            raise StoredDataError(
                f"another registry is at {self.workspace.store.url}: its id is {document.registry_id}, "
                f"this daemon follows {self._registry_id}",
                hint="if that is meant, stop the daemon and start it with a new state folder",
            )
        self._registry_id = document.registry_id
        hinted, last_hint = self._read_hints(full)
        with contextlib.suppress(Empty):
            while True:
                hinted.add(self._told.get_nowait())
        if full:
            due = sorted(filter(self._serves, {*self._subjects(), *self._known()}), key=str)
        else:
            known = self._sorted_known()
            alarmed = [subject for subject in known if str(subject) in self._alarms] if self._alarms else []
            wanted = {*hinted, *self._probed(known), *self._unread, *alarmed}
            due = sorted(filter(self._serves, wanted), key=str)
        changed = []
        try:
            for subject, head, problem in self._examine_all(due, full):
                if self._follow(subject, head, problem):
                    changed.append(subject)
        finally:
            self._remember()
        self._last_hint = last_hint  # not before: a look that fails half-way reads its hints again
        return self._look(changed)

    def _look(self, changed: list[Subject]) -> Look:
        records = [head.record for head in self._heads.values()]
        return Look(
            models={record.model: record for record in records if isinstance(record, ModelRecord)},
            apps={record.app: record for record in records if isinstance(record, AppRecord)},
            changed=tuple(changed),
            alarms=dict(self._alarms),
        )

    def _subjects(self) -> set[Subject]:
        """Return every ledger that there may be: every one there is, or the models that are served by name."""
        names = self._names(layout.MODELS) if self._only is None else self._only
        models = {Subject("model", name) for name in names}
        return models | {Subject("app", name) for name in self._names(layout.APPS)}

    def _known(self) -> set[Subject]:
        """Return every ledger that this daemon has followed, now or in an earlier life."""
        parted = (name.partition("/") for name in self._remembered)
        return {*self._heads, *(Subject("app" if kind == "app" else "model", name) for kind, _, name in parted)}

    def _sorted_known(self) -> list[Subject]:
        """Return the ledgers that this daemon has followed, in order. Made anew only when there are more of them."""
        sizes = (len(self._heads), len(self._remembered))
        if sizes != self._known_sizes:
            self._known_sizes = sizes
            self._in_order = sorted(filter(self._serves, self._known()), key=str)
            self._unread = [subject for subject in self._in_order if subject not in self._heads]
        return self._in_order

    def _serves(self, subject: Subject) -> bool:
        return subject.kind == "app" or self._only is None or subject.name in self._only

    def _names(self, prefix: str) -> list[str]:
        entries = self.workspace.store.list(prefix)
        return [entry.name for entry in entries if entry.kind == "folder" and name_problem(entry.name) is None]

    def _probed(self, subjects: list[Subject]) -> frozenset[Subject]:
        """Return the ledgers to ask for their next slot, because a hint may be lost."""
        if self.workspace.store.capabilities.native_events:
            return frozenset(subjects if len(subjects) <= PROBED_SUBJECTS else ())
        start, self._turn = self._turn, self._turn + PROBED_AT_ONCE
        return frozenset(subjects[(start + step) % len(subjects)] for step in range(PROBED_AT_ONCE) if subjects)

    def _read_hints(self, full: bool) -> tuple[set[Subject], str]:
        """Return the ledgers that new hints name, and the last hint.

        A full look looks at all ledgers and need not read them.
        """
        hinted, last = set(), self._last_hint
        for entry in self.workspace.store.list(layout.CHANGES, after=self._last_hint):
            if not layout.is_change(entry.name):
                continue
            last = max(last, entry.name)
            if full:
                continue
            try:
                data = self.workspace.store.read(f"{layout.CHANGES}/{entry.name}", limit_bytes=LIMITS.hint_bytes)
                hint = parse_document(ChangeHint, data or b"", limit_bytes=LIMITS.hint_bytes)
            except (InvalidDocument, StoredDataError):
                continue
            if name_problem(hint.name) is None:
                hinted.add(Subject(hint.kind, hint.name))
        return hinted, last

    def _examine_all(self, subjects: list[Subject], full: bool) -> Iterator[tuple[Subject, AnyHead | None, str | None]]:
        """Yield what :meth:`_examine` finds, in order. Over a network several ledgers are asked about at once."""
        if len(subjects) < 2 or self.workspace.store.capabilities.native_events:
            for subject in subjects:
                yield self._examine(subject, full)
            return
        with ThreadPoolExecutor(EXAMINED_AT_ONCE, thread_name_prefix="heads") as pool:
            asked = [pool.submit(self._examine, subject, full) for subject in subjects]
            try:
                for found in asked:
                    yield found.result()
            finally:
                for found in asked:
                    found.cancel()

    def _examine(self, subject: Subject, full: bool) -> tuple[Subject, AnyHead | None, str | None]:
        """Return a ledger's head, and how it contradicts what is known of it. Raises StorageError."""
        name = f"{subject.kind}/{subject.name}"
        known = None if str(subject) in self._alarms else self._heads.get(subject)
        try:
            ledger: Ledger[Any]
            if subject.kind == "model":
                ledger = self.workspace.model_ledger(subject.name)
            else:
                ledger = self.workspace.app_ledger(subject.name)
            if known is not None and self._is_as_known(known, subject, full):
                return subject, known, None
            head = ledger.head()
            return subject, head, self._regression(ledger, name, head)
        except StorageError:
            raise
        except ClipperfsError as error:
            return subject, None, str(error)
        finally:
            self.answers += 1

    def _is_as_known(self, known: AnyHead, subject: Subject, full: bool) -> bool:
        """Say whether a head is the newest still: by one look at the slot after it; when ``full``, also at itself."""
        store = self.workspace.store
        if store.stat(layout.slot(subject, known.seq + 1)) is not None:
            return False
        return not full or store.read(layout.slot(subject, known.seq), limit_bytes=LIMITS.record_bytes) == known.data

    def _follow(self, subject: Subject, head: AnyHead | None, problem: str | None) -> bool:
        """Take over a ledger's head if it continues the one known; say whether it is new."""
        if problem is not None:
            self._alarms[str(subject)] = problem
            return False
        self._alarms.pop(str(subject), None)
        known = self._heads.get(subject)
        if head is None or (known is not None and known.digest == head.digest):
            return False
        name = f"{subject.kind}/{subject.name}"
        if self._remembered.get(name) != (head.seq, head.digest):
            self._remembered[name] = (head.seq, head.digest)
            self._is_memory_due = True
        self._heads[subject] = head
        return True

    def _regression(self, ledger: Ledger[Any], name: str, head: AnyHead | None) -> str | None:
        """Return how a ledger contradicts what this daemon has seen of it, or ``None``."""
        if name not in self._remembered:
            return None
        seq, digest = self._remembered[name]
        if head is None:
            return f"its log is gone; it had {seq} records"
        if head.seq < seq:
            return f"its log moved back from record {seq} to {head.seq}: an older copy was put in its place"
        then = head if head.seq == seq else ledger.read(seq)
        if then is None or then.digest != digest:
            return f"its log was rewritten: record {seq} is not the one that this daemon has followed"
        return None

    def _remember(self) -> None:
        """Write down the heads that are new, all at once, before anybody acts on them."""
        if not self._is_memory_due:
            return
        memory = {"registry_id": self._registry_id, "heads": self._remembered}
        try:
            self._state.write("heads.json", (json.dumps(memory, sort_keys=True) + "\n").encode())
            self._is_memory_due = False
            self._alarms.pop("heads.json", None)
        except StorageError as error:  # a full disk must not stop what is served from following
            self._alarms["heads.json"] = f"what was followed cannot be remembered: {error.message}"


def _read_memory(state: StateDir) -> tuple[str | None, dict[str, tuple[int, str]]]:
    """Return the remembered registry id and heads. A memory that cannot be read counts as none."""
    data = state.read("heads.json")
    try:
        tree: Any = json.loads(data) if data else {}
        heads = {str(name): (int(seq), str(digest)) for name, (seq, digest) in tree.get("heads", {}).items()}
        registry_id = tree.get("registry_id")
        return registry_id if isinstance(registry_id, str) else None, heads
    except (ValueError, TypeError, AttributeError):
        return None, {}
