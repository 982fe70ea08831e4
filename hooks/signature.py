"""``signature``: clients of the active version can send the same inputs and understand the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clipperfs.checking.options import Options, parse_options
from clipperfs.documents import Verdict
from clipperfs.errors import ClipperfsError, InvalidInput, PredictFailed
from clipperfs.hook import HookContext, Subject

from .shape import common_shape, mismatch

NUMERIC_TYPES = ("ints", "floats", "doubles")


class Signature:
    """Compares input type, input length and the shape of the outputs on the active version's sample."""

    name = "signature"

    def __init__(self, options: Mapping[str, Any]) -> None:
        parse_options(Options, self.name, options)

    def check(self, context: HookContext) -> Verdict:
        """Compare the candidate with the active version."""
        candidate, active = context.candidate, context.active
        if active is None:
            return self._verdict("skipped", "No version is active yet, so there is nothing to be compatible with.")
        measures: dict[str, Any] = {"active": active.version}
        old, new = active.settings.input_type, candidate.settings.input_type
        if old is not None and new is not None and old != new:
            return self._refuse(f"Inputs: version {active.version} takes {old}, {candidate.version} takes {new}.")
        old_length, new_length = _input_length(active), _input_length(candidate)
        if old_length is not None and new_length is not None and old_length != new_length:
            return self._refuse(
                f"Inputs: the sample of version {active.version} has {old_length} elements an input, "
                f"that of {candidate.version} has {new_length}.",
                measures | {"active_input_length": old_length, "candidate_input_length": new_length},
            )
        sample = active.sample() or candidate.sample()
        if sample is None:
            return self._verdict(
                "passed",
                f"Inputs are those of version {active.version}. No sample, so outputs were not compared.",
                measures,
                next_step="give 'sample' in model.yaml",
            )
        return self._compare_outputs(candidate, active, sample, measures | {"sample_inputs": len(sample)})

    def _compare_outputs(
        self, candidate: Subject, active: Subject, sample: Sequence[Any], measures: dict[str, Any]
    ) -> Verdict:
        try:
            old = common_shape(active.predict(sample))
        except ClipperfsError as error:
            # The version that is to be replaced is broken: that must not keep its replacement out.
            return self._verdict(
                "passed",
                f"Inputs are compatible. Outputs were not compared: version {active.version} does not answer the "
                f"sample: {error.message}",
                measures,
            )
        try:
            new = common_shape(candidate.predict(sample))
        except (InvalidInput, PredictFailed) as error:
            return self._refuse(f"It does not answer inputs that version {active.version} answers: {error.message}")
        measures |= {"active_output": str(old), "candidate_output": str(new)}
        if (problem := mismatch(old, new)) is not None:
            return self._refuse(f"Outputs: {problem}.", measures)
        return self._verdict("passed", f"Inputs and outputs are those of version {active.version}: {new}.", measures)

    def _refuse(self, reason: str, measures: dict[str, Any] | None = None) -> Verdict:
        return self._verdict(
            "refused",
            reason,
            measures,
            next_step="keep the signature, or publish as a new model with an application of its own",
        )

    def _verdict(
        self, outcome: str, reason: str, measures: dict[str, Any] | None = None, *, next_step: str | None = None
    ) -> Verdict:
        return Verdict.model_validate(
            {
                "hook": self.name,
                "outcome": outcome,
                "reason": reason,
                "measures": measures or {},
                "next_step": next_step,
            }
        )


def _input_length(subject: Subject) -> int | None:
    """Return how many elements each numeric input of the sample has, or ``None`` where that is unknown or varies."""
    sample = subject.sample()
    if sample is None or subject.settings.input_type not in NUMERIC_TYPES:
        return None
    lengths = {len(item) if isinstance(item, list) else None for item in sample}
    return lengths.pop() if len(lengths) == 1 else None
