"""Move the active pointer: materialise the candidate, run the hooks, append the record with the evidence.

Source: ``registry_layout.md`` §8.7, §8.8. A rollback is the same path with the cheap checks only.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clipperfs import layout
from clipperfs.checking.plan import plan_hooks
from clipperfs.checking.request import CheckRequest, CheckSubject
from clipperfs.digest import Digest, digest_bytes
from clipperfs.documents import (
    CheckReport,
    Evidence,
    ModelRecord,
    ModelState,
    Pointer,
    ReportReference,
    Verdict,
    VersionSettings,
    canonical_bytes,
    utc_now,
)
from clipperfs.documents.author import effective_settings, inheritance
from clipperfs.errors import ActivationRefused, ClipperfsError, Conflict, DamagedVersion, NotFound
from clipperfs.ledger import Draft, Head
from clipperfs.limits import LIMITS
from clipperfs.materialise import Materialised, find_manifest, materialise
from clipperfs.names import ModelName, VersionName, version_name
from clipperfs.recorded import find_recorded
from clipperfs.signing.trust import judge_publisher
from clipperfs.workspace import Workspace

MEASURE_CHARS = 200

Place = Callable[[ModelState, Pointer], ModelState]
"""From the state now, and a pointer to the version that the hooks passed, to the state that the record is to carry."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a verb did to a model: the newest record, whether it is new, and what the hooks said."""

    record: ModelRecord | None
    changed: bool
    verdicts: list[Verdict] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that is to become active, verified in the local cache, with its effective settings."""

    copy: Materialised
    settings: VersionSettings
    inherited: dict[str, Any]


def activate(
    workspace: Workspace,
    model: ModelName,
    version: VersionName,
    *,
    expect_seq: int | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Make a version active after every hook has passed it.

    Returns:
        Nothing changed when the version is active already.

    Raises:
        NotFound, IncompleteVersion, DamagedVersion: there is no such version, or not all of it.
        ActivationRefused: a hook refused it; ``fields["verdicts"]`` holds every verdict.
        Conflict: the newest record is not ``expect_seq``, the version is retired, a rollout is in effect, or another
            writer moved the pointer or changed the policy meanwhile; both records are in ``fields``.
        OutcomeUnknown, StorageError: see ``ledger.append``.
    """
    base = workspace.model_ledger(model).head()
    require_seq(base, expect_seq, model)
    state = base.record.state if base else ModelState()
    require_not_retired(state, model, version)
    if state.active is not None and state.active.version == version:
        return Outcome(base.record if base else None, changed=False)
    require_no_rollout(state, model)
    return check_and_append(
        workspace,
        model,
        version,
        base,
        digest=recorded_digest(workspace, model, version, state),
        op="activate",
        place=make_active,
        reason=reason,
        dry_run=dry_run,
        expect_seq=expect_seq,
    )


def roll_back(
    workspace: Workspace,
    model: ModelName,
    *,
    to: VersionName | None = None,
    expect_seq: int | None = None,
    reason: str | None = None,
    all_hooks: bool = False,
) -> Outcome:
    """Make the previous version (or ``to``) active again, after the cheap checks only unless ``all_hooks``.

    The emergency brake: a rollout does not stop it, and ends with the same record.

    Raises what :func:`activate` raises, and NotFound when there is nothing to roll back to.
    """
    base = workspace.model_ledger(model).head()
    require_seq(base, expect_seq, model)
    if base is None:
        raise NotFound(f"there is no model {model}", hint="'clipperfs list' shows the models", model=model)
    state = base.record.state
    target = to if to is not None else version_name(state.previous.version) if state.previous else None
    if target is None:
        raise NotFound(
            f"model {model} has no previous version to roll back to",
            hint=f"'clipperfs rollout {model} --abort' ends the rollout"
            if state.rollout_in_effect
            else f"'clipperfs history {model}' lists what was active; then 'clipperfs rollback {model} --to VERSION'",
            model=model,
        )
    if state.active is not None and state.active.version == target:
        return _end_rollout(workspace, model, target, expect_seq=expect_seq, reason=reason)
    require_not_retired(state, model, target)
    return check_and_append(
        workspace,
        model,
        target,
        base,
        digest=recorded_digest(workspace, model, target, state),
        op="rollback",
        place=make_active,
        reason=reason,
        emergency=not all_hooks,
        expect_seq=expect_seq,
    )


