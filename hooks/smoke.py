"""``smoke``: golden requests get the answers that were written down for them, within a tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from pydantic import Field, ValidationError

from clipperfs.checking.options import Options, parse_options
from clipperfs.checking.sample import read_json_file
from clipperfs.documents import Verdict
from clipperfs.documents.base import validation_summary
from clipperfs.errors import DamagedVersion, InvalidInput, PredictFailed
from clipperfs.hook import HookContext, Subject

from .nested import differences

DEFAULT_FILE = "golden.json"
GOLDEN_HINT = '[{"input": …, "output": …}, …]'
SHOWN = 5
"""Differences that a reason names."""


class GoldenRequest(Options):
    """One input and the output that it must get; without ``output`` any answer will do."""

    input: Any
    output: Any = None


class SmokeOptions(Options):
    """Options of ``smoke``."""

    requests: list[GoldenRequest] | None = Field(default=None, min_length=1)
    file: str | None = None
    """A JSON file of the version: a list of such requests. By default ``golden.json`` if there is one."""
    tolerance: float = Field(default=1e-9, ge=0)
    """How far apart two numbers may be."""
    relative_tolerance: float = Field(default=1e-6, ge=0)
    """How far apart two numbers may be as a fraction of the expected one."""


class Smoke:
    """Sends golden requests to the candidate as one batch and compares the outputs, numbers at any depth."""

    name = "smoke"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = parse_options(SmokeOptions, self.name, options)

    def check(self, context: HookContext) -> Verdict:
        """Predict the golden requests and compare."""
        candidate = context.candidate
        requests, source = self._requests(candidate)
        if not requests:
            return Verdict(
                hook=self.name,
                outcome="error",
                reason=f"There is nothing to send: no requests in the options, no {DEFAULT_FILE}, and no sample.",
                next_step=f"{GOLDEN_HINT}: put that into the version as {DEFAULT_FILE}",
            )
        measures: dict[str, Any] = {"requests": len(requests), "source": source}
        try:
            outputs = candidate.predict([request.input for request in requests])
        except (InvalidInput, PredictFailed) as error:
            return Verdict(
                hook=self.name,
                outcome="refused",
                reason=f"It does not answer the {len(requests)} golden requests of {source}: {error.message}",
                next_step=error.hint or "mend the version, or the golden requests",
                measures=measures,
            )
        compared = [(request, output) for request, output in zip(requests, outputs, strict=True) if _is_golden(request)]
        wrong = {
            index: found
            for index, (request, output) in enumerate(zip(requests, outputs, strict=True))
            if _is_golden(request) and (found := self._differences(request, output))
        }
        measures |= {"compared": len(compared), "wrong": len(wrong)}
        if wrong:
            lines = [f"request {index}: {line}" for index, found in wrong.items() for line in found]
            more = f" (and {len(wrong) - SHOWN} more requests)" if len(wrong) > SHOWN else ""
            return Verdict(
                hook=self.name,
                outcome="refused",
                reason=f"{len(wrong)} of {len(compared)} golden requests of {source} get another answer: "
                f"{'; '.join(lines[:SHOWN])}{more}.",
                next_step="mend the version; if the new answers are right, update the golden requests with it",
                measures=measures,
            )
        if not compared:
            return Verdict(
                hook=self.name,
                outcome="passed",
                reason=f"It answers the {len(requests)} inputs of {source}; no outputs are written down to compare.",
                next_step=f"{GOLDEN_HINT}: put that into the version as {DEFAULT_FILE}",
                measures=measures,
            )
        return Verdict(
            hook=self.name,
            outcome="passed",
            reason=f"All {len(compared)} golden requests of {source} get the expected answer.",
            measures=measures,
        )

    def _requests(self, candidate: Subject) -> tuple[list[GoldenRequest], str]:
        if self.options.requests is not None:
            return self.options.requests, "the options"
        file = self.options.file
        if file is None and any(entry.path == DEFAULT_FILE for entry in candidate.manifest.files):
            file = DEFAULT_FILE
        if file is not None:
            return _parse_requests(read_json_file(candidate.path, file, noun="golden"), file), file
        return [GoldenRequest(input=item) for item in candidate.sample() or []], "the sample"

    def _differences(self, request: GoldenRequest, output: Any) -> list[str]:
        found = differences(
            request.output,
            output,
            tolerance=self.options.tolerance,
            relative_tolerance=self.options.relative_tolerance,
        )
        return list(islice(found, SHOWN))


def _is_golden(request: GoldenRequest) -> bool:
    return "output" in request.model_fields_set


def _parse_requests(tree: Any, file: str) -> list[GoldenRequest]:
    if not isinstance(tree, list) or not tree:
        raise DamagedVersion(f"golden file {file} must be a list with at least one request", hint=GOLDEN_HINT)
    try:
        return [GoldenRequest.model_validate(item) for item in tree]
    except ValidationError as error:
        raise DamagedVersion(f"golden file {file}: {validation_summary(error)}", hint=GOLDEN_HINT) from error
