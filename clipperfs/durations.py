"""Lengths of time as people write them: ``100ms``, ``2s``, ``1.5s``; a bare number is milliseconds. Pure."""

from __future__ import annotations

import re
from decimal import Decimal

from clipperfs.errors import InvalidSetting

_UNITS_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_GRAMMAR = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s?([a-z]*)", re.ASCII | re.IGNORECASE)


def duration_us(value: str | int | float) -> int:
    """Return a length of time in whole microseconds.

    Args:
        value: a number and a unit (``us``, ``ms``, ``s``, ``m``, ``h`` or ``d``); without a unit: milliseconds.

    Raises:
        InvalidSetting: no such length, a negative one, or one finer than a microsecond.
    """
    text = str(value).strip()
    match = _GRAMMAR.fullmatch(text)
    unit = (match[2].lower() or "ms") if match else ""
    if match is None or unit not in _UNITS_US:
        raise InvalidSetting(
            f"{text[:40]!r} is not a length of time",
            hint="write a number and a unit, such as 100ms, 2s, 1.5s or 5m; a bare number is milliseconds",
        )
    exact = Decimal(match[1]) * _UNITS_US[unit]
    if exact != int(exact):
        raise InvalidSetting(f"{text!r} is finer than a microsecond", hint="write whole microseconds, such as 250us")
    return int(exact)


def duration_s(value: str | int | float) -> float:
    """Return a length of time in seconds. Takes and raises what :func:`duration_us` does."""
    return duration_us(value) / 1_000_000


def format_duration(value_us: int) -> str:
    """Return the shortest exact spelling of a length of time in microseconds, as :func:`duration_us` reads it."""
    if value_us >= 1_000_000 and value_us % 1_000 == 0:
        return f"{Decimal(value_us) / 1_000_000:f}s".replace(".000s", "s")
    if value_us >= 1_000 or value_us == 0:
        return f"{Decimal(value_us) / 1_000:f}ms".replace(".000ms", "ms")
    return f"{value_us}us"
