"""``noop``: no model at all; answers a constant, after a delay if asked. For benchmarks, drills and tests."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from clipperfs.wrapper import BytesAs, Inputs, LoadContext

from .version_file import check_options


class Noop:
    """Answers every input with the option ``output`` (default ``"0"``).

    Options: ``output`` (any JSON value), ``delay_ms`` (a batch takes this long), ``per_input_ms`` (and this much more
    for each input), ``load_s`` (loading takes this long).
    """

    bytes_as: ClassVar[BytesAs] = "int8"

    def load(self, context: LoadContext) -> None:
        """Read the options."""
        check_options(context, "noop", {"output", "delay_ms", "per_input_ms", "load_s"})
        self._output: Any = context.options.get("output", "0")
        self._delay_s = float(context.options.get("delay_ms", 0)) / 1000
        self._per_input_s = float(context.options.get("per_input_ms", 0)) / 1000
        time.sleep(float(context.options.get("load_s", 0)))

    def predict(self, inputs: Inputs) -> list[Any]:
        """Return the constant once for each input."""
        count = len(inputs)
        pause_s = self._delay_s + self._per_input_s * count
        if pause_s > 0:
            time.sleep(pause_s)
        return [self._output] * count
