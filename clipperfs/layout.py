"""Names to keys: the only place that spells a path inside a registry (``registry_layout.md`` §4)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NewType

from clipperfs.digest import Digest
from clipperfs.limits import LIMITS
from clipperfs.names import ModelName, VersionName, app_name, model_name, replica_name

Key = NewType("Key", str)
"""A path inside the registry, relative to its root, with '/' between segments."""

REGISTRY = Key("registry.json")
CHANGES = Key("changes")
MODELS = Key("models")
APPS = Key("apps")
REPLICAS = Key("replicas")
PROBES = Key("probe")

MANIFEST_FILE = "manifest.json"
AUTHOR_FILE = "model.yaml"
TOMBSTONE_FILE = "tombstone.json"
MARKER_FILES = ("READY", "_SUCCESS")
STAGING_PREFIX = ".staging-"
CLAIM_PREFIX = ".claim-"
PUBLISHING_FILE = f"{CLAIM_PREFIX}publishing"

NOT_PAYLOAD = frozenset([MANIFEST_FILE, TOMBSTONE_FILE, *MARKER_FILES])
"""Names at the top of a version that a manifest never lists; nor does it list one that begins with a prefix above,
because another writer's claim may lie there for a moment."""

SLOT_DIGITS = 20
_SLOT = re.compile(r"(\d{20})\.json", re.ASCII)
_NONCE = re.compile(r"[0-9a-f]{8,32}", re.ASCII)
_HINT = re.compile(r"\d{13}-[0-9a-f]{8,32}", re.ASCII)

