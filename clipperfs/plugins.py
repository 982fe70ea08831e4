"""Wrappers and hooks by name: entry points of installed distributions."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from clipperfs.errors import InvalidSetting, LoadFailed

Group = Literal["clipperfs.wrappers", "clipperfs.hooks"]


@cache
def _catalogue(group: Group) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def plugin_names(group: Group) -> list[str]:
    """Return the names that are installed in a group, sorted."""
    return sorted(_catalogue(group))


def require_plugin(group: Group, name: str) -> EntryPoint:
    """Return the entry point called ``name`` without importing it. Raises InvalidSetting."""
    point = _catalogue(group).get(name)
    if point is None:
        noun = group.rpartition(".")[2].rstrip("s")
        raise InvalidSetting(
            f"no {noun} is called {name!r}",
            hint=f"installed: {', '.join(plugin_names(group))}; distributions add more by entry points in {group}",
        )
    return point


def load_plugin(group: Group, name: str) -> Any:
    """Import and return what the entry point called ``name`` points to.

    Raises:
        InvalidSetting: no such name is installed.
        LoadFailed: importing it failed.
    """
    point = require_plugin(group, name)
    try:
        return point.load()
    except Exception as error:
        raise LoadFailed(
            f"{group.rpartition('.')[2]} entry point {name!r} ({point.value}) cannot be imported: {error}"
        ) from error
