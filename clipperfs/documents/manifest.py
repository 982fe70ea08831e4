"""``manifest.json``, the list of everything a version holds, and the tombstone that outlives its payload."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from clipperfs.digest import is_digest
from clipperfs.documents.author import VersionSettings
from clipperfs.documents.base import Document
from clipperfs.layout import path_problem
from clipperfs.limits import LIMITS


class FileEntry(Document):
    """One payload file."""

    path: str
    size: int = Field(ge=0, le=LIMITS.file_bytes)
    """In bytes."""
    sha256: str
    executable: bool = False

    @field_validator("path")
    @classmethod
    def _path_is_inside(cls, value: str) -> str:
        if (problem := path_problem(value)) is not None:
            raise ValueError(f"path {value!r} {problem}")
        return value

    @field_validator("sha256")
    @classmethod
    def _is_digest(cls, value: str) -> str:
        return checked_digest(value)


class Manifest(Document):
    """The complete list of a version's files, and what its author says about serving it."""

    schema_: Literal["clipperfs.manifest.v1"] = Field(default="clipperfs.manifest.v1", alias="schema")
    created: str
    created_by: str
    files: list[FileEntry] = Field(min_length=1, max_length=LIMITS.files)
    settings: VersionSettings = VersionSettings()

    @model_validator(mode="after")
    def _paths_are_distinct(self) -> Manifest:
        paths = {entry.path for entry in self.files}
        if len(paths) != len(self.files):
            raise ValueError("a path is listed twice")
        folders = {path[:at] for path in paths for at, char in enumerate(path) if char == "/"}
        if folders & paths:
            raise ValueError(f"{min(folders & paths)!r} is both a file and a folder")
        if len({path.lower() for path in paths}) != len(paths):
            raise ValueError("two paths differ only in case")
        return self

    @property
    def size_bytes(self) -> int:
        """Return the size of the payload."""
        return sum(entry.size for entry in self.files)


class Tombstone(Document):
    """What stays beside a manifest whose payload has been deleted."""

    schema_: Literal["clipperfs.tombstone.v1"] = Field(default="clipperfs.tombstone.v1", alias="schema")
    model: str
    version: str
    manifest: str | None
    time: str
    actor: str
    reason: str | None = None


def checked_digest(value: str) -> str:
    """Return ``value`` if it is a SHA-256 in hexadecimal; raise ValueError otherwise."""
    if not is_digest(value):
        raise ValueError("must be a SHA-256 in 64 lower-case hexadecimal characters")
    return value
