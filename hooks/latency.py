"""``latency``: a batch takes no longer than its budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pydantic import Field, model_validator

from clipperfs.checking.options import Options, parse_options
from clipperfs.documents import Verdict
from clipperfs.hook import HookContext


class LatencyOptions(Options):
    """Options of ``latency``: at least one budget, in milliseconds for one batch."""

    p50_ms: float | None = Field(default=None, gt=0)
    p99_ms: float | None = Field(default=None, gt=0)
    mean_ms: float | None = Field(default=None, gt=0)
    batch: int = Field(default=1, ge=1, le=65536)
    """Inputs in a batch; the sample is repeated to fill it."""
    repeats: int = Field(default=50, ge=1, le=100_000)
    warm_up: int = Field(default=5, ge=0, le=100_000)
    """Batches before those that count."""

    @model_validator(mode="after")
    def _has_budget(self) -> LatencyOptions:
        if self.p50_ms is None and self.p99_ms is None and self.mean_ms is None:
            raise ValueError("at least one of p50_ms, p99_ms and mean_ms is needed")
        return self


class Latency:
    """Times the wrapper on batches made of the sample, in the wrapper's own process and without transport.

    It measures on the host that activates, with whatever else that host does: leave room in the budget.
    """

    name = "latency"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = parse_options(LatencyOptions, self.name, options)

    def check(self, context: HookContext) -> Verdict:
        """Predict repeatedly and compare with the budgets."""
        sample = context.candidate.sample()
        if sample is None:
            return Verdict(
                hook=self.name,
                outcome="error",
                reason="There is nothing to time: the version has no sample.",
                next_step="give 'sample' in model.yaml",
            )
        options = self.options
        inputs = [sample[index % len(sample)] for index in range(options.batch)]
        for _ in range(options.warm_up):
            context.candidate.predict_timed(inputs)
        times_ms = sorted(context.candidate.predict_timed(inputs)[1] for _ in range(options.repeats))
        measured = {
            "p50_ms": percentile(times_ms, 50),
            "p99_ms": percentile(times_ms, 99),
            "mean_ms": fmean(times_ms),
        }
        measures = {
            **{name: round(value, 3) for name, value in measured.items()},
            "max_ms": round(times_ms[-1], 3),
            "batch": options.batch,
            "repeats": options.repeats,
        }
        budgets = {name: budget for name in measured if (budget := getattr(options, name)) is not None}
        over = [
            f"{name.removesuffix('_ms')} is {measured[name]:.3g} ms, the budget is {budget:g} ms"
            for name, budget in budgets.items()
            if measured[name] > budget
        ]
        what = f"over {options.repeats} batches of {options.batch}"
        if over:
            return Verdict(
                hook=self.name,
                outcome="refused",
                reason=f"Too slow {what}: {'; '.join(over)}.",
                next_step="make the version faster or the budget larger; if this host was busy, activate again",
                measures=measures,
            )
        kept = ", ".join(
            f"{name.removesuffix('_ms')} {measured[name]:.3g} of {budget:g} ms" for name, budget in budgets.items()
        )
        return Verdict(hook=self.name, outcome="passed", reason=f"Within budget {what}: {kept}.", measures=measures)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of ``ordered`` (ascending, not empty): the smallest value that has at least
    ``percent`` per cent of all values at or below it."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
