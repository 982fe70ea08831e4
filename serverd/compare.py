"""Whether a shadow's output says the same as the active version's. Pure."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from .counters import VersionCounter

RELATIVE: Final = 1e-6
"""Numbers that differ by less than this part of the larger one count as equal: frameworks sum in another order."""
PARSED_BYTES: Final = 64 * 1024
"""Longer outputs are compared byte by byte only, by a digest: parsing them would hold up other queries."""


class Comparison:
    """Waits for two outputs of one input and counts whether they agree. Holds at most ``PARSED_BYTES``."""

    __slots__ = ("_counter", "_first")

    def __init__(self, counter: VersionCounter) -> None:
        """``counter`` is the candidate's."""
        self._counter = counter
        self._first: bytes | None = None

    def take(self, output: bytes) -> None:
        """Take one of the two outputs, in whichever order they come."""
        mine = output if len(output) <= PARSED_BYTES else hashlib.sha256(output).digest()
        if self._first is None:
            self._first = mine
        elif do_outputs_agree(self._first, mine):
            self._counter.agree += 1
        else:
            self._counter.differ += 1


def do_outputs_agree(one: bytes, other: bytes) -> bool:
    """Return whether two outputs are the same bytes, or JSON that differs in nothing but the last digits of numbers."""
    if one == other:
        return True
    try:
        return _is_same(msgspec.json.decode(one), msgspec.json.decode(other))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= RELATIVE * max(abs(one), abs(other))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(value, other[name]) for name, value in one.items())
    return bool(one == other)