def _end_rollout(
    workspace: Workspace, model: ModelName, active: VersionName, *, expect_seq: int | None, reason: str | None
) -> Outcome:
    """Go back to the version that is active: nothing moves, but a rollout ends."""

    def decide(head: Head[ModelRecord] | None) -> Draft | None:
        require_seq(head, expect_seq, model)
        now = head.record.state if head else ModelState()
        if now.active is None or now.active.version != active:
            raise Conflict(
                f"another writer moved the active pointer of model {model} meanwhile",
                hint=f"look at 'clipperfs history {model}', then decide again",
                found=_plain(head),
            )
        if now.rollout is None:
            return None
        evidence = Evidence(version=active, manifest=now.active.manifest)
        return Draft("rollback", now.model_copy(update={"rollout": None}), reason, evidence)

    head, changed = workspace.model_ledger(model).append(decide, actor=workspace.actor)
    return Outcome(head.record if head else None, changed=changed)


def make_active(state: ModelState, pointer: Pointer) -> ModelState:
    """Return the state in which a version has become active: the one that was becomes previous, a rollout ends."""
    return state.model_copy(update={"active": pointer, "previous": state.active, "rollout": None})


def run_hooks_on(workspace: Workspace, model: ModelName, version: VersionName) -> list[Verdict]:
    """Run every hook that an activation would run, keep the report, and move nothing."""
    base = workspace.model_ledger(model).head()
    state = base.record.state if base else ModelState()
    candidate = prepare(workspace, model, version, state, recorded_digest(workspace, model, version, state))
    with candidate.copy.lease:
        return _check(workspace, model, version, base, candidate, emergency=False)[0]


def prepare(
    workspace: Workspace, model: ModelName, version: VersionName, state: ModelState, digest: Digest | None
) -> Candidate:
    """Bring a candidate into the local cache and work out its effective settings.

    Raises:
        DamagedVersion: neither it nor the active version names a wrapper.
        NotFound, IncompleteVersion, StorageError: see ``materialise``.
    """
    copy = materialise(workspace, model, version, digest=digest)
    try:
        inherited = inheritance(copy.manifest.settings, active_settings(workspace, model, state))
        settings = effective_settings(copy.manifest.settings, inherited)
        if settings.wrapper is None:
            raise DamagedVersion(
                f"version {version} of model {model} names no wrapper, and no active version has one to inherit",
                hint="publish it with --wrapper KIND, or with a model.yaml that says 'wrapper: KIND'",
            )
        return Candidate(copy, settings, inherited)
    except BaseException:
        copy.lease.release()
        raise


def active_settings(workspace: Workspace, model: ModelName, state: ModelState) -> VersionSettings | None:
    """Return the effective settings of the active version; ``None`` without one. Raises what ``materialise`` raises."""
    if state.active is None:
        return None
    return pointer_settings(workspace, model, state.active)


def pointer_settings(workspace: Workspace, model: ModelName, pointer: Pointer) -> VersionSettings:
    """Return the effective settings of the version that a pointer names."""
    digest = Digest(pointer.manifest)
    manifest = find_manifest(workspace, model, version_name(pointer.version), digest)
    return effective_settings(manifest.settings, pointer.inherited)


def known_digest(state: ModelState, version: str) -> Digest | None:
    """Return the manifest digest that the newest record binds a version to, if it names that version."""
    candidate = state.rollout.candidate if state.rollout else None
    pointers = [state.active, state.previous, candidate, *state.aliases.values(), *state.pins]
    return next((Digest(pointer.manifest) for pointer in pointers if pointer and pointer.version == version), None)


def recorded_digest(workspace: Workspace, model: ModelName, version: VersionName, state: ModelState) -> Digest | None:
    """Return the manifest digest that the log binds a version to: no other content may ever go by its name.

    Looks at the newest record first, then at what the log says of it; ``None`` when the version was never recorded.
    """
    digest = known_digest(state, version)
    if digest is None and (record := find_recorded(workspace, model, version)) is not None:
        digest = Digest(record.record.evidence.manifest) if record.record.evidence.manifest else None
    return digest


