"""The other changes of a model's state: aliases, pins, policy, retiring, deleting and bringing back."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from clipperfs.activate import Outcome, prepare, recorded_digest
from clipperfs.adopt import look_at
from clipperfs.digest import Digest
from clipperfs.documents import Evidence, ModelRecord, ModelState, Pointer, Policy, Retirement, RolloutLimits, utc_now
from clipperfs.documents.base import validation_summary
from clipperfs.errors import Conflict, InvalidSetting, NotFound
from clipperfs.ledger import Draft, Head
from clipperfs.names import AliasName, ModelName, VersionName
from clipperfs.plugins import plugin_names
from clipperfs.signing.trust import note_unsigned, require_publisher
from clipperfs.workspace import Workspace

Change = Callable[[ModelState, int], ModelState]
"""From the state now, and the number of the record to come, to the state that the record is to carry."""


def set_alias(
    workspace: Workspace,
    model: ModelName,
    alias: AliasName,
    version: VersionName | None,
    *,
    expect_seq: int | None,
    reason: str | None,
) -> Outcome:
    """Let an alias name a version, or remove it (``version=None``). Raises NotFound, IncompleteVersion, Conflict."""
    make = _pointer_maker(workspace, model, version) if version is not None else None

    def change(state: ModelState, seq: int) -> ModelState:
        aliases = dict(state.aliases)
        if make is None:
            if alias not in aliases:
                raise NotFound(f"model {model} has no alias {alias}", hint=f"'clipperfs show {model}' lists them")
            del aliases[alias]
        else:
            pointer = make(state, seq)
            if alias in aliases and aliases[alias].manifest == pointer.manifest:
                return state
            aliases[alias] = pointer
        return state.model_copy(update={"aliases": aliases})

    evidence = Evidence.model_validate({"version": version, "alias": alias})
    return _commit(workspace, model, "alias", change, expect_seq, reason, evidence)


def set_pin(
    workspace: Workspace, model: ModelName, version: VersionName, *, remove: bool, reason: str | None
) -> Outcome:
    """Keep a version loaded beside the active one, or stop doing so. Raises NotFound, IncompleteVersion, Conflict."""
    make = None if remove else _pointer_maker(workspace, model, version)

    def change(state: ModelState, seq: int) -> ModelState:
        others = [pin for pin in state.pins if pin.version != version]
        if make is None:
            return state.model_copy(update={"pins": others}) if len(others) < len(state.pins) else state
        pin = make(state, seq)
        if any(old.manifest == pin.manifest and old.version == version for old in state.pins):
            return state
        return state.model_copy(update={"pins": [*others, pin]})

    evidence = Evidence.model_validate({"version": version, "remove": remove})
    return _commit(workspace, model, "pin", change, None, reason, evidence)


def set_policy(
    workspace: Workspace,
    model: ModelName,
    changes: dict[str, Any] | None,
    *,
    expect_seq: int | None,
    reason: str | None,
) -> Outcome:
    """Change parts of a model's policy; ``None`` goes back to the default. Raises InvalidSetting, Conflict."""
    if not changes:
        head = workspace.model_ledger(model).head()
        return Outcome(head.record if head else None, changed=False)
    for name in changes:
        if name not in Policy.model_fields:
            near = difflib.get_close_matches(name, Policy.model_fields, n=1)
            known = f"did you mean {near[0]}?" if near else f"known: {', '.join(Policy.model_fields)}"
            raise InvalidSetting(f"a policy has no {name!a}", hint=known, setting=name)
    _require_known_limits(changes.get("rollout_limits"))

    def change(state: ModelState, seq: int) -> ModelState:
        tree = state.policy.model_dump()
        for name, value in changes.items():
            if value is None:
                tree.pop(name, None)
            else:
                tree[name] = value
        try:
            policy = Policy.model_validate(tree)
        except ValidationError as error:
            raise InvalidSetting(f"policy of model {model}: {validation_summary(error)}") from error
        for hook in policy.hooks if "hooks" in changes else []:
            if hook.name not in plugin_names("clipperfs.hooks"):  # it may be installed where activations happen
                workspace.reporter.note(f"no hook called {hook.name} is installed here")
        return state.model_copy(update={"policy": policy})

    evidence = Evidence.model_validate({"changes": changes})
    outcome = _commit(workspace, model, "policy", change, expect_seq, reason, evidence)
    if outcome.record is not None and not {"require_signature", "publishers"}.isdisjoint(changes):
        note_unsigned(workspace, model, outcome.record.state)
    return outcome


