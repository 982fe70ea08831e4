"""Applications: an input type, a latency objective, a default output and a link to a model, in ledgers of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from clipperfs import layout
from clipperfs.activate import pointer_settings
from clipperfs.documents import AppRecord, AppState, Evidence, Link
from clipperfs.documents.base import validation_summary
from clipperfs.errors import Conflict, InvalidSetting, NotFound
from clipperfs.ledger import Draft, Head
from clipperfs.names import AppName, ModelName, app_name, name_problem
from clipperfs.workspace import Workspace

MAX_DEFAULT_OUTPUT_BYTES = 32 * 1024

RESERVED_APPS = frozenset(["metrics", "livez", "readyz", "status", "v1", "v2", "admin"])
"""First segments of paths that the query port keeps for itself."""


@dataclass(frozen=True, slots=True)
class AppOutcome:
    """What a verb did to an application."""

    record: AppRecord
    changed: bool


def register(
    workspace: Workspace,
    name: AppName,
    *,
    input_type: str,
    default_output: str,
    slo_us: int,
    link: ModelName | None,
    max_concurrent: int | None = None,
    max_rate: float | None = None,
    reason: str | None,
) -> AppOutcome:
    """Create an application, or change its settings; its link stays unless ``link`` names another model.

    Args:
        workspace: the registry.
        name: the application.
        input_type: of what an input is made.
        default_output: the answer when there is no prediction in time.
        slo_us: the latency objective, in microseconds.
        link: the model that answers.
        max_concurrent: queries that each daemon takes in at a time, in equal parts for its frontends, rounded up; 0: no
            limit, ``None``: as it was.
        max_rate: queries a second that each daemon takes in, in equal parts for its frontends; 0: no limit, ``None``:
            as it was.
        reason: why, for the record.

    Raises:
        InvalidSetting: a setting cannot be used, or the name is kept by the query port.
        NotFound, Conflict: see :func:`link`.
    """
    if name in RESERVED_APPS:
        raise InvalidSetting(f"{name} cannot be an application's name: the query port keeps /{name} for itself")
    if len(default_output.encode(errors="replace")) > MAX_DEFAULT_OUTPUT_BYTES:
        raise InvalidSetting(f"a default output holds at most {MAX_DEFAULT_OUTPUT_BYTES} bytes")
    settings = {"input_type": input_type, "default_output": default_output, "slo_us": slo_us}
    settings |= {
        field: value or None
        for field, value in {"max_concurrent": max_concurrent, "max_rate": max_rate}.items()
        if value is not None
    }
    try:
        fresh = AppState.model_validate({**settings, "links": [Link(model=link)] if link else []})
    except ValidationError as error:
        raise InvalidSetting(f"application {name}: {validation_summary(error)}") from error
    if link is not None:
        _require_fit(workspace, fresh.input_type, link)

    def decide(head: Head[AppRecord] | None) -> AppState:
        if head is None or head.record.state.deleted:
            return fresh
        kept = head.record.state
        return kept.model_copy(update={**settings, "links": fresh.links or kept.links})

    return _commit(workspace, name, "register", decide, reason)


def link(workspace: Workspace, name: AppName, model: ModelName, *, reason: str | None) -> AppOutcome:
    """Let a model answer an application; a link to another model is replaced.

    Raises:
        NotFound: there is no such application or model.
        Conflict: the model's active version takes another input type.
    """
    _require_fit(workspace, show(workspace, name).state.input_type, model)

    def decide(head: Head[AppRecord] | None) -> AppState:
        return _existing(head, name).model_copy(update={"links": [Link(model=model)]})

    return _commit(workspace, name, "link", decide, reason)


def unlink(workspace: Workspace, name: AppName, *, reason: str | None) -> AppOutcome:
    """Let no model answer an application: it then answers with its default output. Raises NotFound."""

    def decide(head: Head[AppRecord] | None) -> AppState:
        return _existing(head, name).model_copy(update={"links": []})

    return _commit(workspace, name, "unlink", decide, reason)


def delete(workspace: Workspace, name: AppName, *, reason: str | None) -> AppOutcome:
    """Delete an application; its history stays, and registering it again brings it back. Raises NotFound."""

    def decide(head: Head[AppRecord] | None) -> AppState:
        return _existing(head, name).model_copy(update={"deleted": True, "links": []})

    return _commit(workspace, name, "delete", decide, reason)


def show(workspace: Workspace, name: AppName) -> AppRecord:
    """Return an application's newest record. Raises NotFound."""
    head = workspace.app_ledger(name).head()
    _existing(head, name)
    assert head is not None
    return head.record


def names(workspace: Workspace) -> list[str]:
    """Return the names of the applications that are not deleted, sorted."""
    found = []
    for entry in workspace.store.list(layout.APPS):
        if entry.kind != "folder" or name_problem(entry.name) is not None:
            continue
        head = workspace.app_ledger(app_name(entry.name)).head()
        if head is not None and not head.record.state.deleted:
            found.append(entry.name)
    return found


def _commit(
    workspace: Workspace,
    name: AppName,
    op: str,
    decide: Callable[[Head[AppRecord] | None], AppState],
    reason: str | None,
) -> AppOutcome:
    def draft(head: Head[AppRecord] | None) -> Draft | None:
        after = decide(head)
        if head is not None and after == head.record.state:
            return None
        evidence = Evidence.model_validate({"links": [one.model for one in after.links]})
        return Draft(op, after, reason, evidence)

    head, changed = workspace.app_ledger(name).append(draft, actor=workspace.actor)
    assert head is not None
    return AppOutcome(head.record, changed)


def _existing(head: Head[AppRecord] | None, name: AppName) -> AppState:
    if head is None or head.record.state.deleted:
        raise NotFound(f"there is no application {name}", hint="'clipperfs app list' shows them", app=name)
    return head.record.state


def _require_fit(workspace: Workspace, input_type: str, model: ModelName) -> None:
    head = workspace.model_ledger(model).head()
    if head is None:
        if workspace.store.stat(layout.subject_root(layout.model_subject(model))) is None:
            raise NotFound(f"there is no model {model}", hint="publish a version first; 'clipperfs list' shows models")
        return
    active = head.record.state.active
    if active is None:
        return
    takes = pointer_settings(workspace, model, active).input_type
    if takes is not None and takes != input_type:
        raise Conflict(
            f"version {active.version} of model {model} takes {takes}, the application sends {input_type}",
            hint=f"register the application with --input-type {takes}, or link another model",
        )