def check_and_append(
    workspace: Workspace,
    model: ModelName,
    version: VersionName,
    base: Head[ModelRecord] | None,
    *,
    digest: Digest | None,
    op: str,
    place: Place,
    reason: str | None,
    emergency: bool = False,
    dry_run: bool = False,
    expect_seq: int | None,
) -> Outcome:
    """Run the hooks on a version and append a record that points to it, with their verdicts as the evidence.

    Args:
        base: the newest record, on whose state the caller has decided.
        digest: the manifest digest that the log binds the version to, if any.
        op: what the record says was done.
        place: where in the state the pointer goes.
        emergency: run the cheap hooks only, whatever happens to a rollout meanwhile.
        dry_run: append nothing.

    Raises what :func:`activate` raises.
    """
    state = base.record.state if base else ModelState()
    candidate = prepare(workspace, model, version, state, digest)
    with candidate.copy.lease:
        verdicts, reference = _check(workspace, model, version, base, candidate, emergency=emergency)
    refusals = [verdict for verdict in verdicts if verdict.is_refusal]
    if refusals:
        raise ActivationRefused(
            f"version {version} of model {model} was refused by {', '.join(verdict.hook for verdict in refusals)}: "
            f"{refusals[0].reason}",
            hint=refusals[0].next_step or "mend it and publish it under a new version name",
            model=model,
            version=version,
            verdicts=[verdict.model_dump(mode="json") for verdict in verdicts],
        )
    if dry_run:
        return Outcome(base.record if base else None, changed=False, verdicts=verdicts)
    evidence = Evidence(
        version=version,
        manifest=candidate.copy.manifest_digest,
        verdicts=[_in_short(verdict) for verdict in verdicts],
        report=reference,
    )

    def decide(head: Head[ModelRecord] | None) -> Draft | None:
        require_seq(head, expect_seq, model)  # again: a record may have come while the hooks ran
        now = head.record.state if head else ModelState()
        is_other_rollout = op != "rollback" and _candidate(now) != _candidate(state)
        if now.active != state.active or now.policy != state.policy or is_other_rollout:
            raise Conflict(
                f"another writer changed model {model} while version {version} was being checked: "
                f"record {head.seq if head else 0} is '{head.record.op if head else '-'}' "
                f"by {head.record.actor if head else '-'}",
                hint=f"look at 'clipperfs history {model}', then run the command again if it is still what you want",
                mine={
                    "op": op,
                    "version": version,
                    "base_seq": base.seq if base else 0,
                    "actor": workspace.actor,
                    "reason": reason,
                },
                expected=_plain(base),
                found=_plain(head),
            )
        require_not_retired(now, model, version)
        pointer = Pointer(
            version=version,
            manifest=candidate.copy.manifest_digest,
            seq=head.seq + 1 if head else 1,
            inherited=candidate.inherited,
        )
        return Draft(op, place(now, pointer), reason, evidence)

    committed, _ = workspace.model_ledger(model).append(decide, actor=workspace.actor)
    assert committed is not None
    return Outcome(committed.record, changed=True, verdicts=verdicts)


def _check(
    workspace: Workspace,
    model: ModelName,
    version: VersionName,
    base: Head[ModelRecord] | None,
    candidate: Candidate,
    *,
    emergency: bool,
) -> tuple[list[Verdict], ReportReference]:
    # It starts processes: only who activates pays for the import.
    from clipperfs.checking.runner import damaged_subjects, run_hooks

    state = base.record.state if base else ModelState()
    digest = candidate.copy.manifest_digest
    publisher = judge_publisher(workspace, model, version, digest, state.policy)
    if publisher is not None and publisher.is_refusal:  # no code of a version is run that nobody vouches for
        return [publisher], _keep_report(workspace, model, version, base, digest, [publisher])
    with contextlib.ExitStack() as held:
        active = None if emergency else _active_subject(workspace, model, state, held)
        request = CheckRequest(
            model=model,
            candidate=CheckSubject(
                version=version,
                manifest_digest=candidate.copy.manifest_digest,
                manifest=candidate.copy.manifest,
                settings=candidate.settings,
                path=candidate.copy.path,
            ),
            active=active,
            hooks=plan_hooks(state.policy, candidate.settings, emergency=emergency),
            allow_code=state.policy.allow_code,
            load_timeout_s=state.policy.load_timeout_s,
            predict_timeout_s=state.policy.predict_timeout_s,
            registry_url=workspace.store.url,
        )
        verdicts = run_hooks(request)
        verdicts = [publisher, *verdicts] if publisher is not None else verdicts
        for subject in damaged_subjects(request, verdicts):  # so that whoever needs it next fetches it anew
            workspace.cache.discard(Digest(subject.manifest_digest), subject.manifest)
    return verdicts, _keep_report(workspace, model, version, base, digest, verdicts)


