"""``loadable``: the wrapper loads the version and answers its sample."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from clipperfs.checking.options import Options, parse_options
from clipperfs.documents import Verdict
from clipperfs.errors import ClipperfsError
from clipperfs.hook import HookContext


class Loadable:
    """Starts the wrapper in its own process as a daemon would, and predicts the sample if the author gave one."""

    name = "loadable"

    def __init__(self, options: Mapping[str, Any]) -> None:
        parse_options(Options, self.name, options)

    def check(self, context: HookContext) -> Verdict:
        """Load the candidate and predict its sample."""
        candidate = context.candidate
        started = time.monotonic()
        try:
            candidate.load()
        except ClipperfsError as error:
            return self._refuse("It does not load", error, {})
        measures: dict[str, Any] = {"load_ms": round((time.monotonic() - started) * 1000, 1)}
        try:
            sample = candidate.sample()
            if sample is None:
                return Verdict(
                    hook=self.name,
                    outcome="passed",
                    reason="It loads. It has no sample, so nothing was predicted.",
                    next_step="give 'sample' in model.yaml, so that a version which loads but cannot answer is caught",
                    measures=measures,
                )
            measures["sample_inputs"] = len(sample)
            outputs, predict_ms = candidate.predict_timed(sample)
        except ClipperfsError as error:
            return self._refuse("It loads but does not answer its sample", error, measures)
        measures |= {"sample_outputs": len(outputs), "predict_ms": round(predict_ms, 3)}
        if len(outputs) != len(sample):
            return Verdict(
                hook=self.name,
                outcome="refused",
                reason=f"It answers the {len(sample)} inputs of its sample with {len(outputs)} outputs.",
                next_step="make the wrapper return one output for each input, in the same order",
                measures=measures,
            )
        return Verdict(
            hook=self.name,
            outcome="passed",
            reason=f"It loads and answers the {len(sample)} inputs of its sample.",
            measures=measures,
        )

    def _refuse(self, what: str, error: ClipperfsError, measures: dict[str, Any]) -> Verdict:
        return Verdict(
            hook=self.name,
            outcome="refused",
            reason=f"{what}: {error.message}",
            next_step=error.hint or "mend the version, then publish it under a new name",
            measures=measures,
        )
