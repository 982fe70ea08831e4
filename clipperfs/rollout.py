"""Put a version on trial beside the active one, then promote or abort it.

Source: ``registry_layout.md`` §8.17. Everything is a record; nothing is decided anywhere else.
"""

from __future__ import annotations

import secrets
from typing import Any, Literal

from pydantic import ValidationError

from clipperfs.activate import (
    Outcome,
    check_and_append,
    make_active,
    recorded_digest,
    require_no_rollout,
    require_not_retired,
    require_seq,
)
from clipperfs.digest import Digest
from clipperfs.documents import Evidence, ModelRecord, ModelState, Pointer, Rollout, RolloutLimits
from clipperfs.documents.base import validation_summary
from clipperfs.errors import Conflict, InvalidSetting, NotFound
from clipperfs.ledger import Draft, Head
from clipperfs.names import ModelName, VersionName, version_name
from clipperfs.workspace import Workspace

Kind = Literal["canary", "shadow"]


def roll_out(
    workspace: Workspace,
    model: ModelName,
    version: VersionName,
    *,
    kind: Kind | None,
    percent: float | None,
    limits: dict[str, Any] | None,
    expect_seq: int | None,
    reason: str | None,
) -> Outcome:
    """Start a rollout after every hook has passed the version, or change the one that goes on with it.

    Args:
        kind: ``canary``: it answers its share of the queries; ``shadow``: it gets copies of them and answers nobody;
            ``None``: as it is.
        percent: the share. ``None``: as it is; for a new shadow all, for a new canary an error.
        limits: those to change, by name (``documents.RolloutLimits``); ``None`` as a value brings the default back.

    Returns:
        Nothing changed when it goes on like that already.

    Raises:
        InvalidSetting: a share or a limit cannot be used.
        Conflict: nothing is active, the version is active, another one is on trial, or another writer was first.
        NotFound, IncompleteVersion, DamagedVersion, ActivationRefused, OutcomeUnknown, StorageError: see ``activate``.
    """
    base = workspace.model_ledger(model).head()
    require_seq(base, expect_seq, model)
    state = base.record.state if base else ModelState()
    require_not_retired(state, model, version)
    if state.active is None:
        raise Conflict(
            f"no version of model {model} is active, so there is nothing to try version {version} beside",
            hint=f"'clipperfs activate {model} {version}' makes it active",
        )
    if state.active.version == version:
        raise Conflict(
            f"version {version} of model {model} is active already: it answers every query",
            hint=f"roll out another version; 'clipperfs show {model}' lists them",
        )
    running = state.rollout_in_effect
    if running is not None and running.candidate.version != version:
        require_no_rollout(state, model)
    if running is not None:
        return _change(workspace, model, running.candidate, kind or running.kind, percent, limits, expect_seq, reason)
    if percent is None and kind != "shadow":
        raise InvalidSetting("which share of the queries is to meet the canary?", hint="say --percent 5")
    terms = {
        "kind": kind or "canary",
        "percent": 100.0 if percent is None else percent,
        "limits": _merged(state.policy.rollout_limits or RolloutLimits(), limits),
    }
    salt = secrets.token_hex(16)

    def place(now: ModelState, pointer: Pointer) -> ModelState:
        rollout = _checked({**terms, "candidate": pointer, "salt": salt, "started_seq": pointer.seq})
        return now.model_copy(update={"rollout": rollout})

    place(state, state.active)  # a share or a limit that cannot be used is refused before any hook runs
    return check_and_append(
        workspace,
        model,
        version,
        base,
        digest=recorded_digest(workspace, model, version, state),
        op="rollout",
        place=place,
        reason=reason,
        expect_seq=expect_seq,
    )


