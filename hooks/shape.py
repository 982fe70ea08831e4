"""The shape of an output as a client sees it, and whether one shape can stand for another. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SPECIAL_FLOATS = ("NaN", "Infinity", "-Infinity")
"""How numbers without a JSON spelling are written."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The kind of an output; for lists the length and what the elements share; for objects what each key holds."""

    kind: str
    """``text``, ``number``, ``bool``, ``null``, ``list``, ``object``, or ``any`` where outputs differ."""
    length: int | None = None
    """Of a list; ``None`` where lengths differ."""
    element: Shape | None = None
    """Of a list that is not empty."""
    keys: dict[str, Shape] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.kind == "list":
            of = f" of {self.element}" if self.element is not None else ""
            return f"list{of}" if self.length is None else f"list({self.length}){of}"
        if self.kind == "object":
            return "object with " + ", ".join(f"{key}: {shape}" for key, shape in sorted(self.keys.items()))
        return self.kind


ANY = Shape("any")


def shape_of(value: Any) -> Shape:
    """Return the shape of one output."""
    if value is None:
        return Shape("null")
    if isinstance(value, bool):
        return Shape("bool")
    if isinstance(value, int | float) or value in SPECIAL_FLOATS:
        return Shape("number")
    if isinstance(value, list):
        return Shape("list", len(value), common_shape(value) if value else None)
    if isinstance(value, dict):
        return Shape("object", keys={key: shape_of(item) for key, item in value.items()})
    return Shape("text")


def common_shape(values: Sequence[Any]) -> Shape:
    """Return the shape that all of ``values`` (at least one) share; where they differ, it says ``any``."""
    shape = shape_of(values[0])
    for value in values[1:]:
        shape = _merge(shape, shape_of(value))
    return shape


def mismatch(old: Shape, new: Shape, where: str = "output") -> str | None:
    """Return how ``new`` would surprise a client that knows ``old``, or ``None`` when it would not.

    Keys may be added to an object, never taken away. Where the old outputs differed among themselves, anything goes.
    """
    if old.kind == "any":
        return None
    if old.kind != new.kind:
        return f"{where} was {old} and is {new}"
    if old.kind == "list":
        if old.length is not None and old.length != new.length:
            return f"{where} was {old} and is {new}"
        if old.element is not None and new.element is not None:
            return mismatch(old.element, new.element, f"{where}[]")
    for key, shape in old.keys.items():
        if key not in new.keys:
            return f"{where} has lost its key {key!r}"
        if (problem := mismatch(shape, new.keys[key], f"{where}.{key}")) is not None:
            return problem
    return None


def _merge(one: Shape, other: Shape) -> Shape:
    if one == other:
        return one
    if one.kind != other.kind:
        return ANY
    if one.kind == "list":
        elements = [element for element in (one.element, other.element) if element is not None]
        element = _merge(elements[0], elements[-1]) if elements else None
        return Shape("list", one.length if one.length == other.length else None, element)
    shared = {key: _merge(one.keys[key], other.keys[key]) for key in one.keys if key in other.keys}
    return Shape("object", keys=shared)
