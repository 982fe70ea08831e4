"""Plain copies: which of them are complete, and making those versions of the registry, as each model's policy says.

Blocks on the storage; the watcher has it called on a thread. Several daemons may do this at once: the registry's
exclusive creation decides, and losing is no error.
"""

from __future__ import annotations

import contextlib
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Literal

from clipperfs.serverd.events import Events
from clipperfs.serverd.rota import Rota, next_look_s

from clipperfs import layout
from clipperfs.adopt import Assessment, find_uploads, look_at
from clipperfs.documents import ModelRecord, ModelState, Policy
from clipperfs.errors import (
    ActivationRefused,
    ClipperfsError,
    Conflict,
    DamagedLog,
    NotFound,
    StorageError,
    UnknownFeature,
)
from clipperfs.names import ModelName, model_name, name_problem, version_name
from clipperfs.recorded import NOTHING, RecordedVersions, recorded_versions
from clipperfs.registry import Registry
from clipperfs.store import Store

TAKE_OVER_S = 30.0
"""How long another daemon that adopted a copy is given to activate it, too."""

TOKEN_GRAIN_S = 2.5
"""A folder's change token may stay the same for changes that are no further apart than this."""

RECORDED = "recorded"
"""Stands for the content of a version that a record knows: it never changes."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What of a copy was there, and since when it has not changed."""

    listing: str
    since_s: float


def judge_copy(
    there: Assessment, seen: Seen | None, policy: Policy, now_s: float, settle_s: float
) -> Literal["adopt", "wait", "leave"]:
    """Decide about a copy that no record knows. Pure.

    Args:
        there: what is there now.
        seen: what was there before; ``None``: this is the first look.
        policy: the model's.
        now_s: the present.
        settle_s: for how long a copy that looks complete must be unchanged.

    Returns:
        ``leave``: it can only be adopted by a person, or never.
    """
    if there.state in ("purged", "broken"):
        return "leave"
    unchanged_s = now_s - seen.since_s if seen is not None and seen.listing == there.listing else -1.0
    if there.manifest is not None:
        return "adopt" if there.state == "complete" and unchanged_s >= settle_s else "wait"
    if there.is_publishing:
        return "wait"  # its publisher brings the manifest
    if policy.adopt == "manifest" or there.missing != [layout.MANIFEST_FILE]:
        return "wait"  # a manifest may yet come, or is coming
    if there.size_bytes == 0:
        return "wait"
    if there.marker is not None and unchanged_s >= settle_s:
        return "adopt"
    if policy.adopt == "quiescent" and unchanged_s >= max(policy.quiet_s, settle_s):
        return "adopt"
    return "wait"


@dataclass(slots=True)
class ModelCopies:
    """What is known of one model's versions."""

    known: RecordedVersions = NOTHING
    """What the log says of versions, up to the record that was the newest when it was read."""
    recorded: dict[str, tuple[int, str, str, float]] = field(default_factory=dict)
    """By version: number and op of the record that says it exists, its manifest, and when this daemon read it."""
    seen: dict[str, Seen] = field(default_factory=dict)
    first_s: dict[str, float] = field(default_factory=dict)
    """By version: when this daemon looked at the copy for the first time."""
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By version: under which circumstances it was refused, and why. It is not tried again under the same."""
    folder: Watched = field(default_factory=lambda: Watched())
    """``versions/``, on a filesystem whose folders tell when something is put into them."""


@dataclass(slots=True)
class Watched:
    """A folder that need not be listed again as long as its change token stays."""

    token: str = ""
    since_s: float = 0.0
    """When the token was first seen."""
    is_quiet: bool = False
    """Whether a listing that is certainly younger than the token's change held nothing to wait for."""

    def is_unchanged(self, store: Store, key: str, now_s: float) -> bool:
        """Look at the folder; say whether what was last listed still holds."""
        if not store.capabilities.native_events:
            return False
        found = store.stat(key)
        token = found.token if found is not None else ""
        if token != self.token:
            self.token, self.since_s, self.is_quiet = token, now_s, False
        return self.is_quiet

    def note_listing(self, now_s: float, *, is_settled: bool) -> None:
        """Note that the folder was listed after :meth:`is_unchanged`, and whether anything is to be waited for."""
        self.is_quiet = is_settled and bool(self.token) and now_s - self.since_s >= TOKEN_GRAIN_S


