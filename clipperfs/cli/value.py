"""Types of values on the command line beyond click's own."""

from __future__ import annotations

from typing import Any

import click

from clipperfs.durations import duration_us
from clipperfs.errors import InvalidSetting


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


DURATION = Duration()
"""Seconds, as a float."""
DURATION_US = Duration(per_second=1_000_000)
"""Whole microseconds."""
