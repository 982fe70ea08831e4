"""Plain copies: which of them are complete, and making those versions of the registry, as each model's policy says.

Blocks on the storage; the watcher has it called on a thread. Several daemons may do this at once: the registry's
exclusive creation decides, and losing is no error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from clipperfs.serverd.events import Events

from clipperfs import layout
from clipperfs.adopt import Assessment, look_at
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
from clipperfs.registry import Registry

TAKE_OVER_S = 30.0
"""How long another daemon that adopted a copy is given to activate it, too."""

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

    log_seq: int = 0
    """Up to here the log has been read for versions."""
    recorded: dict[str, tuple[int, str, str, float]] = field(default_factory=dict)
    """By version: number and op of the record that says it exists, its manifest, and when this daemon read it."""
    tried: set[str] = field(default_factory=set)
    """Versions that a person has rolled out: whether they become active is not this daemon's decision any more."""
    seen: dict[str, Seen] = field(default_factory=dict)
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By version: under which circumstances it was refused, and why. It is not tried again under the same."""


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
        self._tries = 0
        self._put_off: set[tuple[str, str]] = set()
        """(model, version) that a rollout keeps from being activated on publish."""
        self.refusals: dict[tuple[str, str], tuple[str, str]] = {}
        """(model, version) → hook (or an empty text) and reason: what keeps a copy from being adopted or active."""

    def retry(self) -> None:
        """Give every refused copy another chance: a person asked for a reload."""
        self._tries += 1

    def settle_soon(self, models: Mapping[str, ModelRecord], only: list[str] | None) -> bool:
        """Adopt and activate what is due; say whether a record was written. Raises StorageError, NotFound."""
        workspace = self._registry.workspace
        if workspace.is_single_writer:
            return False  # a daemon beside the declared writer would be a second one
        wrote = False
        for entry in list(workspace.store.list(layout.MODELS)):
            if entry.kind != "folder" or name_problem(entry.name) is not None or (only and entry.name not in only):
                continue
            try:
                wrote |= self._settle_model(model_name(entry.name), models.get(entry.name))
            except (DamagedLog, UnknownFeature):
                continue  # the reader has raised the alarm
        return wrote

    def _settle_model(self, model: ModelName, record: ModelRecord | None) -> bool:
        copies = self._models.setdefault(model, ModelCopies())
        if record is None or record.seq != copies.log_seq:
            self._read_log(model, copies)
        state = record.state if record else ModelState()
        if state.active is not None:
            self.refusals.pop((model, state.active.version), None)
        wrote = False
        for entry in list(self._registry.store.list(layout.versions(model))):
            is_version = entry.kind == "folder" and name_problem(entry.name) is None
            if not is_version or entry.name in copies.recorded or entry.name in state.retired:
                continue
            wrote |= self._consider(model, entry.name, copies, state)
        return wrote | self._take_over(model, copies, state)

    def _read_log(self, model: ModelName, copies: ModelCopies) -> None:
        """Take note of the versions that records newer than those read before speak of."""
        ledger = self._registry.workspace.model_ledger(model)
        head = ledger.head()
        if head is None or head.seq == copies.log_seq:
            return
        now_s = self._clock()
        for one in ledger.records(newest=head.seq):
            if one.seq <= copies.log_seq:
                break
            evidence = one.record.evidence
            if one.record.op == "rollout" and evidence.version:
                copies.tried.add(evidence.version)
            if one.record.op in ("publish", "adopt") and evidence.version and evidence.manifest:
                copies.recorded.setdefault(evidence.version, (one.seq, one.record.op, evidence.manifest, now_s))
        copies.log_seq = head.seq

    def _consider(self, model: ModelName, version: str, copies: ModelCopies, state: ModelState) -> bool:
        try:
            there = look_at(self._registry.workspace, model, version_name(version))
        except NotFound:  # an empty folder: nothing has arrived yet
            copies.seen.pop(version, None)
            return False
        now_s = self._clock()
        seen = copies.seen.get(version)
        verdict = judge_copy(there, seen, state.policy, now_s, self._settle_s)
        if seen is None or seen.listing != there.listing:
            copies.seen[version] = Seen(there.listing, now_s)
        if verdict != "adopt" or self._is_refused(model, version, copies, state, there.listing):
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
        is_due = op == "adopt" and version not in copies.tried
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