Kind = Literal["model", "app"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a ledger is about: one model or one application."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{'model' if self.kind == 'model' else 'application'} {self.name}"


def model_subject(name: object) -> Subject:
    """Return the ledger subject of a model. Raises InvalidName."""
    return Subject("model", model_name(name))


def app_subject(name: object) -> Subject:
    """Return the ledger subject of an application. Raises InvalidName."""
    return Subject("app", app_name(name))


def subject_root(subject: Subject) -> Key:
    """Return the folder of a model or an application."""
    return Key(f"{MODELS if subject.kind == 'model' else APPS}/{subject.name}")


def log(subject: Subject) -> Key:
    """Return the folder of a subject's records."""
    return Key(f"{subject_root(subject)}/log")


def slot(subject: Subject, seq: int) -> Key:
    """Return the key of record ``seq`` (1 and up)."""
    if not 1 <= seq <= LIMITS.seq:
        raise ValueError(f"a sequence number lies between 1 and {LIMITS.seq}, not {seq}")
    return Key(f"{log(subject)}/{seq:0{SLOT_DIGITS}d}.json")


def slot_seq(file_name: str) -> int | None:
    """Return the sequence number that a file name in a log spells, or ``None`` for any other file."""
    match = _SLOT.fullmatch(file_name)
    return int(match[1]) if match and 1 <= int(match[1]) <= LIMITS.seq else None


def active_copy(subject: Subject) -> Key:
    """Return the key of the copy of the newest record."""
    return Key(f"{subject_root(subject)}/active.json")


def versions(model: ModelName) -> Key:
    """Return the folder of a model's versions."""
    return Key(f"{MODELS}/{model}/versions")


def version(model: ModelName, name: VersionName) -> Key:
    """Return the folder of one version."""
    return Key(f"{versions(model)}/{name}")


def manifest(model: ModelName, name: VersionName) -> Key:
    """Return the key of a version's manifest."""
    return Key(f"{version(model, name)}/{MANIFEST_FILE}")


def tombstone(model: ModelName, name: VersionName) -> Key:
    """Return the key of the mark that stays when a version's payload has been deleted."""
    return Key(f"{version(model, name)}/{TOMBSTONE_FILE}")


def publishing(model: ModelName, name: VersionName) -> Key:
    """Return the key by which a publisher says what a version is going to hold (``registry_layout.md`` §8.4)."""
    return Key(f"{version(model, name)}/{PUBLISHING_FILE}")


def payload(model: ModelName, name: VersionName, path: str) -> Key:
    """Return the key of a payload file. ``path`` has passed :func:`path_problem`."""
    return Key(f"{version(model, name)}/{path}")


def staging(model: ModelName, nonce: str) -> Key:
    """Return the folder in which a version is staged before it is renamed into place."""
    return Key(f"{versions(model)}/{STAGING_PREFIX}{nonce}")


def checks(model: ModelName, manifest_digest: Digest) -> Key:
    """Return the folder of the hook reports about one manifest."""
    return Key(f"{MODELS}/{model}/checks/{manifest_digest}")


def report(model: ModelName, manifest_digest: Digest, unix_ms: int, nonce: str) -> Key:
    """Return the key of one hook report."""
    return Key(f"{checks(model, manifest_digest)}/{unix_ms:013d}-{nonce}.json")


def signatures(model: ModelName, manifest_digest: Digest) -> Key:
    """Return the folder of the signatures over one manifest."""
    return Key(f"{MODELS}/{model}/signatures/{manifest_digest}")


def signature(model: ModelName, manifest_digest: Digest, key_id: str) -> Key:
    """Return the key of one key's signature over one manifest."""
    return Key(f"{signatures(model, manifest_digest)}/{key_id}.json")


def change(unix_ms: int, nonce: str) -> Key:
    """Return the key of a wake-up hint."""
    return Key(f"{CHANGES}/{unix_ms:013d}-{nonce}")


def is_payload(path: str) -> bool:
    """Say whether a file found at ``path`` in a version is payload: neither the registry's own nor a writer's claim.

    A payload file may still have a path that :func:`path_problem` refuses, such as one below a folder ``READY``.
    """
    return path not in NOT_PAYLOAD and ("/" in path or not path.startswith(CLAIM_PREFIX))


def uncommitted(path: str) -> str | None:
    """Return the part of a file's path by which a writer says that it has not committed it; ``None``: it does not.

    Hadoop's and Spark's committers write below ``_temporary/`` (on S3 ``__magic…/``), ``hdfs dfs -put`` to a name that
    ends in ``._COPYING_``, and DistCp to ``.distcp.tmp.…``; what is finished is renamed.
    """
    segments = path.split("/")
    for depth, segment in enumerate(segments, start=1):
        is_folder = depth < len(segments) and (segment == "_temporary" or segment.startswith("__magic"))
        if is_folder or segment.endswith("._COPYING_") or segment.startswith(".distcp.tmp."):
            return "/".join(segments[:depth])
    return None


def is_change(file_name: str) -> bool:
    """Say whether a file name in ``changes/`` is that of a hint."""
    return _HINT.fullmatch(file_name) is not None


def replica_status(replica: str) -> Key:
    """Return the key of a daemon's status. Raises InvalidName."""
    return Key(f"{REPLICAS}/{replica_name(replica)}.json")


def probe_scratch(nonce: str) -> Key:
    """Return the folder in which one race probe writes. It goes when the probe ends."""
    return Key(f"{PROBES}/{nonce}")


def is_probe_scratch(name: str) -> bool:
    """Say whether a name in ``probe/`` is that of a probe's scratch folder."""
    return _NONCE.fullmatch(name) is not None


def probe_report(unix_ms: int, nonce: str) -> Key:
    """Return the key of a race probe's report."""
    return Key(f"{PROBES}/{unix_ms:013d}-{nonce}.json")


def is_probe_report(name: str) -> bool:
    """Say whether a name in ``probe/`` is that of a report. Their order is that of the writers' clocks."""
    return name.endswith(".json") and _HINT.fullmatch(name.removesuffix(".json")) is not None


def path_problem(path: object) -> str | None:
    """Return why ``path`` may not name a file inside a version, or ``None`` when it may.

    Paths are relative, '/'-separated, and hold no empty, '.' or '..' segment, no backslash, no control
    character, within the limits of length and depth.
    """
    if not isinstance(path, str) or not path:
        return "must be non-empty text"
    try:
        size_bytes = len(path.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if size_bytes > LIMITS.path_bytes:
        return f"is {size_bytes} bytes long; the limit is {LIMITS.path_bytes}"
    segments = path.split("/")
    if len(segments) > LIMITS.path_depth:
        return f"is {len(segments)} segments deep; the limit is {LIMITS.path_depth}"
    if any(segment in ("", ".", "..") for segment in segments):
        return "must be relative, without empty, '.' or '..' segments"
    if "\\" in path or ":" in segments[0]:
        return "must not hold a backslash or a drive or scheme"
    if any(ord(char) < 32 or ord(char) == 127 for char in path):
        return "must not hold control characters"
    if segments[0] in NOT_PAYLOAD or segments[0].startswith((STAGING_PREFIX, CLAIM_PREFIX)):
        return "is a name that the registry keeps for itself"
    return None
