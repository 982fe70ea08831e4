"""``class_recall``: of each class's held-out rows, the candidate recognises at least a given share.

A model can be right on 95 % of all rows and still never recognise a rare class. In ``model.yaml`` or in a policy:

    hooks:
      - class_recall: {floor: 0.8}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipperfs.documents import Verdict
from clipperfs.errors import DamagedVersion, InvalidSetting
from clipperfs.hook import HookContext

BATCH = 256


class ClassRecall:
    """Predicts the held-out rows and compares the recall of every class with a floor.

    Options:
        floor: the least share of a class's rows that is enough, from 0 to 1. Required.
        rows: the ``.npz`` file of the version with arrays ``x`` and ``y``; ``holdout.npz`` by default.
    """

    name = "class_recall"

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Read the options. Raises InvalidSetting, which names the wrong one: a typo must not switch a check off."""
        unknown = sorted(options.keys() - {"floor", "rows"})
        if unknown:
            raise InvalidSetting(
                f"hook {self.name}: there is no option {unknown[0]!r}", hint="its options: floor, rows, timeout_s"
            )
        floor = options.get("floor")
        if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor <= 1:
            raise InvalidSetting(f"hook {self.name}: option floor is {floor!r}", hint="a number from 0 to 1")
        rows = options.get("rows", "holdout.npz")
        if not isinstance(rows, str) or rows.startswith("/") or ".." in rows.split("/"):
            raise InvalidSetting(f"hook {self.name}: option rows is {rows!r}", hint="a file of the version")
        self.floor, self.rows = floor, rows

    def check(self, context: HookContext) -> Verdict:
        """Measure. Whatever is raised here counts as a refusal too: a check that did not run has not passed."""
        candidate = context.candidate
        inputs, labels = self._read(context)
        # The wrapper runs in a process of its own; inputs and outputs are what clients send and get.
        outputs = [
            output for at in range(0, len(inputs), BATCH) for output in candidate.predict(inputs[at : at + BATCH])
        ]
        recalls = {
            str(label): float(np.mean([outputs[row] == label for row in np.flatnonzero(labels == label)]))
            for label in np.unique(labels).tolist()
        }
        worst = min(recalls, key=recalls.__getitem__)
        measures = {"rows": len(labels), "recall": {label: round(value, 4) for label, value in recalls.items()}}
        if recalls[worst] >= self.floor or math.isclose(recalls[worst], self.floor):
            return Verdict(
                hook=self.name,
                outcome="passed",
                reason=f"Each of {len(recalls)} classes is recognised often enough; the worst is {worst!r} with "
                f"{recalls[worst]:.3f}, the floor is {self.floor:g}.",
                measures=measures,
            )
        below = ", ".join(f"{label!r} ({value:.3f})" for label, value in recalls.items() if value < self.floor)
        return Verdict(
            hook=self.name,
            outcome="refused",
            reason=f"Recognised too rarely, below the floor of {self.floor:g}: {below}.",
            next_step=f"give training more rows of class {worst!r}, or weigh them more",
            measures=measures,
        )

    def _read(self, context: HookContext) -> tuple[list[Any], np.ndarray[Any, Any]]:
        path = context.candidate.path / self.rows
        if not path.is_file():
            raise DamagedVersion(
                f"hook {self.name}: the version holds no {self.rows}", hint="numpy.savez(…, x=rows, y=labels)"
            )
        with np.load(path, allow_pickle=False) as arrays:  # never unpickle what a version brings
            return arrays["x"].tolist(), arrays["y"]
