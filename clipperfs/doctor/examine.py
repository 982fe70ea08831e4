"""The doctor's round: first the registry, then its filesystem, then this host. Nothing stays of what it writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clipperfs.doctor import filesystem, host
from clipperfs.doctor.finding import Finding, Level, worst
from clipperfs.documents import ProbeReport, RegistryDocument
from clipperfs.errors import ClipperfsError, NotFound, StorageError, StoredDataError
from clipperfs.initialise import Effort, needed_effort
from clipperfs.probe.plan import PLANS
from clipperfs.probe.run import probe, store_report
from clipperfs.workspace import Workspace


@dataclass(slots=True)
class Diagnosis:
    """All that was found."""

    url: str
    store_class: str
    findings: list[Finding] = field(default_factory=list)
    probe: ProbeReport | None = None
    """The probe that was made now, or else the newest one that the registry keeps."""

    @property
    def level(self) -> Level:
        """Return the worst level."""
        return worst(self.findings)


def examine(workspace: Workspace, effort: Effort | None, *, state_dir: Path) -> Diagnosis:
    """Look at everything that decides whether the registry is safe and this host can serve from it.

    Args:
        effort: how hard to race for names; ``None``: not at all where this kernel alone keeps the files, or where the
            registry keeps a report; else in full.
        state_dir: where this host's daemon of the registry keeps its state.

    Guarantees: what is wrong is a finding, not an error. Without a registry nothing is written unless ``effort`` asks
        for a probe.
    """
    store = workspace.store
    found = Diagnosis(store.url, store.store_class)
    found.findings.append(filesystem.place(store))
    document, is_reachable = _look_at_registry(workspace, found)
    if is_reachable:
        may_write = document is not None or effort not in (None, "skip")
        if may_write:
            rights, trial = filesystem.rights(workspace, document is not None)
            found.findings += rights
            may_write = trial is not None
            if trial is not None:
                found.findings.append(filesystem.clock(trial))
        _look_at_exclusivity(workspace, effort, document, may_write, found)
    found.findings += [filesystem.durability(store), filesystem.watching(store)]
    found.findings += filesystem.room(store)
    found.findings += [host.cache(workspace.cache.root), host.daemon(state_dir, store.url)]
    found.findings += [host.speed(), *host.plugins()]
    return found


def _look_at_registry(workspace: Workspace, found: Diagnosis) -> tuple[RegistryDocument | None, bool]:
    """Return ``registry.json``, and whether the filesystem answered."""
    try:
        document = workspace.document()
    except NotFound:
        step = f"clipperfs init {workspace.store.url}"
        found.findings.append(Finding("registry", "warning", "there is no registry here", step))
        return None, True
    except StoredDataError as error:  # damaged, or of a newer release
        found.findings.append(Finding("registry", "warning", error.message, error.hint))
        return None, False
    except StorageError as error:
        found.findings.append(Finding("registry", "warning", f"it cannot be read: {error.message}", error.hint))
        return None, False
    features = f"; features: {', '.join(document.required_features)}" if document.required_features else ""
    message = (
        f"{document.registry_id}, {document.schema_}, created {document.created} by {document.created_by}{features}"
    )
    found.findings.append(Finding("registry", "ok", message))
    return document, True


def _look_at_exclusivity(
    workspace: Workspace, effort: Effort | None, document: RegistryDocument | None, may_write: bool, found: Diagnosis
) -> None:
    store = workspace.store
    is_declared = document is not None and workspace.is_single_writer
    kept = filesystem.newest_report(store) if document is not None else None
    wanted = effort or ("skip" if kept is not None or document is None or is_declared else needed_effort(store))
    report = kept
    if wanted != "skip" and may_write and (store.capabilities.exclusive_create or not is_declared):
        try:
            report = probe(store, PLANS[wanted], actor=workspace.actor, tell=workspace.reporter.note)
            if document is not None:
                store_report(store, report)
        except ClipperfsError as error:
            found.findings.append(Finding("probe", "warning", f"it could not be made: {error.message}", error.hint))
    found.probe = report
    found.findings.append(filesystem.writers(store, report, is_declared))
    if report is not None:
        found.findings += filesystem.oddities(report)
