"""What every hook must do: subclass the suite, and give it a candidate that passes and one that is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from clipperfs.checking.copies import take_fingerprint
from clipperfs.checking.protocol import bounded_verdict
from clipperfs.checking.sample import read_sample
from clipperfs.digest import digest_bytes, digest_file
from clipperfs.documents import FileEntry, Manifest, Verdict, VersionSettings, canonical_bytes
from clipperfs.errors import InvalidSetting, LoadFailed
from clipperfs.hook import Hook, HookContext, Subject
from clipperfs.limits import LIMITS
from clipperfs.plugins import load_plugin, plugin_names
from clipperfs.replica.encode import encode_outputs

Predict = Callable[[Sequence[Any]], Any]


@dataclass(slots=True)
class FunctionPredictor:
    """A predictor that calls a function in this process. Outputs go through JSON as those of a replica do."""

    path: Path
    settings: VersionSettings
    function: Predict | None
    """``None``: the version does not load."""
    latency_ms: float = 0.5
    """What :meth:`predict_timed` reports."""
    batches: list[int] = field(default_factory=list)
    """How many inputs each batch had."""

    def load(self) -> None:
        """Do nothing, or raise LoadFailed."""
        if self.function is None:
            raise LoadFailed("the weights are damaged", hint="train again")

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """Return the function's outputs as a client would see them."""
        self.load()
        assert self.function is not None
        self.batches.append(len(inputs))
        outputs = self.function(inputs)
        return [json.loads(text) for text in encode_outputs(outputs, len(inputs))]

    def predict_timed(self, inputs: Sequence[Any]) -> tuple[list[Any], float]:
        """Return the outputs and ``latency_ms``."""
        return self.predict(inputs), self.latency_ms

    def sample(self) -> list[Any] | None:
        """Return the sample of the settings, or of the file that they name."""
        return read_sample(self.path, self.settings)


def make_subject(
    folder: Path,
    predict: Predict | None,
    *,
    files: Mapping[str, bytes] | None = None,
    version: str = "2",
    model: str = "digits",
    latency_ms: float = 0.5,
    **settings: Any,
) -> Subject:
    """Write a version into ``folder`` and return it as a hook would see it.

    Args:
        folder: Where to; it may hold files already, which then belong to the version.
        predict: Inputs to outputs, or ``None`` for a version that does not load.
        files: Path and content of each file to write; something is written when there would be none.
        version: Its name.
        model: The model's name.
        latency_ms: What a batch is said to take.
        settings: As in ``model.yaml``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in (files or {}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    if not any(folder.iterdir()):
        (folder / "weights").write_bytes(b"weights")
    entries = [
        FileEntry(path=str(path.relative_to(folder)), size=path.stat().st_size, sha256=digest_file(path)[0])
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    chosen = VersionSettings.model_validate({"wrapper": "noop", "input_type": "doubles", **settings})
    manifest = Manifest(created="2025-01-01T00:00:00.000Z", created_by="tests", files=entries, settings=chosen)
    return Subject(
        model=model,
        version=version,
        manifest_digest=digest_bytes(canonical_bytes(manifest)),
        manifest=manifest,
        settings=chosen,
        path=folder,
        predictor=FunctionPredictor(folder, chosen, predict, latency_ms),
    )


def make_context(
    candidate: Subject,
    active: Subject | None = None,
    *,
    time_limit_s: float = 60.0,
    allow_code: bool = False,
    from_policy: bool = False,
) -> HookContext:
    """Return what a hook is given about these versions."""
    return HookContext(
        candidate=candidate,
        active=active,
        time_limit_s=time_limit_s,
        allow_code=allow_code,
        from_policy=from_policy,
        registry_url="memory://tests",
    )


class HookSuite:
    """The contract of ``clipperfs.hook.Hook`` as tests. Third parties run it on hooks of their own."""

    name: ClassVar[str]
    """The hook's entry-point name."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Options with which ``accepted`` passes and ``refused`` does not."""
    bad_options: ClassVar[Sequence[Mapping[str, Any]]] = [{"no_such_option": 1}]
    """Options that the constructor must not take; the last key of each is the one at fault."""

    @pytest.fixture
    def accepted(self, tmp_path: Path) -> HookContext:
        """Return a context whose candidate passes. Override it."""
        raise NotImplementedError

    @pytest.fixture
    def refused(self, tmp_path: Path) -> HookContext:
        """Return a context whose candidate is refused. Override it."""
        raise NotImplementedError

    def make(self) -> Hook:
        """Return the hook, made as a run makes it."""
        hook: Hook = load_plugin("clipperfs.hooks", self.name)(dict(self.options))
        return hook

    def test_hook_is_found_by_its_name(self) -> None:
        assert self.name in plugin_names("clipperfs.hooks")
        assert isinstance(self.make(), Hook)

    def test_options_that_cannot_be_used_are_refused_by_name(self) -> None:
        for options in self.bad_options:
            with pytest.raises(InvalidSetting) as caught:
                load_plugin("clipperfs.hooks", self.name)(dict(options))
            assert list(options)[-1] in str(caught.value), f"the message does not name the option: {caught.value}"

    def test_options_are_left_alone(self) -> None:
        options = json.loads(json.dumps(dict(self.options)))
        load_plugin("clipperfs.hooks", self.name)(options)
        assert options == dict(self.options)

    def test_good_candidate_passes(self, accepted: HookContext) -> None:
        verdict = self._check(accepted)
        assert verdict.outcome == "passed", verdict.reason
        assert not verdict.is_refusal

    def test_bad_candidate_is_refused_with_the_next_step(self, refused: HookContext) -> None:
        verdict = self._check(refused)
        assert verdict.outcome == "refused", verdict.reason
        assert verdict.is_refusal
        assert verdict.next_step, "a refusal says what to do next"

    def test_same_candidate_gets_the_same_outcome_again(self, accepted: HookContext, refused: HookContext) -> None:
        for context in (accepted, refused):
            hook = self.make()
            assert hook.check(context).outcome == hook.check(context).outcome == self.make().check(context).outcome

    def test_files_of_the_versions_are_left_alone(self, accepted: HookContext, refused: HookContext) -> None:
        for context in (accepted, refused):
            subjects = [subject for subject in (context.candidate, context.active) if subject is not None]
            before = [take_fingerprint(subject.path) for subject in subjects]
            self.make().check(context)
            assert [take_fingerprint(subject.path) for subject in subjects] == before

    def test_check_keeps_within_its_time(self, accepted: HookContext) -> None:
        started = time.monotonic()
        self.make().check(accepted)
        assert time.monotonic() - started < accepted.time_limit_s

    def _check(self, context: HookContext) -> Verdict:
        """Run the hook and hold its verdict to what every verdict must be."""
        verdict = self.make().check(context)
        assert isinstance(verdict, Verdict)
        assert verdict.hook == self.name
        assert verdict.reason, "a verdict says what was expected and what was found"
        assert len(verdict.reason) <= LIMITS.reason_chars
        kept = bounded_verdict(verdict, self.name)
        assert kept["measures"] == verdict.measures, "measures are plain JSON, finite, and not too many"
        assert kept["reason"] == verdict.reason, "the reason is printable"
        json.dumps(kept, allow_nan=False)
        return verdict
