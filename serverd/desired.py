"""From the newest record of every ledger to the complete desired state of one daemon. Pure.

The desired state is always complete, never a delta: what is not in it is not wanted. A snapshot of the records it was
made from lets a daemon start again while the registry is away.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from pydantic import Field, ValidationError

from clipperfs.documents import AppRecord, Document, ModelRecord, Pointer, Policy, Rollout, RolloutLimits
from clipperfs.documents.base import parse_json, validation_summary
from clipperfs.errors import InvalidDocument

ACTIVE = ""
"""The name under which the active pointer stands beside the aliases."""

SETTINGS_CHARS = 16

SNAPSHOT_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class WantedVersion:
    """One version that must be loaded, and how."""

    version: str
    manifest: str
    inherited: Mapping[str, Any]
    """Settings that the version leaves out (``registry_layout.md`` §7.3)."""
    replicas: int
    fuse: str
    """Changes when a load that has failed gets another chance: the pointer's record, ``allow_code``, whom to trust, a
    reload."""

    load: str = field(init=False)
    """Tells one load from another: the same text means the same bytes and settings."""
    settings: str = field(init=False)
    """Tells one set of inherited settings from another; empty where nothing is inherited."""

    def __post_init__(self) -> None:
        inherited = json.dumps(self.inherited, sort_keys=True, default=str)
        object.__setattr__(self, "load", f"{self.version}@{self.manifest}#{inherited}")
        settings = sha256(inherited.encode()).hexdigest()[:SETTINGS_CHARS] if self.inherited else ""
        object.__setattr__(self, "settings", settings)


@dataclass(frozen=True, slots=True)
class WantedRollout:
    """A candidate that must be loaded beside the active version, and which queries it gets."""

    kind: str
    load: str
    version: str
    manifest: str
    seq: int
    """Number of the record that made it the candidate: the same for as long as the trial is one."""
    percent: float
    salt: str
    limits: RolloutLimits


@dataclass(frozen=True, slots=True)
class WantedModel:
    """Everything that one model's newest record asks of a daemon."""

    name: str
    seq: int
    policy: Policy
    loads: Mapping[str, WantedVersion]
    """What must be loaded, by :attr:`WantedVersion.load`."""
    names: Mapping[str, str]
    """Which load answers under ``ACTIVE`` and under each alias."""
    fallback: WantedVersion | None
    """The previous version: it answers when the active one cannot be loaded and nothing else of the model is."""
    rollout: WantedRollout | None = None

    @property
    def is_off(self) -> bool:
        """Say whether the policy keeps the model off."""
        return self.policy.replicas == 0


@dataclass(frozen=True, slots=True)
class WantedApp:
    """One application as queries see it."""

    name: str
    seq: int
    input_type: str
    slo_us: int
    default_output: str
    model: str | None
    max_concurrent: int | None = None
    max_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Desired:
    """The complete desired state."""

    models: Mapping[str, WantedModel] = field(default_factory=dict)
    apps: Mapping[str, WantedApp] = field(default_factory=dict)


def desired_state(
    models: Iterable[ModelRecord],
    apps: Iterable[AppRecord],
    *,
    tries: Mapping[str, int] | None = None,
    brakes: Mapping[str, int] | None = None,
) -> Desired:
    """Return what the newest records ask for.

    Args:
        models: the newest record of each followed model.
        apps: the newest record of each application.
        tries: how often a person has asked for another try, by model; part of each fuse.
        brakes: the ``candidate.seq`` of a rollout that this daemon has stopped, by model.
    """
    tries, brakes = tries or {}, brakes or {}
    return Desired(
        models={
            record.model: wanted_model(record, tries.get(record.model, 0), brakes.get(record.model))
            for record in models
        },
        apps={record.app: _wanted_app(record) for record in apps if not record.state.deleted},
    )


def wanted_model(record: ModelRecord, tries: int = 0, braked: int | None = None) -> WantedModel:
    """Return what one model's newest record asks for.

    The active version and a canary's candidate get the policy's replicas, any other one. A rollout whose candidate's
    pointer was set by record ``braked`` counts for nothing.
    """
    state = record.state
    rollout: WantedRollout | None = None
    loads: dict[str, WantedVersion] = {}
    names: dict[str, str] = {}

    def want(pointer: Pointer, replicas: int) -> str:
        wanted = _wanted_version(pointer, replicas, state.policy, tries)
        before = loads.get(wanted.load)
        if before is not None:
            wanted = WantedVersion(
                wanted.version,
                wanted.manifest,
                wanted.inherited,
                max(wanted.replicas, before.replicas),
                f"{before.fuse}+{wanted.fuse}",
            )
        loads[wanted.load] = wanted
        return wanted.load

    fallback = None
    if state.policy.replicas > 0:
        if state.active is not None:
            names[ACTIVE] = want(state.active, state.policy.replicas)
        for alias, pointer in sorted(state.aliases.items()):
            names[alias] = want(pointer, 1)
        for pointer in state.pins:
            want(pointer, 1)
        if (trial := state.rollout_in_effect) is not None and trial.candidate.seq != braked:
            load = want(trial.candidate, state.policy.replicas if trial.kind == "canary" else 1)
            rollout = _wanted_rollout(trial, load)
        if state.previous is not None:
            fallback = _wanted_version(state.previous, state.policy.replicas, state.policy, tries)
    if fallback is not None and fallback.load == names.get(ACTIVE):
        fallback = None
    return WantedModel(record.model, record.seq, state.policy, loads, names, fallback, rollout)


def _wanted_rollout(rollout: Rollout, load: str) -> WantedRollout:
    candidate = rollout.candidate
    return WantedRollout(
        kind=rollout.kind,
        load=load,
        version=candidate.version,
        manifest=candidate.manifest,
        seq=candidate.seq,
        percent=rollout.percent,
        salt=rollout.salt,
        limits=rollout.limits,
    )


def _wanted_version(pointer: Pointer, replicas: int, policy: Policy, tries: int) -> WantedVersion:
    trust = f"{policy.require_signature}:{sorted(policy.publishers.items())}"
    fuse = f"{pointer.seq}:{policy.allow_code}:{policy.load_timeout_s}:{trust}:{tries}"
    return WantedVersion(pointer.version, pointer.manifest, pointer.inherited, replicas, fuse)


def _wanted_app(record: AppRecord) -> WantedApp:
    state = record.state
    model = state.links[0].model if state.links else None
    return WantedApp(
        record.app,
        record.seq,
        state.input_type,
        state.slo_us,
        state.default_output,
        model,
        state.max_concurrent,
        state.max_rate,
    )


class Snapshot(Document):
    """``desired.json``: the records that the last complete desired state was made from."""

    format: str = "clipperfs.desired.v1"
    registry_id: str
    models: list[ModelRecord] = Field(default=[])
    apps: list[AppRecord] = Field(default=[])


def parse_snapshot(data: bytes) -> Snapshot:
    """Parse ``desired.json``. Raises InvalidDocument."""
    tree = parse_json(data, limit_bytes=SNAPSHOT_BYTES)
    try:
        return Snapshot.model_validate(tree)
    except ValidationError as error:
        raise InvalidDocument(f"desired.json is not a snapshot of this release: {validation_summary(error)}") from error
