"""The limits of the format, in one place, with their units (``registry_layout.md`` §6)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What a reader accepts and a writer produces. A reader refuses more; it never truncates."""

    record_bytes: int = 64 * 1024
    registry_bytes: int = 64 * 1024
    manifest_bytes: int = 16 * 1024 * 1024
    author_bytes: int = 1024 * 1024
    report_bytes: int = 4 * 1024 * 1024
    status_bytes: int = 4 * 1024 * 1024
    hint_bytes: int = 4 * 1024
    probe_bytes: int = 1024 * 1024
    signature_bytes: int = 64 * 1024
    files: int = 10_000
    path_bytes: int = 512
    path_depth: int = 16
    file_bytes: int = 1 << 42
    reason_chars: int = 1000
    document_depth: int = 64
    seq: int = (1 << 53) - 1
    """The largest integer that every JSON reader keeps exactly."""


LIMITS = Limits()
