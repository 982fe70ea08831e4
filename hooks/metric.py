"""How good outputs are against labels: accuracy, mean absolute error, root mean squared error. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["accuracy", "mae", "rmse"]


class NotMeasurable(Exception):
    """The outputs or labels do not fit the metric; the message says which and why."""


def is_better_high(metric: Metric) -> bool:
    """Say whether more is better."""
    return metric == "accuracy"


def measure(metric: Metric, outputs: Sequence[Any], labels: Sequence[Any]) -> float:
    """Return the metric of ``outputs`` against ``labels``, which are equally many and not none.

    An output that is a list of one stands for its element. Text that is a JSON number equals that number, since the
    outputs of wrappers that answer in text have gone through the same rule.

    Raises:
        NotMeasurable: an output is not a single label (accuracy), or not finite numbers shaped like the label.
    """
    if metric == "accuracy":
        pairs = zip(_labels(outputs, "output"), _labels(labels, "label"), strict=True)
        return sum(bool(output == label) for output, label in pairs) / len(labels)
    numbers = _numbers(outputs, "output")
    errors = numbers - _numbers(labels, "label", like=numbers)
    if metric == "mae":
        return float(np.mean(np.abs(errors)))
    return float(np.sqrt(np.mean(np.square(errors))))


def _labels(values: Sequence[Any], noun: str) -> list[Any]:
    return [_label(value, noun, row) for row, value in enumerate(values)]


def _label(value: Any, noun: str, row: int) -> Any:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return value if isinstance(parsed, list | dict) else parsed
    if isinstance(value, list | dict):
        what = f"a list of {len(value)}" if isinstance(value, list) else "an object"
        raise NotMeasurable(f"accuracy compares one label a row, but the {noun} of row {row} is {what}")
    return value


def _numbers(values: Sequence[Any], noun: str, like: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Return ``values`` as one array of floats with a row for each. Raises NotMeasurable."""
    for row, value in enumerate(values):
        if isinstance(value, bool | dict | str) or value is None:
            raise NotMeasurable(f"the {noun} of row {row} is not a number but {str(value)[:60]!r}")
    try:
        array = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    except (ValueError, TypeError) as error:
        raise NotMeasurable(f"the {noun}s are not numbers, or not equally many in each row") from error
    if not np.isfinite(array).all():
        raise NotMeasurable(f"the {noun} of row {int(np.argmin(np.isfinite(array).all(axis=1)))} is not finite")
    if like is not None and like.shape != array.shape:
        raise NotMeasurable(f"an output has {like.shape[1]} numbers, its label has {array.shape[1]}")
    return array
