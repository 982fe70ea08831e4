"""Verify a registry: every hash chain, every file's digest, every pointer. Reads everything, changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from clipperfs import layout
from clipperfs.adopt import look_at
from clipperfs.digest import Digest, digest_bytes, digest_stream
from clipperfs.documents import Manifest, ModelRecord, ModelState, Pointer
from clipperfs.errors import ClipperfsError, DamagedLog, NotFound, StoredDataError, UnknownFeature
from clipperfs.ledger import Head, Ledger, RecordT
from clipperfs.limits import LIMITS
from clipperfs.names import ModelName, VersionName, name_problem
from clipperfs.signing.key import PublicKey
from clipperfs.signing.record import attribute
from clipperfs.signing.trust import judge_publisher, known_keys
from clipperfs.view import model_names, version_names
from clipperfs.workspace import Workspace

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    subject: str
    severity: Severity
    message: str


@dataclass(slots=True)
class VerifyReport:
    """What was looked at, and what was found."""

    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    versions: int = 0
    files: int = 0
    size_bytes: int = 0

    @property
    def ok(self) -> bool:
        """Say whether there is no error. Warnings (a copy that is still incoming) are fine."""
        return all(finding.severity != "error" for finding in self.findings)

    def add(self, subject: str, message: str, severity: Severity = "error") -> None:
        """Note a finding."""
        self.findings.append(Finding(subject, severity, message))


def verify(workspace: Workspace, model: ModelName | None, version: VersionName | None) -> VerifyReport:
    """Verify the whole registry, one model, or one version. Raises NotFound, StorageError."""
    report = VerifyReport()
    workspace.document()
    if model is not None:
        if version is not None:
            look_at(workspace, model, version)
        elif workspace.store.stat(layout.subject_root(layout.model_subject(model))) is None:
            raise NotFound(f"there is no model {model}", hint="'clipperfs list' shows the models")
        _verify_model(workspace, model, [version] if version else None, report)
        return report
    _note_strays(workspace, layout.MODELS, report)
    for name in model_names(workspace):
        _verify_model(workspace, ModelName(name), None, report)
    for entry in workspace.store.list(layout.APPS):
        if name_problem(entry.name) is None:
            _verify_chain(workspace, workspace.app_ledger(entry.name), f"application {entry.name}", report)
    return report


def _note_strays(workspace: Workspace, folder: layout.Key, report: VerifyReport) -> None:
    """Warn of what lies where models or versions lie, but is never looked at: a copy under a name that is none."""
    for entry in workspace.store.list(folder):
        problem = name_problem(entry.name) or (f"is a {entry.kind}, not a folder" if entry.kind != "folder" else None)
        if problem is not None and not entry.name.startswith("."):
            report.add(f"{folder}/{entry.name}", f"it is ignored: {entry.name!a} {problem}", "warning")


def _verify_model(
    workspace: Workspace, model: ModelName, versions: Iterable[VersionName] | None, report: VerifyReport
) -> None:
    name = f"model {model}"
    recorded: dict[str, str] = {}
    keys: dict[str, PublicKey] = {}

    def look(head: Head[ModelRecord]) -> None:
        for word, key in known_keys(workspace, head.record.state.policy).items():
            keys.setdefault(word, key)  # the newest policy's keys first, then those that older records knew
        if (author := attribute(head.record, head.data, keys)).is_forged:
            report.add(f"{name}, record {head.seq}", f"its signature is not that of its bytes: {author.word}")
        evidence = head.record.evidence
        if head.record.op in ("publish", "adopt") and evidence.version and evidence.manifest:
            recorded[evidence.version] = evidence.manifest  # the last one to be looked at is the first of the log
        _verify_evidence(workspace, head, report)

    newest = _verify_chain(workspace, workspace.model_ledger(model), name, report, look)
    state = newest.record.state if newest is not None else ModelState()
    pointers = _pointers(state)
    for pointer in {(pointer.version, pointer.manifest): pointer for pointer in pointers}.values():
        recorded.setdefault(pointer.version, pointer.manifest)
        subject = ModelName(model), VersionName(pointer.version)
        publisher = judge_publisher(workspace, *subject, Digest(pointer.manifest), state.policy)
        if publisher is not None and publisher.is_refusal:
            report.add(f"{model}/{pointer.version}", f"it is in use, but {publisher.reason}")
    if versions is None:
        _note_strays(workspace, layout.versions(model), report)
    there = version_names(workspace, model)
    missing = {pointer.version for pointer in pointers} - set(there)
    for gone in sorted(missing):
        report.add(f"{model}/{gone}", "a pointer of the newest record names it, but it is not there")
    everything = sorted({*there, *map(VersionName, recorded)} - {VersionName(gone) for gone in missing})
    for version in versions if versions is not None else everything:
        _verify_version(workspace, model, version, recorded.get(version), report)


def _pointers(state: ModelState) -> list[Pointer]:
    candidate = state.rollout.candidate if state.rollout else None
    named = [state.active, state.previous, candidate, *state.aliases.values(), *state.pins]
    return [pointer for pointer in named if pointer is not None]


def _verify_chain(
    workspace: Workspace,
    ledger: Ledger[RecordT],
    name: str,
    report: VerifyReport,
    look: Callable[[Head[RecordT]], None] = lambda head: None,
) -> Head[RecordT] | None:
    """Show each record of the chain to ``look``, the newest first, as far as it holds; return the newest.

    Holds one record at a time: a log may be long.
    """
    newest: Head[RecordT] | None = None
    try:
        for head in ledger.records():
            if newest is None:
                newest = head
                # How much there is to read is only known when it has been read: the newest record stands for all.
                workspace.reporter.begin(f"verify the log of {name}", head.seq * len(head.data))
            report.records += 1
            look(head)
            workspace.reporter.advance(len(newest.data))
    except (DamagedLog, UnknownFeature) as error:
        report.add(name, error.message)
        return newest
    finally:
        if newest is not None:
            workspace.reporter.end()
    end = newest.seq if newest is not None else 0
    after = layout.slot(ledger.subject, end).rpartition("/")[2] if end else ""
    beyond = [layout.slot_seq(entry.name) for entry in ledger.store.list(layout.log(ledger.subject), after=after)]
    for seq in sorted(seq for seq in beyond if seq is not None):
        report.add(name, f"record {seq} lies outside the chain, which ends at {end}")
    return newest


def _verify_evidence(workspace: Workspace, head: Head[ModelRecord], report: VerifyReport) -> None:
    reference = head.record.evidence.report
    if reference is None:
        return
    subject = f"model {head.record.model}, record {head.seq}"
    try:
        data = workspace.store.read(reference.key, limit_bytes=LIMITS.report_bytes)
    except ClipperfsError as error:
        report.add(subject, f"its hook report cannot be read: {error.message}")
        return
    if data is None:
        report.add(subject, f"its hook report {reference.key} is gone", "warning")
    elif digest_bytes(data) != reference.sha256:
        report.add(subject, f"its hook report {reference.key} was changed")


def _verify_version(
    workspace: Workspace, model: ModelName, version: VersionName, recorded: str | None, report: VerifyReport
) -> None:
    subject = f"{model}/{version}"
    report.versions += 1
    try:
        there = look_at(workspace, model, version)
    except NotFound:
        if recorded is not None:
            report.add(subject, "it was recorded, but nothing of it is there")
        return
    except StoredDataError as error:
        report.add(subject, error.message)
        return
    for wrong in there.wrong:
        report.add(subject, wrong)
    if there.state == "purged":
        return
    if there.missing:
        severity: Severity = "warning" if recorded is None else "error"
        shown = ", ".join(there.missing[:10]) + (" …" if len(there.missing) > 10 else "")
        report.add(subject, f"incoming; missing: {shown}", severity)
    for path in there.extra:
        report.add(subject, f"{path} is not in the manifest", "error" if recorded is not None else "warning")
    if recorded is not None and there.manifest_digest is not None and there.manifest_digest != recorded:
        report.add(subject, "its manifest is not the one that was recorded")
    if there.manifest is not None and not there.missing:
        _verify_files(workspace, model, version, there.manifest, report)


def _verify_files(
    workspace: Workspace, model: ModelName, version: VersionName, manifest: Manifest, report: VerifyReport
) -> None:
    workspace.reporter.begin(f"verify {model}/{version}", manifest.size_bytes)
    try:
        for entry in manifest.files:
            try:
                stream = workspace.store.open(layout.payload(model, version, entry.path))
            except StoredDataError as error:
                report.add(f"{model}/{version}", error.message)
                continue
            if stream is None:
                report.add(f"{model}/{version}", f"{entry.path} is gone")
                continue
            with stream:
                digest, size_bytes = digest_stream(stream)
            workspace.reporter.advance(size_bytes)
            report.files += 1
            report.size_bytes += size_bytes
            if digest != entry.sha256:
                report.add(f"{model}/{version}", f"the bytes of {entry.path} are not those of the manifest")
    finally:
        workspace.reporter.end()
