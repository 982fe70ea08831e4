"""Where two outputs differ, with a tolerance for numbers at any depth. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def differences(
    expected: Any, found: Any, *, tolerance: float, relative_tolerance: float, where: str = "output"
) -> Iterator[str]:
    """Yield a sentence for each place where ``found`` is not ``expected``.

    Numbers are equal when they differ by no more than ``tolerance`` or by ``relative_tolerance`` times the expected
    one. A truth value is not a number; text is compared exactly, and so are keys and lengths.
    """
    limits = {"tolerance": tolerance, "relative_tolerance": relative_tolerance}
    if _is_number(expected) and _is_number(found):
        if not _is_close(expected, found, tolerance, relative_tolerance):
            yield f"{where}: expected {expected}, got {found}"
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{where}: expected {len(expected)} elements, got {len(found)}"
            return
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from differences(one, other, where=f"{where}[{index}]", **limits)
    elif isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            if key not in found:
                yield f"{where}: key {key!r} is missing"
            elif key not in expected:
                yield f"{where}: unexpected key {key!r}"
            else:
                yield from differences(expected[key], found[key], where=f"{where}.{key}", **limits)
    elif type(expected) is not type(found) or expected != found:
        yield f"{where}: expected {_short(expected)}, got {_short(found)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_close(expected: float, found: float, tolerance: float, relative_tolerance: float) -> bool:
    if expected == found:
        return True
    try:
        return math.fabs(expected - found) <= max(tolerance, relative_tolerance * math.fabs(expected))
    except OverflowError:  # an integer beyond the range of floats
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
