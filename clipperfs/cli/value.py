"""Types of values on the command line beyond click's own."""

from __future__ import annotations

from typing import Any

import click

from clipperfs.durations import duration_us
from clipperfs.errors import InvalidSetting
from clipperfs.limits import LIMITS


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """A length of time with a unit; a bare number is milliseconds. Converts to seconds, or to microseconds."""

    name = "duration"

    def __init__(self, *, per_second: int = 1) -> None:
        self._us_per_unit = 1_000_000 // per_second

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | int:
        """Return the length in the unit of this type. Raises click.BadParameter."""
        try:
            exact_us = duration_us(value)
        except InvalidSetting as error:
            self.fail(str(error), param, ctx)
        return exact_us if self._us_per_unit == 1 else exact_us / self._us_per_unit


class Text(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """Text that a document can hold: not too long, and of whole characters."""

    name = "text"

    def __init__(self, *, max_chars: int, min_chars: int = 0) -> None:
        self._max_chars = max_chars
        self._min_chars = min_chars

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text. Raises click.BadParameter."""
        text = str(value)
        if len(text) < self._min_chars:
            self.fail("it is empty", param, ctx)
        if len(text) > self._max_chars:
            self.fail(f"{len(text)} characters are more than the limit of {self._max_chars}", param, ctx)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail("it is not valid UTF-8", param, ctx)
        return text


DURATION = Duration()
"""Seconds, as a float."""
DURATION_US = Duration(per_second=1_000_000)
"""Whole microseconds."""
REASON = Text(max_chars=LIMITS.reason_chars)
KIND = Text(max_chars=200, min_chars=1)
OUTPUT = Text(max_chars=32 * 1024)
