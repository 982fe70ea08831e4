"""Which versions a log has recorded: found once, then remembered on this host and extended by what is new.

Whether a version was ever recorded is asked at every publish and at most activations, and only the whole log can say
that it was not. What was read of the log before is kept in the local cache, with the number and the digest of the
record up to which it was read. As every record names the digest of the one before it, the records that are newer prove
that the log still is the one that was read; where they do not, all of it is read again.
Source: ``registry_layout.md`` §8.4 step 5.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clipperfs.digest import NO_DIGEST, digest_bytes, is_digest
from clipperfs.documents import ModelRecord
from clipperfs.ledger import Head, Ledger
from clipperfs.names import ModelName, VersionName
from clipperfs.workspace import Workspace

FORMAT = "clipperfs.recorded.v2"
RECORDING_OPS = ("publish", "adopt")
MAX_UNWRITTEN = 32
"""So many new records at most are read again the next time rather than written down."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The newest record that says that a version exists."""

    seq: int
    op: str
    manifest: str | None


@dataclass(frozen=True, slots=True)
class RecordedVersions:
    """What a log says of versions, up to one of its records."""

    seq: int
    digest: str
    """Of the bytes of record ``seq``."""
    versions: Mapping[str, Recorded]
    rolled_out: frozenset[str] = frozenset()
    """Versions that were the candidate of a rollout."""


NOTHING = RecordedVersions(0, NO_DIGEST, {})


def decided_since(workspace: Workspace, record: ModelRecord, version: str, recorded_seq: int) -> str | None:
    """Return why the policy ``on-publish`` activates a version no more, or ``None`` while it does.

    It does not once another version became active (by an activation, a promotion or a rollback) after this one was
    recorded, or this one was on trial itself. A job that is run again would undo what was decided since.

    Args:
        record: the newest record of the model.
        recorded_seq: the record that says that ``version`` exists.
    """
    active = record.state.active
    if active is None or active.version == version:
        return None
    if active.seq > recorded_seq:
        return f"it is there since record {recorded_seq}, and record {active.seq} made version {active.version} active"
    if version in recorded_versions(workspace, ModelName(record.model)).rolled_out:
        return "a rollout of it has ended"
    return None


def find_recorded(workspace: Workspace, model: ModelName, version: VersionName) -> Head[ModelRecord] | None:
    """Return the newest record that says that a version exists, or ``None``. Raises DamagedLog, UnknownFeature."""
    ledger = workspace.model_ledger(model)
    known = recorded_versions(workspace, model)
    if (found := known.versions.get(version)) is None:
        return None
    head = ledger.read(found.seq)
    if head is None or not _says(head.record, version, found):
        # Not what was read when it was written down: the memory or the log was changed. The log alone decides.
        known, _ = _extend(ledger, ledger.head(), NOTHING)
        _write(workspace, model, known)
        found = known.versions.get(version)
        head = ledger.read(found.seq) if found is not None else None
    return head


def recorded_versions(
    workspace: Workspace, model: ModelName, known: RecordedVersions | None = None
) -> RecordedVersions:
    """Return which versions a model's log records, up to its newest record.

    Args:
        known: what the caller remembers itself; by default the local cache is asked.

    Costs one read for each record that is newer than what is remembered. Raises DamagedLog, UnknownFeature.
    """
    ledger = workspace.model_ledger(model)
    head = ledger.head()
    before = known if known is not None and known.seq else _read(workspace, model)
    now, walked = _extend(ledger, head, before)
    if walked > min(MAX_UNWRITTEN, len(now.versions) // 1000):
        _write(workspace, model, now)
    return now


def _extend(
    ledger: Ledger[ModelRecord], head: Head[ModelRecord] | None, known: RecordedVersions
) -> tuple[RecordedVersions, int]:
    """Add what records say that are newer than those read before; begin anew where they do not follow them.

    Returns how many records were read, too.
    """
    if head is None or (head.seq, head.digest) == (known.seq, known.digest):
        return (known if head is not None else NOTHING), 0
    if head.seq <= known.seq:
        return _extend(ledger, head, NOTHING)
    fresh: dict[str, Recorded] = {}
    rolled_out = set(known.rolled_out)
    for one in ledger.records(newest=head.seq):
        evidence = one.record.evidence
        if one.record.op in RECORDING_OPS and evidence.version:
            fresh.setdefault(evidence.version, Recorded(one.seq, one.record.op, evidence.manifest))
        if one.record.op == "rollout" and evidence.version:
            rolled_out.add(evidence.version)
        if known.seq and one.seq == known.seq + 1:
            if one.record.prev != known.digest:
                return _extend(ledger, head, NOTHING)
            break
    now = RecordedVersions(head.seq, head.digest, {**known.versions, **fresh}, frozenset(rolled_out))
    return now, head.seq - known.seq


def _says(record: ModelRecord, version: str, found: Recorded) -> bool:
    evidence = record.evidence
    return (record.op, evidence.version, evidence.manifest) == (found.op, version, found.manifest)


def _path(workspace: Workspace, model: ModelName) -> Path:
    return workspace.cache.root / "recorded" / digest_bytes(workspace.registry_id.encode())[:32] / f"{model}.json"


def _read(workspace: Workspace, model: ModelName) -> RecordedVersions:
    """Return what was written down; nothing where that is absent or not whole."""
    try:
        data = _path(workspace, model).read_bytes()
        checksum, _, body = data.partition(b"\n")
        if checksum.decode() != digest_bytes(body):
            return NOTHING
        tree = json.loads(body)
        if tree["format"] != FORMAT or tree["model"] != model or not is_digest(tree["digest"]):
            return NOTHING
        versions = {name: Recorded(int(seq), str(op), manifest) for name, (seq, op, manifest) in tree["versions"]}
        rolled_out = frozenset(str(name) for name in tree["rolled_out"])
        return RecordedVersions(int(tree["seq"]), str(tree["digest"]), versions, rolled_out)
    except (OSError, ValueError, TypeError, KeyError):
        return NOTHING


def _write(workspace: Workspace, model: ModelName, known: RecordedVersions) -> None:
    """Write down what was found. Best effort: without it the log is read again."""
    rows = [[name, [one.seq, one.op, one.manifest]] for name, one in known.versions.items()]
    tree = {
        "format": FORMAT,
        "model": model,
        "seq": known.seq,
        "digest": known.digest,
        "versions": rows,
        "rolled_out": sorted(known.rolled_out),
    }
    body = json.dumps(tree).encode()
    path = _path(workspace, model)
    part = path.with_name(f".part-{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            part.write_bytes(digest_bytes(body).encode() + b"\n" + body)
            os.rename(part, path)
        finally:
            part.unlink(missing_ok=True)
