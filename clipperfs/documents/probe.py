"""The report of a race probe: what a filesystem did when many writers wanted the same name."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clipperfs.documents.base import Document


class ProbeCheck(Document):
    """One thing that was looked at, and what was seen."""

    name: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str = ""


class ProbeLatency(Document):
    """How long one kind of call took, in milliseconds."""

    calls: int = Field(ge=1)
    p50_ms: float
    p99_ms: float


class ProbeReport(Document):
    """``probe/<unix ms>-<random>.json``: a measurement of one host at one moment, kept as evidence."""

    schema_: Literal["clipperfs.probe.v1"] = Field(default="clipperfs.probe.v1", alias="schema")
    store_class: str
    plan: Literal["full", "quick"]
    software: str
    host: str
    actor: str
    time: str
    duration_s: float
    processes: int = Field(ge=1)
    rounds: int = Field(ge=0)
    """Rounds that were finished."""
    winners: dict[str, int]
    """Number of writers who were told that they had won → number of such rounds."""
    exclusive: bool
    """Every round had one winner, the winner's bytes stayed, and no reader saw anything else."""
    checks: list[ProbeCheck]
    errors: dict[str, int] = {}
    """Class of an error that a call raised → how often."""
    latency: dict[str, ProbeLatency] = {}
