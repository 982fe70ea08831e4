"""``quality``: a metric on held-out rows reaches a floor, or is at most delta worse than the active version's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from clipperfs.checking.options import Options, parse_options
from clipperfs.documents import Verdict
from clipperfs.errors import ClipperfsError, DamagedVersion, InvalidSetting
from clipperfs.hook import HookContext, Subject
from clipperfs.layout import path_problem

from .metric import Metric, NotMeasurable, is_better_high, measure
from .rows import DEFAULT_FILES, Rows, local_rows, read_rows

ROUNDING = 1e-12
"""So that 0.97 − 0.02 does not refuse 0.95."""


class QualityOptions(Options):
    """Options of ``quality``: at least one of ``floor``, ``ceiling`` and ``delta``."""

    metric: Metric = "accuracy"
    floor: float | None = None
    """The least accuracy that is enough."""
    ceiling: float | None = Field(default=None, ge=0)
    """The largest error that is small enough."""
    delta: float | None = Field(default=None, ge=0)
    """How much worse than the active version, on the same rows, is still good enough."""
    rows: str | None = None
    """A file of the version; by default ``holdout.npz`` or ``holdout.json``."""
    rows_url: str | None = None
    """Rows outside the version, as an absolute path or ``file://`` URL. Only a policy may name them."""
    batch: int = Field(default=256, ge=1, le=65536)

    @field_validator("rows")
    @classmethod
    def _rows_inside(cls, value: str | None) -> str | None:
        if value is not None and (problem := path_problem(value)) is not None:
            raise ValueError(f"path {value!r} {problem}")
        return value

    @model_validator(mode="after")
    def _has_bound(self) -> QualityOptions:
        if self.floor is None and self.ceiling is None and self.delta is None:
            raise ValueError("at least one of floor, ceiling and delta is needed")
        if is_better_high(self.metric) and self.ceiling is not None:
            raise ValueError(f"ceiling is for errors; for {self.metric} give floor")
        if not is_better_high(self.metric) and self.floor is not None:
            raise ValueError(f"floor is for accuracy; for {self.metric} give ceiling")
        if self.rows is not None and self.rows_url is not None:
            raise ValueError("rows and rows_url exclude each other")
        return self


class Quality:
    """Predicts held-out rows with the candidate and, for ``delta``, with the active version too."""

    name = "quality"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = parse_options(QualityOptions, self.name, options)

    def check(self, context: HookContext) -> Verdict:
        """Measure and compare."""
        metric, rows = self.options.metric, self._rows(context)
        measures: dict[str, Any] = {"rows": len(rows.labels), "rows_sha256": rows.sha256, "rows_source": rows.source}
        try:
            value = self._measure(context.candidate, rows)
        except NotMeasurable as error:
            return self._verdict(
                "refused",
                f"Its {metric} on {rows.source} cannot be measured: {error}.",
                measures,
                "make outputs and labels comparable, or choose another metric",
            )
        measures[f"candidate_{metric}"] = value
        reference = None
        if self.options.delta is not None and context.active is not None:
            active = context.active
            try:
                reference = self._measure(active, rows)
            except (NotMeasurable, ClipperfsError) as error:
                return self._verdict(
                    "error",
                    f"Its {metric} is {value:.6g}, but that of the active version {active.version} cannot be measured "
                    f"on {rows.source}, so delta cannot be judged: {error}",
                    measures,
                    "mend the active version or roll back; or judge by floor or ceiling alone",
                )
            measures[f"active_{metric}"] = reference
        said, refusals = self._judge(value, reference, measures)
        if refusals:
            return self._verdict(
                "refused",
                f"Not good enough on {len(rows.labels)} rows of {rows.source}: {'; '.join(refusals)}.",
                measures,
                f"train a better version; the bounds are options of quality in the policy of {context.candidate.model} "
                "or in model.yaml",
            )
        where = f"on {len(rows.labels)} rows of {rows.source}"
        return self._verdict("passed", f"Good enough {where}: {'; '.join(said)}.", measures, None)

    def _judge(self, value: float, reference: float | None, measures: dict[str, Any]) -> tuple[list[str], list[str]]:
        """Return what holds and what does not; add the bounds to ``measures``."""
        metric, delta = self.options.metric, self.options.delta
        said: list[str] = []
        refusals: list[str] = []
        noun, bound = ("floor", self.options.floor) if is_better_high(metric) else ("ceiling", self.options.ceiling)
        if bound is not None:
            measures[noun] = bound
            (refusals if self._is_worse(value, bound) else said).append(
                f"{metric} is {value:.6g}, the {noun} is {bound:g}"
            )
        if delta is not None:
            measures["delta"] = delta
            if reference is None:
                said.append(f"{metric} is {value:.6g}, and no version is active yet to compare with")
            else:
                is_worse = self._is_worse(value, reference - delta if is_better_high(metric) else reference + delta)
                (refusals if is_worse else said).append(
                    f"{metric} is {value:.6g}, that of the active version {reference:.6g}, delta {delta:g}"
                )
        return said, refusals

    def _rows(self, context: HookContext) -> Rows:
        if self.options.rows_url is not None:
            if not context.from_policy:
                raise InvalidSetting(
                    "hook quality: option rows_url may only be used by the model's policy, not by a version itself",
                    hint="ship the rows with the version and name them with 'rows'",
                )
            return read_rows(*local_rows(self.options.rows_url), source=self.options.rows_url)
        listed = {entry.path for entry in context.candidate.manifest.files}
        wanted = DEFAULT_FILES if self.options.rows is None else (self.options.rows,)
        name = next((name for name in wanted if name in listed), None)
        if name is None:
            raise DamagedVersion(
                f"the version has no {' or '.join(wanted)} with held-out rows",
                hint="save them with numpy.savez('holdout.npz', x=…, y=…), or name them with 'rows' or 'rows_url'",
            )
        return read_rows(context.candidate.path, name, name)

    def _measure(self, subject: Subject, rows: Rows) -> float:
        outputs: list[Any] = []
        for start in range(0, len(rows.inputs), self.options.batch):
            outputs += subject.predict(rows.inputs[start : start + self.options.batch])
        return measure(self.options.metric, outputs, rows.labels)

    def _is_worse(self, value: float, bound: float) -> bool:
        return value < bound - ROUNDING if is_better_high(self.options.metric) else value > bound + ROUNDING

    def _verdict(self, outcome: str, reason: str, measures: dict[str, Any], next_step: str | None) -> Verdict:
        return Verdict.model_validate(
            {"hook": self.name, "outcome": outcome, "reason": reason, "measures": measures, "next_step": next_step}
        )