def _require_known_limits(limits: Any) -> None:
    """Refuse a limit that no daemon would look at. (Records keep unknown ones: a newer release may have set them.)"""
    for name in limits if isinstance(limits, dict) else ():
        if name not in RolloutLimits.model_fields:
            near = difflib.get_close_matches(str(name), RolloutLimits.model_fields, n=1)
            known = f"did you mean {near[0]}?" if near else f"known: {', '.join(RolloutLimits.model_fields)}"
            raise InvalidSetting(f"a rollout has no limit {name!a}", hint=known, setting="rollout_limits")


def set_publisher(
    workspace: Workspace, model: ModelName, publisher: str, key: str | None, *, reason: str | None
) -> Outcome:
    """Let a publisher's signatures count for a model, or no longer (``key=None``). Raises InvalidSetting, NotFound.

    A publisher that is there gets another key only after the old one was taken away.
    """

    def change(state: ModelState, seq: int) -> ModelState:
        publishers = dict(state.policy.publishers)
        there = publishers.get(publisher)
        if key is None:
            if there is None:
                raise NotFound(
                    f"model {model} trusts no publisher {publisher}", hint=f"'clipperfs policy {model}' lists them"
                )
            del publishers[publisher]
        elif there not in (None, key):
            raise Conflict(
                f"model {model} trusts publisher {publisher} with another key",
                hint=f"'clipperfs key untrust {model} {publisher}' first, or take another name",
                found=there,
            )
        else:
            publishers[publisher] = key
        try:
            policy = Policy.model_validate({**state.policy.model_dump(), "publishers": publishers})
        except ValidationError as error:
            raise InvalidSetting(f"policy of model {model}: {validation_summary(error)}") from error
        return state.model_copy(update={"policy": policy})

    evidence = Evidence.model_validate({"changes": {"publishers": {publisher: key}}})
    outcome = _commit(workspace, model, "policy", change, None, reason, evidence)
    if key is None and outcome.record is not None:
        note_unsigned(workspace, model, outcome.record.state)
    return outcome


def retire(workspace: Workspace, model: ModelName, version: VersionName, *, undo: bool, reason: str | None) -> Outcome:
    """Keep a version from being activated (or let it again). Raises NotFound, Conflict when it is in use."""
    look_at(workspace, model, version)

    def change(state: ModelState, seq: int) -> ModelState:
        there = state.retired.get(version)
        if undo:
            if there is not None and there.stage != "retired":
                raise Conflict(
                    f"version {version} of model {model} is deleted",
                    hint=f"'clipperfs delete {model} {version} --restore' brings it back",
                )
            return _without(state, version)
        if there is not None:
            return state
        _require_unused(state, model, version)
        return _with(state, version, Retirement(stage="retired", seq=seq, time=utc_now()))

    op = "restore" if undo else "retire"
    return _commit(workspace, model, op, change, None, reason, Evidence(version=version))


def delete(
    workspace: Workspace, model: ModelName, version: VersionName, *, restore: bool, reason: str | None
) -> Outcome:
    """Mark a version for deletion; ``collect`` removes its payload after the grace. ``restore`` takes the mark away.

    Raises NotFound, or Conflict when the version is in use or its payload is gone already.
    """
    is_purged = look_at(workspace, model, version).state == "purged"
    if is_purged and restore:
        raise Conflict(
            f"the payload of version {version} of model {model} has been deleted",
            hint="publish the same files under a new version name",
        )

    def change(state: ModelState, seq: int) -> ModelState:
        mark = state.retired.get(version)
        if restore and mark is not None and mark.stage == "purging":
            raise Conflict(f"the payload of version {version} of model {model} is being deleted")
        if restore:
            return _without(state, version)
        if is_purged or (mark is not None and mark.stage != "retired"):
            return state
        _require_unused(state, model, version)
        return _with(state, version, Retirement(stage="deleted", seq=seq, time=utc_now()))

    op = "restore" if restore else "delete"
    return _commit(workspace, model, op, change, None, reason, Evidence(version=version))


