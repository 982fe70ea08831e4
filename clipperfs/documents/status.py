"""The other documents: the registry itself, wake-up hints, hook reports and the status of daemons."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clipperfs.documents.base import Document
from clipperfs.documents.record import Verdict

SINGLE_WRITER = "single-writer"
"""The required feature of a registry that lies where nothing creates exclusively (``registry_layout.md`` §10)."""


class RegistryDocument(Document):
    """``registry.json``: created once, exclusively, and never changed."""

    schema_: Literal["clipperfs.registry.v1"] = Field(default="clipperfs.registry.v1", alias="schema")
    registry_id: str = Field(min_length=8, max_length=64)
    created: str
    created_by: str
    store_class: str
    required_features: list[str] = []


class ChangeHint(Document):
    """A file in ``changes/``: something happened to this model or application. Lossy, prunable, never the truth."""

    kind: Literal["model", "app"]
    name: str
    seq: int = Field(ge=1)


class CheckReport(Document):
    """All verdicts of one run of the hooks on one candidate: the evidence that a record refers to."""

    schema_: Literal["clipperfs.report.v1"] = Field(default="clipperfs.report.v1", alias="schema")
    model: str
    version: str
    manifest: str
    active: str | None
    """The version that was active when the hooks ran."""
    base_seq: int
    time: str
    actor: str
    accepted: bool
    verdicts: list[Verdict]


class LoadedVersion(Document):
    """One version as a daemon sees it."""

    version: str
    manifest: str
    state: Literal["loading", "ready", "draining", "failed", "quarantined"]
    replicas_ready: int = 0
    replicas_wanted: int = 0
    reason: str | None = None


class ServedModel(Document):
    """One model as a daemon sees it."""

    applied_seq: int
    active: str | None
    versions: list[LoadedVersion] = []


class ReplicaStatus(Document):
    """``replicas/<replica>.json``: what a daemon has loaded. A hint that expires."""

    schema_: Literal["clipperfs.replica.v1"] = Field(default="clipperfs.replica.v1", alias="schema")
    replica: str
    host: str
    pid: int
    software: str
    time: str
    expires_unix_s: float
    models: dict[str, ServedModel] = {}
