"""What is to be published: a local folder, or a single file, looked at, checked and hashed. Nothing of a registry.

Source: ``registry_layout.md`` §7.2, §7.3 and §8.4 step 1.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from clipperfs import layout
from clipperfs.adopt import new_manifest
from clipperfs.digest import digest_file
from clipperfs.documents import (
    FileEntry,
    Manifest,
    VersionSettings,
    WrapperSettings,
    canonical_bytes,
    parse_author_file,
    parse_document,
)
from clipperfs.documents.base import validation_summary
from clipperfs.errors import InvalidDocument, InvalidSetting, InvalidSource
from clipperfs.limits import LIMITS
from clipperfs.reporter import Reporter


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file that is to be published."""

    path: Path
    name: str
    """Its path inside the version."""
    size_bytes: int
    executable: bool


@dataclass(frozen=True, slots=True)
class Source:
    """A local folder (or single file), looked at but not yet read."""

    root: Path
    files: list[SourceFile]
    settings: VersionSettings

    @property
    def size_bytes(self) -> int:
        """Return the size of all files."""
        return sum(file.size_bytes for file in self.files)


def scan_source(root: str | os.PathLike[str], wrapper: str | None) -> Source:
    """Look at a local folder or file that is to be published.

    Raises:
        InvalidSource: it is absent or empty, or holds a link, a special file, a path that a version may not hold, or
            more than the limits allow.
        InvalidDocument: its ``model.yaml`` is not valid.
    """
    top = Path(root)
    files = _scan(top)
    if not files:
        raise InvalidSource(f"{top} holds no files", hint="give the folder that holds the model's files")
    if len(files) > LIMITS.files:
        raise InvalidSource(f"{top} holds {len(files)} files; the limit is {LIMITS.files}", hint="pack them into fewer")
    for file in files:
        if (problem := layout.path_problem(file.name)) is not None:
            raise InvalidSource(f"{top}: path {file.name!a} {problem}", path=file.name)
    settings = _author_settings(top, files)
    if wrapper is not None:
        settings = settings.model_copy(update={"wrapper": named_wrapper(wrapper)})
    return Source(top, files, settings)


def named_wrapper(kind: str) -> WrapperSettings:
    """Return the settings of a wrapper that is given by its name alone. Raises InvalidSetting."""
    try:
        return WrapperSettings(kind=kind)
    except ValidationError as error:
        raise InvalidSetting(f"wrapper {kind!a}: {validation_summary(error)}", setting="wrapper") from error


def write_manifest(root: str | os.PathLike[str], *, wrapper: str | None, actor: str) -> tuple[Path, Manifest]:
    """Write ``manifest.json`` into a local folder that is to be copied into a registry; an older one is replaced.

    Raises InvalidSource, InvalidDocument.
    """
    source = scan_source(root, wrapper)
    if not source.root.is_dir():
        raise InvalidSource(f"{source.root} is not a folder", hint="a plain copy copies a folder")
    manifest = new_manifest(hash_source(source), source.settings, actor)
    path = source.root / layout.MANIFEST_FILE
    fresh = path.with_name(f"{layout.CLAIM_PREFIX}{secrets.token_hex(8)}")
    fresh.write_bytes(canonical_bytes(manifest))
    os.replace(fresh, path)
    return path, manifest


def hash_source(source: Source, reporter: Reporter | None = None) -> list[FileEntry]:
    """Hash a source's files. Raises InvalidSource when one of them cannot be read."""
    reporter = reporter or Reporter()
    reporter.begin(f"read {source.root.name}", source.size_bytes)
    entries = []
    try:
        for file in source.files:
            try:
                digest, size_bytes = digest_file(file.path, reporter.advance)
            except OSError as error:
                raise InvalidSource(f"cannot read {file.path}: {error.strerror}") from error
            entries.append(FileEntry(path=file.name, size=size_bytes, sha256=digest, executable=file.executable))
    finally:
        reporter.end()
    return sorted(entries, key=lambda entry: entry.path)


def _scan(top: Path) -> list[SourceFile]:
    try:
        found = os.lstat(top)
        if stat.S_ISREG(found.st_mode):
            return [_source_file(top, top.name, found)]
        if not stat.S_ISDIR(found.st_mode):
            found = os.stat(top)  # a link to a folder, as given by the caller, is the caller's to give
        if not stat.S_ISDIR(found.st_mode):
            raise InvalidSource(f"{top} is neither a folder nor a file")
        files = []
        for folder, folders, names in os.walk(top, onerror=_raise):
            for name in [*names, *folders]:
                path = Path(folder, name)
                entry = os.lstat(path)
                inner = path.relative_to(top).as_posix()
                if stat.S_ISDIR(entry.st_mode) or not layout.is_payload(inner):
                    continue
                if not stat.S_ISREG(entry.st_mode):
                    what = "a link" if stat.S_ISLNK(entry.st_mode) else "a special file"
                    raise InvalidSource(
                        f"{path} is {what}; a version holds plain files only",
                        hint="copy what it points to into the folder ('cp -rL' follows links)",
                        path=inner,
                    )
                files.append(_source_file(path, inner, entry))
        return sorted(files, key=lambda file: file.name)
    except OSError as error:
        hint = "check the path" if isinstance(error, FileNotFoundError) else None
        raise InvalidSource(f"cannot read {error.filename or top}: {error.strerror}", hint=hint) from error


def _raise(error: OSError) -> None:
    raise error


def _source_file(path: Path, name: str, found: os.stat_result) -> SourceFile:
    return SourceFile(path, name, found.st_size, bool(found.st_mode & stat.S_IXUSR))


def _author_settings(top: Path, files: list[SourceFile]) -> VersionSettings:
    """Return what ``model.yaml`` says, or else the manifest that 'clipperfs manifest' left in the folder."""
    author = next((file for file in files if file.name == layout.AUTHOR_FILE), None)
    if author is not None:
        return parse_author_file(author.path.read_bytes()).settings()
    try:
        data = (top / layout.MANIFEST_FILE).read_bytes()
    except OSError:
        return VersionSettings()
    try:
        return parse_document(Manifest, data, limit_bytes=LIMITS.manifest_bytes).settings
    except InvalidDocument as error:
        raise InvalidSource(f"{top / layout.MANIFEST_FILE}: {error.message}", hint="delete it") from error
