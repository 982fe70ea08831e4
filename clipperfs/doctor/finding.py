"""What the doctor says of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "unsafe"]

LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "unsafe")
"""From the best to the worst. A note is worth knowing; a warning matters; unsafe can lose history."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    level: Level
    message: str
    next_step: str | None = None


def worst(findings: list[Finding]) -> Level:
    """Return the worst level of some findings."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")
