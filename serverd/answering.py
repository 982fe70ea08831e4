"""Which version answers under which name, and what has changed in that."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipperfs.serverd.fleet import Fleet

Answering = Mapping[tuple[str, str], str]
"""Version by model and name; the empty name is that of the active version."""


def answering_versions(fleet: Fleet) -> dict[tuple[str, str], str]:
    """Return the version under each name."""
    return {at: fleet.holdings[key].version for at, key in fleet.serving.items() if key in fleet.holdings}


def served_versions(fleet: Fleet) -> dict[str, set[str]]:
    """Return by model the versions that answer queries now."""
    found: dict[str, set[str]] = {}
    for (model, _), key in fleet.serving.items():
        one = fleet.holdings.get(key)
        if one is not None and one.ready:
            found.setdefault(model, set()).add(one.version)
    return found


def describe_changes(before: Answering, after: Answering, models: Collection[str]) -> list[dict[str, Any]]:
    """Return what answers differently in some models, as plain data. Pure."""
    return [
        {"model": model, "alias": alias or None, "from": before.get((model, alias)), "to": after.get((model, alias))}
        for model, alias in sorted({*before, *after})
        if model in models and before.get((model, alias)) != after.get((model, alias))
    ]