class Adopter:
    """Adopts and activates for one daemon.

    Args:
        registry: with the daemon's own actor.
        settle_s: for how long a copy must be unchanged before it counts as complete.
    """

    def __init__(
        self,
        registry: Registry,
        events: Events,
        *,
        settle_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._events = events
        self._settle_s = settle_s
        self._clock = clock
        self._models: dict[str, ModelCopies] = {}
        self._names: list[str] = []
        self._folder = Watched()
        self._last = ""
        self._rota = Rota()
        self._told: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._tries = 0
        self._put_off: set[tuple[str, str]] = set()
        """(model, version) that a rollout keeps from being activated on publish."""
        self.refusals: dict[tuple[str, str], tuple[str, str]] = {}
        """(model, version) → hook (or an empty text) and reason: what keeps a copy from being adopted or active."""

    def tell(self, model: str, version: str) -> None:
        """Have a copy looked at soon: somebody says that something of it has arrived. Any thread."""
        self._told.put((model, version))

    def retry(self) -> None:
        """Give every refused copy another chance: a person asked for a reload."""
        self._tries += 1

    def settle_soon(
        self,
        models: Mapping[str, ModelRecord],
        only: list[str] | None,
        *,
        everything: bool = True,
        turn_s: float = float("inf"),
    ) -> bool:
        """Adopt and activate what is due; say whether a record was written. Raises StorageError, NotFound.

        Args:
            models: the newest record of each model that the daemon follows.
            only: the models that it serves; ``None``: all.
            everything: look at every version of every model, which costs the more the more there are; or else at those
                whose turn it is (:mod:`clipperfs.serverd.rota`).
            turn_s: when looking at everything takes longer, leave the models that are left to the next such call,
                which begins with them.
        """
        if self._registry.workspace.is_single_writer:
            return False  # a daemon beside the declared writer would be a second one
        if everything:
            return self._settle_all(models, only, turn_s)
        wrote = False
        self._plan_told(only)
        followed = {*models, *self._models, *(only or ())}
        for model in self._rota.next_models(followed.intersection(only) if only else followed):
            wrote |= self._settle_model(model_name(model), models.get(model), in_turn=True)
        for model, version in self._rota.due_copies(self._clock()):
            wrote |= self._settle_copy(model_name(model), version, models.get(model))
        return wrote

    def _settle_all(self, models: Mapping[str, ModelRecord], only: list[str] | None, turn_s: float) -> bool:
        began_s, wrote = self._clock(), False
        names = self._list_models() if only is None else sorted(filter(_is_name, only))
        start = bisect_right(names, self._last)
        for name in names[start:] + names[:start]:
            wrote |= self._settle_model(model_name(name), models.get(name), in_turn=False)
            self._last = name
            if self._clock() - began_s > turn_s:
                break
        return wrote

    def _list_models(self) -> list[str]:
        store, now_s = self._registry.store, self._clock()
        if not self._folder.is_unchanged(store, layout.MODELS, now_s):
            found = store.list(layout.MODELS)
            self._names = [entry.name for entry in found if entry.kind == "folder" and _is_name(entry.name)]
            self._folder.note_listing(now_s, is_settled=True)
        return self._names

    def _plan_told(self, only: list[str] | None) -> None:
        with contextlib.suppress(Empty):
            while True:
                model, version = self._told.get_nowait()
                is_settled = model in self._models and version in self._models[model].recorded
                if not is_settled and not (only and model not in only):
                    # Of one that is known, the next event may be about to come: many files are many events.
                    is_known = self._rota.knows((model, version))
                    self._rota.hasten((model, version), self._clock() + (self._settle_s if is_known else 0.0))

    def _settle_model(self, model: ModelName, record: ModelRecord | None, *, in_turn: bool) -> bool:
        """List a model's versions and consider the copies among them; in turn: put the new ones on the list."""
        try:
            copies, state = self._read_model(model, record)
        except (DamagedLog, UnknownFeature):
            return False  # the reader has raised the alarm
        store, now_s, wrote = self._registry.store, self._clock(), False
        if not copies.folder.is_unchanged(store, layout.versions(model), now_s):
            new = [
                entry.name
                for entry in list(store.list(layout.versions(model)))
                if entry.kind == "folder" and _is_name(entry.name) and entry.name not in copies.recorded
            ]
            copies.folder.note_listing(now_s, is_settled=not new)
            for version in new:
                if version in state.retired:
                    continue
                if not in_turn:
                    wrote |= self._consider(model, version, copies, state)
                elif not self._rota.knows((model, version)):
                    self._rota.plan((model, version), self._clock())
        return wrote | self._take_over(model, copies, state)

    def _settle_copy(self, model: ModelName, version: str, record: ModelRecord | None) -> bool:
        """Look at one copy again."""
        try:
            copies, state = self._read_model(model, record)
        except (DamagedLog, UnknownFeature):
            self._rota.drop((model, version))
            return False
        if version in copies.recorded or version in state.retired:
            self._rota.drop((model, version))
            return False
        return self._consider(model, version, copies, state)

    def _read_model(self, model: ModelName, record: ModelRecord | None) -> tuple[ModelCopies, ModelState]:
        copies = self._models.setdefault(model, ModelCopies())
        if record is None or record.seq != copies.known.seq:
            self._read_log(model, copies)
        state = record.state if record else ModelState()
        if state.active is not None:
            self.refusals.pop((model, state.active.version), None)
        return copies, state

    def _read_log(self, model: ModelName, copies: ModelCopies) -> None:
        """Take note of the versions that records newer than those read before speak of."""
        known = recorded_versions(self._registry.workspace, model, copies.known)
        if known == copies.known:
            return
        before, now_s = copies.recorded, self._clock()
        copies.recorded = {
            version: (one.seq, one.op, one.manifest, before[version][3] if version in before else now_s)
            for version, one in known.versions.items()
            if one.manifest
        }
        copies.known = known

    def _consider(self, model: ModelName, version: str, copies: ModelCopies, state: ModelState) -> bool:
        try:
            there = look_at(self._registry.workspace, model, version_name(version))
        except NotFound:  # an empty folder: nothing has arrived yet, or it is gone again
            copies.seen.pop(version, None)
            self._rota.drop((model, version))
            return False
        now_s = self._clock()
        seen = copies.seen.get(version)
        verdict = judge_copy(there, seen, state.policy, now_s, self._settle_s)
        if seen is None or seen.listing != there.listing:
            copies.seen[version] = seen = Seen(there.listing, now_s)
        is_refused = self._is_refused(model, version, copies, state, there.listing)
        is_whole = there.state == "complete"
        is_plain = there.missing == [layout.MANIFEST_FILE] and not there.is_publishing
        is_marked = is_plain and there.marker is not None and there.size_bytes > 0 and state.policy.adopt != "manifest"
        at_s = next_look_s(
            now_s=now_s,
            first_s=copies.first_s.setdefault(version, now_s),
            since_s=seen.since_s,
            settle_s=self._settle_s,
            quiet_s=state.policy.quiet_s if is_plain and state.policy.adopt == "quiescent" else None,
            is_settling=verdict == "wait" and (is_whole or is_marked),
        )
        self._rota.plan((model, version), at_s)
        if verdict != "adopt" or is_refused:
            return False
        if there.manifest is None and find_uploads(self._registry.workspace, model, version_name(version)):
            return False
        return self._adopt(model, version, copies, state, there.listing)

    def _adopt(self, model: ModelName, version: str, copies: ModelCopies, state: ModelState, listing: str) -> bool:
        """Record a copy, and activate it where the policy says so (``Registry.seal`` does both)."""
        try:
            published = self._registry.seal(model, version, reason="adopted by the daemon: a complete copy")
        except ActivationRefused as error:
            self._events.tell("adopted", model=model, version=version)
            self._refuse(model, version, copies, state, RECORDED, error)
            return True
        except Conflict as error:
            # Another daemon was quicker, which is fine; or the name is taken, and asking again changes nothing.
            copies.refused[version] = (self._circumstances(state, listing), error.message)
            self._events.tell("passed over", model=model, version=version, reason=error.message)
            return False
        except StorageError:
            raise
        except ClipperfsError as error:
            self._refuse(model, version, copies, state, listing, error)
            return False
        self.refusals.pop((model, version), None)
        self._events.tell("adopted", model=model, version=version, manifest=published.manifest_digest)
        return True

    def _take_over(self, model: ModelName, copies: ModelCopies, state: ModelState) -> bool:
        """Activate the newest adopted copy that nobody has activated: its daemon may have died in between."""
        for put_off in [key for key in self._put_off if key[0] == model]:
            self.refusals.pop(put_off, None)
            self._put_off.discard(put_off)
        if state.policy.activation != "on-publish" or not copies.recorded:
            return False
        version, (seq, op, _, read_s) = max(copies.recorded.items(), key=lambda item: item[1][0])
        active = state.active
        is_due = op == "adopt" and version not in copies.known.rolled_out
        is_due = is_due and (active is None or (active.seq < seq and active.version != version))
        is_mine = version in copies.refused  # tried before; whether under other circumstances, is asked below
        if is_due and (rollout := state.rollout_in_effect) is not None:
            self._put_off.add((model, version))
            self.refusals[model, version] = (
                "",
                f"it waits for the rollout of version {rollout.candidate.version} to be promoted or aborted",
            )
            copies.refused.setdefault(version, ("", "put off"))  # so that it is due at once when the rollout is over
            return False
        if not is_due or version in state.retired or not (is_mine or self._clock() - read_s >= TAKE_OVER_S):
            return False
        if self._is_refused(model, version, copies, state, RECORDED):
            return False
        try:
            return self._registry.activate(model, version, reason="activated by the daemon: on-publish").changed
        except Conflict:
            return False
        except StorageError:
            raise
        except ClipperfsError as error:
            self._refuse(model, version, copies, state, RECORDED, error)
            return False

    def _circumstances(self, state: ModelState, identity: str) -> str:
        """Return what must change before a refused copy is tried again."""
        active = state.active.seq if state.active else 0
        return f"{identity}/{active}/{state.policy.model_dump_json()}/{self._tries}"

    def _is_refused(self, model: str, version: str, copies: ModelCopies, state: ModelState, identity: str) -> bool:
        known = copies.refused.get(version)
        return known is not None and known[0] == self._circumstances(state, identity)

    def _refuse(
        self, model: str, version: str, copies: ModelCopies, state: ModelState, identity: str, error: ClipperfsError
    ) -> None:
        copies.refused[version] = (self._circumstances(state, identity), error.message)
        verdicts = error.fields.get("verdicts") or []
        hooks = [verdict["hook"] for verdict in verdicts if verdict.get("outcome") not in ("passed", "skipped")]
        self.refusals[model, version] = (hooks[0] if hooks else "", error.message)
        self._events.tell(
            "refused", model=model, version=version, hook=hooks[0] if hooks else None, reason=error.message
        )


def _is_name(text: str) -> bool:
    return name_problem(text) is None