def begin_purge(workspace: Workspace, model: ModelName, version: VersionName, mark: Retirement) -> Outcome:
    """Record that a deleted version's payload is about to go: from here on nobody can restore it.

    Raises Conflict when it was restored since ``mark`` was read.
    """

    def change(state: ModelState, seq: int) -> ModelState:
        if state.retired.get(version) != mark:
            raise Conflict(f"version {version} of model {model} was restored meanwhile")
        _require_unused(state, model, version)
        return _with(state, version, Retirement(stage="purging", seq=seq, time=utc_now()))

    return _commit(workspace, model, "purge", change, None, None, Evidence(version=version))


def end_purge(workspace: Workspace, model: ModelName, version: VersionName) -> Outcome:
    """Record that a purged version's payload is gone."""
    evidence = Evidence(version=version)
    return _commit(workspace, model, "purged", lambda state, seq: _without(state, version), None, None, evidence)


def _commit(
    workspace: Workspace,
    model: ModelName,
    op: str,
    change: Change,
    expect_seq: int | None,
    reason: str | None,
    evidence: Evidence,
) -> Outcome:
    def decide(head: Head[ModelRecord] | None) -> Draft | None:
        found = head.seq if head else 0
        if expect_seq is not None and found != expect_seq:
            raise Conflict(
                f"the newest record of model {model} is {found}, not {expect_seq}",
                hint=f"look at 'clipperfs history {model}', then decide again",
                expected_seq=expect_seq,
                found=head.record.model_dump(mode="json", by_alias=True) if head else None,
            )
        state = head.record.state if head else ModelState()
        after = change(state, found + 1)
        return None if after == state else Draft(op, after, reason, evidence)

    head, changed = workspace.model_ledger(model).append(decide, actor=workspace.actor)
    return Outcome(head.record if head else None, changed=changed)


def _pointer_maker(
    workspace: Workspace, model: ModelName, version: VersionName
) -> Callable[[ModelState, int], Pointer]:
    """Verify a version once, and return how to point to it from whatever state the record is appended to."""
    head = workspace.model_ledger(model).head()
    state = head.record.state if head else ModelState()
    candidate = prepare(workspace, model, version, state, recorded_digest(workspace, model, version, state))
    candidate.copy.lease.release()
    digest: Digest = candidate.copy.manifest_digest
    require_publisher(workspace, model, version, digest, state.policy)

    def make(now: ModelState, seq: int) -> Pointer:
        if version in now.retired:
            raise Conflict(f"version {version} of model {model} is {now.retired[version].stage}")
        if now.policy != state.policy:  # another writer changed whom to trust meanwhile
            require_publisher(workspace, model, version, digest, now.policy)
        return Pointer(version=version, manifest=digest, seq=seq, inherited=candidate.inherited)

    return make


def _require_unused(state: ModelState, model: ModelName, version: VersionName) -> None:
    uses = [
        *(["active"] if state.active and state.active.version == version else []),
        *(["the one to roll back to"] if state.previous and state.previous.version == version else []),
        *(
            [f"in a {state.rollout.kind} rollout"]
            if state.rollout and state.rollout.candidate.version == version
            else []
        ),
        *(f"alias {name}" for name, pointer in state.aliases.items() if pointer.version == version),
        *(["pinned"] if any(pin.version == version for pin in state.pins) else []),
    ]
    if uses:
        raise Conflict(
            f"version {version} of model {model} is in use: {', '.join(uses)}",
            hint="activate another version, remove the alias or pin, or end the rollout, first",
            uses=uses,
        )


def _with(state: ModelState, version: str, retirement: Retirement) -> ModelState:
    return state.model_copy(update={"retired": {**state.retired, version: retirement}})


def _without(state: ModelState, version: str) -> ModelState:
    return state.model_copy(update={"retired": {name: mark for name, mark in state.retired.items() if name != version}})
