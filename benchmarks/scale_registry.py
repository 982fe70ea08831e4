"""A large registry, made in minutes: every document as clipperfs spells it, without claiming and flushing each.

Each version has a payload and a manifest of its own, each record follows the one before it, every tenth version was
active once, with verdicts and a report. ``clipperfs verify`` finds nothing wrong with it. Made again, it goes on where
it was interrupted.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from clipperfs import Registry, layout
from clipperfs.digest import NO_DIGEST, Digest, digest_bytes
from clipperfs.documents import (
    CheckReport,
    Evidence,
    FileEntry,
    Manifest,
    ModelRecord,
    ModelState,
    Pointer,
    Policy,
    ReportReference,
    Verdict,
    VersionSettings,
    canonical_bytes,
    parse_document,
)
from clipperfs.limits import LIMITS
from clipperfs.names import ModelName, VersionName

ACTIVATED_EACH = 10
"""Of so many versions, one was active once."""
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = VersionSettings.model_validate({"wrapper": "noop", "input_type": "floats", "sample": [[0.0] * 4]})


@dataclass(frozen=True, slots=True)
class Size:
    """How large a registry is."""

    models: int
    versions: int
    """Of each model."""
    loaded: int = 0
    """So many models, the first ones, have a replica when a daemon follows them."""

    @property
    def records(self) -> int:
        """Return how many records each model has, or one fewer if it is loaded."""
        return self.versions + self.versions // ACTIVATED_EACH + 1


def model_at(number: int) -> str:
    """Return the name of a model of the large registry."""
    return f"model-{number:05d}"


def make_registry(root: Path, size: Size, *, processes: int = 2) -> Registry:
    """Make the registry at ``root``, or what is missing of it; return it.

    The policy of every model but the first ``size.loaded`` is ``replicas=0``: no daemon starts a process for it.
    """
    registry = Registry.init(str(root), cache_dir=root.parent / "cache", probe="skip")
    identity = registry.describe().registry_id
    with ProcessPoolExecutor(processes) as pool:
        jobs = [pool.submit(_make_models, root, identity, size, start, processes) for start in range(processes)]
        for job in jobs:
            job.result()
    return registry


def _make_models(root: Path, identity: str, size: Size, start: int, step: int) -> None:
    for number in range(start, size.models, step):
        make_model(root, identity, model_at(number), size)
        if number >= size.loaded:
            _turn_off(root, model_at(number), size)


def _turn_off(root: Path, name: str, size: Size) -> None:
    data = (root / layout.active_copy(layout.model_subject(name))).read_bytes()
    head = parse_document(ModelRecord, data, limit_bytes=LIMITS.record_bytes)
    if head.seq == size.records - 1:
        off = head.state.model_copy(update={"policy": Policy(replicas=0)})
        lengthen(root, head, digest_bytes(data), size.records, state=off)


def make_model(root: Path, identity: str, name: str, size: Size) -> None:
    """Write one model, unless it is there. The copy of the newest record comes last, and says that it is."""
    subject = layout.model_subject(name)
    done = root / layout.active_copy(subject)
    if done.exists():
        return
    shutil.rmtree(root / layout.subject_root(subject), ignore_errors=True)
    os.makedirs(root / layout.log(subject))
    os.makedirs(root / layout.versions(ModelName(name)))
    done.write_bytes(write_versions(root, identity, name, size))


def write_versions(root: Path, identity: str, name: str, size: Size) -> bytes:
    """Write a model's versions and its log; return the newest record's bytes."""
    subject = layout.model_subject(name)
    state, prev, seq, data = ModelState(), str(NO_DIGEST), 0, b""
    for number in range(size.versions):
        version = f"v{number:03d}"
        digest = _write_version(root, ModelName(name), VersionName(version))
        steps: list[tuple[str, Evidence]] = [("publish", Evidence(version=version, manifest=digest))]
        if number % ACTIVATED_EACH == ACTIVATED_EACH - 1:
            evidence = _write_report(root, ModelName(name), version, digest, state, seq + 1)
            steps.append(("activate", evidence))
        for op, evidence in steps:
            seq += 1
            if op == "activate":
                pointer = Pointer(version=version, manifest=digest, seq=seq)
                state = state.model_copy(update={"active": pointer, "previous": state.active})
            record = ModelRecord(
                registry_id=identity,
                model=name,
                seq=seq,
                prev=prev,
                nonce=f"{seq:032x}",
                time=_time(seq),
                actor="trainer@ci",
                op=op,
                reason=f"nightly training run {number}",
                evidence=evidence,
                state=state,
            )
            data = canonical_bytes(record)
            write_file(root / layout.slot(subject, seq), data)
            prev = digest_bytes(data)
    return data


def _write_version(root: Path, model: ModelName, version: VersionName) -> Digest:
    payload = f"{model} {version}: there is nothing here to load.\n".encode()
    entry = FileEntry(path="nothing.txt", size=len(payload), sha256=digest_bytes(payload))
    manifest = Manifest(created=_time(0), created_by="trainer@ci", files=[entry], settings=SETTINGS)
    data = canonical_bytes(manifest)
    os.mkdir(root / layout.version(model, version))
    write_file(root / layout.payload(model, version, entry.path), payload)
    write_file(root / layout.manifest(model, version), data)
    return digest_bytes(data)


def _write_report(
    root: Path, model: ModelName, version: str, digest: Digest, state: ModelState, base_seq: int
) -> Evidence:
    verdicts = [Verdict(hook=hook, outcome="passed", duration_ms=1.0) for hook in ("integrity", "loadable")]
    report = CheckReport(
        model=model,
        version=version,
        manifest=digest,
        active=state.active.version if state.active else None,
        base_seq=base_seq,
        time=_time(base_seq),
        actor="trainer@ci",
        accepted=True,
        verdicts=verdicts,
    )
    data = canonical_bytes(report)
    key = layout.report(model, digest, int(EPOCH.timestamp() * 1000) + base_seq, f"{base_seq:016x}")
    os.makedirs((root / key).parent)
    write_file(root / key, data)
    reference = ReportReference(key=key, sha256=digest_bytes(data))
    return Evidence(version=version, manifest=digest, verdicts=verdicts, report=reference)


def lengthen(root: Path, head: ModelRecord, digest: str, count: int, *, state: ModelState | None = None) -> None:
    """Append policy records to a model's log, up to ``count`` in all, without flushing any."""
    subject = layout.model_subject(head.model)
    record, data = head if state is None else head.model_copy(update={"state": state}), b""
    for seq in range(head.seq + 1, count + 1):
        changes: dict[str, Any] = {"seq": seq, "prev": digest, "op": "policy", "nonce": f"{seq:032x}"}
        record = record.model_copy(update={**changes, "time": _time(seq), "evidence": Evidence()})
        data = canonical_bytes(record)
        write_file(root / layout.slot(subject, seq), data)
        digest = digest_bytes(data)
    if data:
        (root / layout.active_copy(subject)).write_bytes(data)


def write_file(path: Path, data: bytes) -> None:
    """Write a new file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _time(minutes: int) -> str:
    moment = EPOCH + timedelta(minutes=minutes)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
