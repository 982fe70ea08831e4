"""What the wrappers share: finding their file inside the version, and refusing what they must not do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from clipperfs.errors import LoadFailed
from clipperfs.layout import path_problem
from clipperfs.wrapper import LoadContext

_NAMES_SHOWN = 8


def check_options(context: LoadContext, kind: str, known: Collection[str]) -> None:
    """Raise LoadFailed when ``model.yaml`` gives the wrapper an option that it does not have."""
    for name in context.options:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise LoadFailed(f"the wrapper {kind} has no option {name!r}", hint=f"its options: {listed}")


def choose(context: LoadContext, kind: str, option: str, choices: Sequence[str]) -> str:
    """Return the value of an option that has a few possible ones; the first is the default. Raises LoadFailed."""
    value = context.options.get(option, choices[0])
    if value not in choices:
        raise LoadFailed(f"{kind}: option {option} is {value!r}", hint=f"it is one of {', '.join(choices)}")
    return str(value)


def find_file(context: LoadContext, kind: str, defaults: Sequence[str]) -> Path:
    """Return the version's file named by the option ``file``, or else the first of ``defaults`` that is there.

    Raises:
        LoadFailed: there is none, or the name leads out of the version.
    """
    named = context.options.get("file")
    names = defaults if named is None else [named]
    for name in names:
        path = inside(context, kind, "file", name)
        if path.is_file():
            return path
    hint = f"it holds {_listing(context.path)}; name the file by the option file"
    raise LoadFailed(f"{kind}: version {context.version} of {context.model} has no {' or '.join(names)}", hint=hint)


def inside(context: LoadContext, kind: str, option: str, name: Any) -> Path:
    """Return the local path of a file of the version, whether or not it is there. Raises LoadFailed when outside."""
    problem = path_problem(name)
    if problem is None and not (context.path / name).resolve().is_relative_to(context.path.resolve()):
        problem = "leads out of the version"
    if problem is not None:
        raise LoadFailed(f"{kind}: option {option} {name!r} {problem}", hint="name a file of the version")
    return context.path / str(name)


def require_code(context: LoadContext, what: str) -> None:
    """Raise LoadFailed unless the model's policy lets its versions run code of their own."""
    if not context.allow_code:
        raise LoadFailed(
            f"{what} runs code that comes with the version, which the policy of {context.model} does not allow",
            hint=f"clipperfs policy {context.model} allow_code=true",
        )


def _listing(folder: Path) -> str:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return (", ".join(names[:_NAMES_SHOWN]) or "no file") + more
