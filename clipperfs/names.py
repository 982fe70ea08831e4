"""The grammar of names: models, versions, applications and aliases (``registry_layout.md`` §5)."""

from __future__ import annotations

import re
from typing import NewType

from clipperfs.errors import InvalidName

ModelName = NewType("ModelName", str)
VersionName = NewType("VersionName", str)
AppName = NewType("AppName", str)
AliasName = NewType("AliasName", str)

MAX_NAME_CHARS = 63

_GRAMMAR = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?", re.ASCII)
_DEVICES = frozenset(["con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10))])


def name_problem(name: object) -> str | None:
    """Return why ``name`` is not a valid name, or ``None`` when it is one.

    A deny-list of path tricks has failed in every neighbour that tried one, so this is an allow-list; the two rules
    behind it (no ``..``, no device name) close what the character set alone would let through.
    """
    if not isinstance(name, str):
        return f"must be text, not {type(name).__name__}"
    if not name:
        return "must not be empty"
    if len(name) > MAX_NAME_CHARS:
        return f"is {len(name)} characters long; the limit is {MAX_NAME_CHARS}"
    if _GRAMMAR.fullmatch(name) is None:
        return "may hold only a-z, 0-9, '.', '_' and '-', and must begin and end with a letter or a digit"
    if ".." in name:
        return "must not hold '..'"
    if name.partition(".")[0] in _DEVICES:
        return "is a device name on some systems"
    return None


def _checked(name: object, noun: str) -> str:
    problem = name_problem(name)
    if problem is not None:
        shown = ascii(name) if len(ascii(name)) <= 80 else ascii(name)[:77] + "..."
        raise InvalidName(f"{noun} name {shown} {problem}", hint="for example: digits, fraud-eu, 1.0.3", name=shown)
    assert isinstance(name, str)
    return name


def model_name(name: object) -> ModelName:
    """Return ``name`` as a model name. Raises InvalidName."""
    return ModelName(_checked(name, "model"))


def version_name(name: object) -> VersionName:
    """Return ``name`` as a version name (free text: ``1``, ``1.0.3``, a git hash). Raises InvalidName."""
    return VersionName(_checked(name, "version"))


def app_name(name: object) -> AppName:
    """Return ``name`` as an application name. Raises InvalidName."""
    return AppName(_checked(name, "application"))


def alias_name(name: object) -> AliasName:
    """Return ``name`` as an alias name. Raises InvalidName."""
    return AliasName(_checked(name, "alias"))


def publisher_name(name: object) -> str:
    """Return ``name`` as a publisher's name. Raises InvalidName."""
    return _checked(name, "publisher")


def replica_name(name: object) -> str:
    """Return ``name`` as the name of a daemon. Raises InvalidName."""
    return _checked(name, "replica")


def split_reference(text: str) -> tuple[ModelName, VersionName | None]:
    """Split ``MODEL`` or ``MODEL/VERSION`` as typed on a command line. Raises InvalidName."""
    model, slash, version = text.partition("/")
    return model_name(model), version_name(version) if slash else None
