"""What the registry holds, as people and scripts want to see it: models, versions and their states."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from clipperfs import layout
from clipperfs.adopt import Assessment, VersionState, look_at
from clipperfs.documents import Manifest, ModelRecord, ModelState
from clipperfs.errors import NotFound
from clipperfs.names import ModelName, VersionName, name_problem, version_name
from clipperfs.workspace import Workspace


@dataclass(frozen=True, slots=True)
class VersionView:
    """One version."""

    version: str
    state: VersionState
    manifest: Manifest | None
    manifest_digest: str | None
    size_bytes: int
    missing: list[str]
    wrong: list[str]
    extra: list[str]
    marker: str | None
    listing: str
    is_active: bool
    is_previous: bool
    is_pinned: bool
    rollout: str | None
    """``canary`` or ``shadow`` where it is on trial, else ``None``."""
    aliases: list[str]
    retired: str | None
    """``retired``, ``deleted``, or ``None``."""


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model: its newest record, its versions, and folders that cannot be versions."""

    model: str
    record: ModelRecord | None
    versions: list[VersionView]
    ignored: list[str]
    """Names under ``versions/`` that break the grammar, and why."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One model in a line: its newest record, and the names of its versions, complete or not."""

    model: str
    record: ModelRecord | None
    versions: list[VersionName]


def model_names(workspace: Workspace, pattern: str | None = None) -> list[str]:
    """Return the models' names, sorted: every folder under ``models/`` whose name is valid.

    Args:
        pattern: only names that match, where ``*`` stands for anything and ``?`` for one character.
    """
    workspace.document()
    return [
        entry.name
        for entry in workspace.store.list(layout.MODELS)
        if entry.kind == "folder"
        and name_problem(entry.name) is None
        and (pattern is None or fnmatchcase(entry.name, pattern))
    ]


def summarise_model(workspace: Workspace, model: ModelName) -> ModelSummary:
    """Return a model in a line. Looks into no version. Raises NotFound, DamagedLog, UnknownFeature."""
    head = workspace.model_ledger(model).head(linked=False)
    versions = version_names(workspace, model)
    if head is None and not versions:
        raise NotFound(f"there is no model {model}", hint="'clipperfs list' shows the models", model=model)
    return ModelSummary(model, head.record if head is not None else None, versions)


def version_names(workspace: Workspace, model: ModelName) -> list[VersionName]:
    """Return the names of a model's versions, complete or not, sorted as text."""
    return [
        VersionName(entry.name)
        for entry in workspace.store.list(layout.versions(model))
        if entry.kind == "folder" and name_problem(entry.name) is None
    ]


def show_model(workspace: Workspace, model: ModelName) -> ModelView:
    """Return a model with all its versions. Raises NotFound."""
    head = workspace.model_ledger(model).head()
    state = head.record.state if head else ModelState()
    versions, ignored = [], []
    for entry in workspace.store.list(layout.versions(model)):
        if entry.name.startswith((layout.STAGING_PREFIX, layout.CLAIM_PREFIX)):
            continue
        problem = name_problem(entry.name)
        if problem is None and entry.kind != "folder":
            problem = f"is a {entry.kind}, not a folder"
        if problem is not None:
            ignored.append(f"{entry.name!a} {problem}")
            continue
        try:
            versions.append(_view(entry.name, look_at(workspace, model, version_name(entry.name)), state))
        except NotFound:
            continue  # an empty folder: nothing of it has arrived
    if head is None and not versions and not ignored:
        raise NotFound(f"there is no model {model}", hint="'clipperfs list' shows the models", model=model)
    return ModelView(model, head.record if head else None, versions, ignored)


def show_version(workspace: Workspace, model: ModelName, version: VersionName) -> VersionView:
    """Return one version. Raises NotFound."""
    head = workspace.model_ledger(model).head()
    return _view(version, look_at(workspace, model, version), head.record.state if head else ModelState())


def _view(version: str, there: Assessment, state: ModelState) -> VersionView:
    rollout = state.rollout_in_effect
    return VersionView(
        version=version,
        state=there.state,
        manifest=there.manifest,
        manifest_digest=there.manifest_digest,
        size_bytes=there.size_bytes,
        missing=there.missing,
        wrong=there.wrong,
        extra=there.extra,
        marker=there.marker,
        listing=there.listing,
        is_active=bool(state.active and state.active.version == version),
        is_previous=bool(state.previous and state.previous.version == version),
        is_pinned=any(pin.version == version for pin in state.pins),
        rollout=rollout.kind if rollout and rollout.candidate.version == version else None,
        aliases=sorted(name for name, pointer in state.aliases.items() if pointer.version == version),
        retired=state.retired[version].stage if version in state.retired else None,
    )
