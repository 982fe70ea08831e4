"""What differs between two versions: files, settings, hook verdicts, and what the two predict on the sample."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from clipperfs import layout
from clipperfs.activate import Candidate, known_digest, prepare
from clipperfs.adopt import read_manifest
from clipperfs.digest import Digest
from clipperfs.documents import CheckReport, Manifest, ModelState, parse_document
from clipperfs.errors import ClipperfsError, InvalidDocument, StoredDataError
from clipperfs.limits import LIMITS
from clipperfs.names import ModelName, VersionName
from clipperfs.workspace import Workspace

MAX_SHOWN_PREDICTIONS = 10


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file of either version. A size is ``None`` where the file is absent."""

    path: str
    change: str
    """``added``, ``removed`` or ``changed``."""
    size_a: int | None
    size_b: int | None


@dataclass(slots=True)
class DiffReport:
    """Everything that differs from ``a`` to ``b``."""

    model: str
    a: str
    b: str
    same_bytes: bool
    files: list[FileChange] = field(default_factory=list)
    unchanged_files: int = 0
    size_a_bytes: int = 0
    size_b_bytes: int = 0
    settings: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    verdicts: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    """By hook: the outcome in each version's newest report."""
    predictions_compared: int = 0
    predictions_different: int = 0
    predictions: list[tuple[Any, Any, Any]] = field(default_factory=list)
    """(input, output of a, output of b), for the first inputs on which the two differ."""
    predictions_note: str | None = None
    """Why predictions were not compared, if they were not."""


def diff(workspace: Workspace, model: ModelName, a: VersionName, b: VersionName, *, predictions: bool) -> DiffReport:
    """Compare two versions. Raises NotFound, DamagedVersion, StorageError; what cannot be run is noted, not raised."""
    first, digest_a, _ = read_manifest(workspace, model, a)
    second, digest_b, _ = read_manifest(workspace, model, b)
    report = DiffReport(model, a, b, same_bytes=first.files == second.files)
    report.size_a_bytes, report.size_b_bytes = first.size_bytes, second.size_bytes
    _compare_files(first, second, report)
    _compare_settings(first, second, report)
    newest = _newest_outcomes(workspace, model, digest_a), _newest_outcomes(workspace, model, digest_b)
    for hook in sorted(newest[0].keys() | newest[1].keys()):
        report.verdicts[hook] = (newest[0].get(hook), newest[1].get(hook))
    if predictions:
        try:
            _compare_predictions(workspace, model, a, b, report)
        except ClipperfsError as error:
            report.predictions_note = error.message
    else:
        report.predictions_note = "not asked for"
    return report


def _compare_files(first: Manifest, second: Manifest, report: DiffReport) -> None:
    before = {entry.path: entry for entry in first.files}
    after = {entry.path: entry for entry in second.files}
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old is not None and new is not None and old.sha256 == new.sha256:
            report.unchanged_files += 1
            continue
        change = "added" if old is None else "removed" if new is None else "changed"
        report.files.append(FileChange(path, change, old.size if old else None, new.size if new else None))


def _compare_settings(first: Manifest, second: Manifest, report: DiffReport) -> None:
    before, after = first.settings.model_dump(mode="json"), second.settings.model_dump(mode="json")
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            report.settings[name] = (before.get(name), after.get(name))


def _newest_outcomes(workspace: Workspace, model: ModelName, digest: Digest) -> dict[str, str]:
    folder = layout.checks(model, digest)
    names = [entry.name for entry in workspace.store.list(folder) if entry.name.endswith(".json")]
    if not names:
        return {}
    try:
        data = workspace.store.read(f"{folder}/{names[-1]}", limit_bytes=LIMITS.report_bytes) or b""
        report = parse_document(CheckReport, data, limit_bytes=LIMITS.report_bytes)
    except (InvalidDocument, StoredDataError):
        return {}
    return {verdict.hook: verdict.outcome for verdict in report.verdicts}


def _compare_predictions(
    workspace: Workspace, model: ModelName, a: VersionName, b: VersionName, report: DiffReport
) -> None:
    head = workspace.model_ledger(model).head()
    state = head.record.state if head else ModelState()
    first = prepare(workspace, model, a, state, known_digest(state, a))
    with first.copy.lease:
        second = prepare(workspace, model, b, state, known_digest(state, b))
        with second.copy.lease:
            sample = read_sample(second) or read_sample(first)
            if not sample:
                report.predictions_note = "neither version has a sample"
                return
            before = predict_with(model, a, first, sample, state)
            after = predict_with(model, b, second, sample, state)
    report.predictions_compared = len(sample)
    different = [item for item in zip(sample, before, after, strict=True) if item[1] != item[2]]
    report.predictions_different = len(different)
    report.predictions = different[:MAX_SHOWN_PREDICTIONS]


def read_sample(candidate: Candidate) -> list[Any] | None:
    """Return a version's sample inputs, inline or from its file. Raises StoredDataError."""
    sample = candidate.settings.sample
    if not isinstance(sample, str):
        return sample
    try:
        found = json.loads((candidate.copy.path / sample).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StoredDataError(f"the sample {sample} cannot be read: {error}") from error
    if not isinstance(found, list):
        raise StoredDataError(f"the sample {sample} must be a JSON list of inputs")
    return found


def predict_with(
    model: ModelName, version: VersionName, candidate: Candidate, inputs: list[Any], state: ModelState
) -> list[Any]:
    """Load a version in a process of its own and predict. Raises LoadFailed, PredictFailed, ReplicaLost, TimedOut."""
    from clipperfs.replica.session import ReplicaSession
    from clipperfs.wrapper import LoadContext

    assert candidate.settings.wrapper is not None
    context = LoadContext(
        path=candidate.copy.path,
        model=model,
        version=version,
        input_type=candidate.settings.input_type or "doubles",
        allow_code=state.policy.allow_code,
        options=candidate.settings.wrapper.options,
    )
    with ReplicaSession(
        context,
        candidate.settings.wrapper.kind,
        load_timeout_s=state.policy.load_timeout_s,
        predict_timeout_s=state.policy.predict_timeout_s,
    ) as session:
        session.start()
        return session.predict(inputs)