def promote(
    workspace: Workspace,
    model: ModelName,
    *,
    version: VersionName | None = None,
    expect_seq: int | None,
    reason: str | None,
) -> Outcome:
    """Make the candidate of the rollout the active version, after every hook has passed it again.

    Args:
        version: the candidate that the caller expects, if any.

    Raises:
        NotFound: no rollout is in effect.
        Conflict: it is another candidate's, or another writer was first.
        Everything that ``activate`` raises.
    """
    base = workspace.model_ledger(model).head()
    require_seq(base, expect_seq, model)
    state = base.record.state if base else ModelState()
    rollout = state.rollout_in_effect
    if rollout is None:
        raise NotFound(
            f"model {model} has no rollout to promote",
            hint=f"'clipperfs rollout {model} VERSION --percent 5' starts one",
            model=model,
        )
    _require_candidate(rollout, model, version)
    return check_and_append(
        workspace,
        model,
        version_name(rollout.candidate.version),
        base,
        digest=Digest(rollout.candidate.manifest),
        op="promote",
        place=make_active,
        reason=reason,
        expect_seq=expect_seq,
    )


def abort(
    workspace: Workspace,
    model: ModelName,
    *,
    version: VersionName | None = None,
    candidate_seq: int | None = None,
    expect_seq: int | None,
    reason: str | None,
) -> Outcome:
    """End the rollout: the active version answers everything again.

    Args:
        version: the candidate that the caller expects, if any.
        candidate_seq: end it only if its candidate's pointer was set by this record: the one that was judged.

    Returns:
        Nothing changed when there is none (any more).

    Raises Conflict, OutcomeUnknown, StorageError.
    """

    def decide(head: Head[ModelRecord] | None) -> Draft | None:
        require_seq(head, expect_seq, model)
        rollout = head.record.state.rollout if head else None
        if head is None or rollout is None or candidate_seq not in (None, rollout.candidate.seq):
            return None
        _require_candidate(rollout, model, version)
        evidence = Evidence(version=rollout.candidate.version, manifest=rollout.candidate.manifest)
        return Draft("abort", head.record.state.model_copy(update={"rollout": None}), reason, evidence)

    head, changed = workspace.model_ledger(model).append(decide, actor=workspace.actor)
    return Outcome(head.record if head else None, changed=changed)


def _change(
    workspace: Workspace,
    model: ModelName,
    candidate: Pointer,
    kind: Kind,
    percent: float | None,
    limits: dict[str, Any] | None,
    expect_seq: int | None,
    reason: str | None,
) -> Outcome:
    """Change how the candidate is tried. No hook runs: the record that made it the candidate holds the verdicts."""

    def decide(head: Head[ModelRecord] | None) -> Draft | None:
        require_seq(head, expect_seq, model)
        state = head.record.state if head else ModelState()
        now = state.rollout_in_effect
        if now is None or now.candidate != candidate:
            raise Conflict(
                f"the rollout of version {candidate.version} of model {model} has ended meanwhile",
                hint=f"look at 'clipperfs history {model}', then decide again",
            )
        share = now.percent if percent is None else percent
        terms = {"kind": kind, "percent": share, "limits": _merged(now.limits, limits)}
        after = _checked({**now.model_dump(), **terms})
        evidence = Evidence(version=candidate.version, manifest=candidate.manifest)
        return None if after == now else Draft("rollout", state.model_copy(update={"rollout": after}), reason, evidence)

    head, changed = workspace.model_ledger(model).append(decide, actor=workspace.actor)
    return Outcome(head.record if head else None, changed=changed)


def _merged(limits: RolloutLimits, changes: dict[str, Any] | None) -> dict[str, Any]:
    tree = limits.model_dump()
    for name, value in (changes or {}).items():
        if name not in RolloutLimits.model_fields:
            raise InvalidSetting(
                f"a rollout has no limit {name!a}", hint=f"known: {', '.join(RolloutLimits.model_fields)}", setting=name
            )
        tree[name] = RolloutLimits.model_fields[name].default if value is None else value
    return tree


def _checked(tree: dict[str, Any]) -> Rollout:
    try:
        return Rollout.model_validate(tree)
    except ValidationError as error:
        raise InvalidSetting(f"this rollout cannot be: {validation_summary(error)}") from error


def _require_candidate(rollout: Rollout, model: ModelName, version: VersionName | None) -> None:
    if version is not None and rollout.candidate.version != version:
        raise Conflict(
            f"the rollout of model {model} is that of version {rollout.candidate.version}, not of {version}",
            hint=f"'clipperfs rollout {model}' shows it",
        )