def _active_subject(
    workspace: Workspace, model: ModelName, state: ModelState, held: contextlib.ExitStack
) -> CheckSubject | None:
    """Return the active version for hooks that compare; without its files it counts as absent, and they say so."""
    if state.active is None:
        return None
    try:
        copy = materialise(workspace, model, version_name(state.active.version), digest=Digest(state.active.manifest))
    except ClipperfsError as error:
        workspace.reporter.note(f"the active version cannot be compared with: {error.message}")
        return None
    held.enter_context(copy.lease)
    return CheckSubject(
        version=state.active.version,
        manifest_digest=copy.manifest_digest,
        manifest=copy.manifest,
        settings=effective_settings(copy.manifest.settings, state.active.inherited),
        path=copy.path,
    )


def _keep_report(
    workspace: Workspace,
    model: ModelName,
    version: VersionName,
    base: Head[ModelRecord] | None,
    digest: Digest,
    verdicts: list[Verdict],
) -> ReportReference:
    active = base.record.state.active if base else None
    report = CheckReport(
        model=model,
        version=version,
        manifest=digest,
        active=active.version if active else None,
        base_seq=base.seq if base else 0,
        time=utc_now(),
        actor=workspace.actor,
        accepted=not any(verdict.is_refusal for verdict in verdicts),
        verdicts=verdicts,
    )
    data = canonical_bytes(report)
    key = layout.report(model, digest, int(time.time() * 1000), secrets.token_hex(8))
    workspace.store.create(key, data)
    return ReportReference(key=key, sha256=digest_bytes(data))


def _in_short(verdict: Verdict) -> Verdict:
    """Return what a record keeps of a verdict; the report keeps all of it."""
    measures = {name: value for name, value in verdict.measures.items() if len(repr(value)) <= MEASURE_CHARS}
    return verdict.model_copy(update={"measures": measures, "reason": verdict.reason[: LIMITS.reason_chars]})


def _candidate(state: ModelState) -> Pointer | None:
    rollout = state.rollout_in_effect
    return rollout.candidate if rollout else None


def require_seq(base: Head[ModelRecord] | None, expected: int | None, model: ModelName) -> None:
    """Raise Conflict unless the newest record is the one that the caller expects, if it expects one."""
    found = base.seq if base else 0
    if expected is not None and found != expected:
        raise Conflict(
            f"the newest record of model {model} is {found}, not {expected}",
            hint=f"look at 'clipperfs history {model}', then decide again",
            expected_seq=expected,
            found=_plain(base),
        )


def require_no_rollout(state: ModelState, model: ModelName) -> None:
    """Raise Conflict while a version is on trial: what it was compared with must not change under it."""
    if (rollout := state.rollout_in_effect) is not None:
        candidate = rollout.candidate.version
        raise Conflict(
            f"version {candidate} of model {model} is in a {rollout.kind} rollout at {rollout.percent:g} %",
            hint=f"first 'clipperfs rollout {model} --promote' or 'clipperfs rollout {model} --abort'",
            rollout=rollout.model_dump(mode="json"),
        )


def require_not_retired(state: ModelState, model: ModelName, version: VersionName) -> None:
    """Raise Conflict when a version is on its way out."""
    if version in state.retired:
        stage = state.retired[version].stage
        undo = {"retired": f"retire {model} {version} --undo", "deleted": f"delete {model} {version} --restore"}
        raise Conflict(
            f"version {version} of model {model} is {stage}",
            hint=f"'clipperfs {undo[stage]}' brings it back" if stage in undo else "publish it under another name",
        )


def _plain(head: Head[ModelRecord] | None) -> dict[str, Any] | None:
    return None if head is None else head.record.model_dump(mode="json", by_alias=True)
