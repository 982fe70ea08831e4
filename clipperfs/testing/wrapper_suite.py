"""What every wrapper must do, as tests that its author subclasses and runs with pytest.

    class TestMine(WrapperSuite):
        def make_case(self, folder: Path) -> WrapperCase:
            (folder / "model.bin").write_bytes(...)
            return WrapperCase("mine", "doubles", inputs=[[0.0, 1.0], [2.0, 3.0]], expected=[1.0, 5.0])

Everything runs through a real replica process, as in a daemon.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from clipperfs.documents import InputType
from clipperfs.errors import LoadFailed, PredictFailed
from clipperfs.plugins import load_plugin, require_plugin
from clipperfs.replica.session import ReplicaSession
from clipperfs.wrapper import LoadContext

_SAMPLES: dict[str, list[Any]] = {
    "ints": [[1, -2, 3], [4, 5, -6]],
    "floats": [[0.5, 1], [-2.25, 1e30]],
    "doubles": [[0.1, 1], [1e300, -5]],
    "bytes": [b"\x00\xff", b"ab"],
    "strings": ["", "naïve ☃"],
}


@dataclass(frozen=True, slots=True)
class WrapperCase:
    """A version that has been written to a folder, and what to ask of it."""

    kind: str
    """The wrapper's name in the entry-point group ``clipperfs.wrappers``."""
    input_type: InputType
    inputs: list[Any]
    """At least two inputs of one length, best with different outputs."""
    expected: list[Any] | None = None
    """Their outputs, if known (numbers are compared to about six digits)."""
    options: dict[str, Any] = field(default_factory=dict)
    allow_code: bool = False
    """Whether this version needs a policy that allows code."""


class WrapperSuite:
    """The contract of :class:`clipperfs.wrapper.Wrapper`. Subclass it and write :meth:`make_case`."""

    input_types: ClassVar[tuple[InputType, ...]] = ()
    """Input types that the wrapper accepts for this version beside the case's own."""
    frameworks: ClassVar[tuple[str, ...]] = ()
    """Modules that may be imported in ``load`` only."""
    needs_files: ClassVar[bool] = True
    """Whether a version without files cannot be loaded."""
    load_timeout_s: ClassVar[float] = 60.0
    predict_timeout_s: ClassVar[float] = 30.0

    def make_case(self, folder: Path) -> WrapperCase:
        """Write a version into ``folder`` and say what it should answer."""
        raise NotImplementedError("a subclass of WrapperSuite writes a version in make_case")

    def open_session(self, case: WrapperCase, folder: Path, **changes: Any) -> ReplicaSession:
        """Return a session, not started, for the case; ``changes`` replace fields of its LoadContext."""
        fields: dict[str, Any] = {
            "path": folder,
            "model": "suite",
            "version": "1",
            "input_type": case.input_type,
            "allow_code": case.allow_code,
            "options": case.options,
        }
        return ReplicaSession(
            LoadContext(**(fields | changes)),
            case.kind,
            load_timeout_s=self.load_timeout_s,
            predict_timeout_s=self.predict_timeout_s,
        )

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder for the version, shared by the tests of the class."""
        return tmp_path_factory.mktemp("version")

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, folder: Path) -> WrapperCase:
        """The case, made once for the class."""
        return cls().make_case(folder)

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, case: WrapperCase, folder: Path) -> Iterator[ReplicaSession]:
        """A replica that has loaded the version; a test that breaks it fails those after it."""
        with cls().open_session(case, folder) as session:
            yield session

    def test_class_is_made_without_arguments_and_says_how_bytes_arrive(self, case: WrapperCase) -> None:
        wrapper = load_plugin("clipperfs.wrappers", case.kind)()
        assert wrapper.bytes_as in ("int8", "uint8", "raw")
        assert len(inspect.signature(wrapper.load).parameters) == 1
        assert len(inspect.signature(wrapper.predict).parameters) == 1

    def test_importing_it_brings_no_framework(self, case: WrapperCase) -> None:
        module = require_plugin("clipperfs.wrappers", case.kind).module
        code = f"import sys, {module}; print(*[name for name in sys.argv[1:] if name in sys.modules])"
        run = subprocess.run(
            [sys.executable, "-P", "-c", code, *self.frameworks], capture_output=True, text=True, check=True, timeout=60
        )
        assert run.stdout.split() == []

    def test_batch_gives_one_output_for_each_input(self, session: ReplicaSession, case: WrapperCase) -> None:
        outputs = session.predict(case.inputs)
        assert len(outputs) == len(case.inputs)
        if case.expected is not None:
            assert_alike(outputs, case.expected)

    def test_batch_of_one_gives_a_list_of_one(self, session: ReplicaSession, case: WrapperCase) -> None:
        assert len(session.predict(case.inputs[:1])) == 1

    def test_order_of_inputs_is_the_order_of_outputs(self, session: ReplicaSession, case: WrapperCase) -> None:
        forward = session.predict(case.inputs)
        assert_alike(session.predict(case.inputs[::-1]), forward[::-1])

    def test_output_does_not_depend_on_its_company(self, session: ReplicaSession, case: WrapperCase) -> None:
        together = session.predict(case.inputs)
        alone = [session.predict([value])[0] for value in case.inputs]
        assert_alike(alone, together)

    def test_same_batch_twice_gives_the_same_outputs(self, session: ReplicaSession, case: WrapperCase) -> None:
        assert_alike(session.predict(case.inputs), session.predict(case.inputs))

    def test_large_batch_is_answered_whole(self, session: ReplicaSession, case: WrapperCase) -> None:
        inputs = (case.inputs * 300)[:300]
        assert len(session.predict(inputs)) == 300

    def test_mixed_lengths_are_answered_or_refused_and_the_process_lives(
        self, session: ReplicaSession, case: WrapperCase
    ) -> None:
        first = case.inputs[0]
        longer = first + first if len(first) else first
        self._answered_or_refused(session, [first, longer])
        assert len(session.predict(case.inputs)) == len(case.inputs)

    def test_empty_input_is_answered_or_refused_and_the_process_lives(
        self, session: ReplicaSession, case: WrapperCase
    ) -> None:
        self._answered_or_refused(session, [type(case.inputs[0])()])
        assert len(session.predict(case.inputs)) == len(case.inputs)

    def test_further_input_types_are_answered(self, case: WrapperCase, folder: Path) -> None:
        for input_type in self.input_types:
            with self.open_session(case, folder, input_type=input_type) as session:
                assert len(session.predict(_SAMPLES[input_type])) == len(_SAMPLES[input_type]), input_type

    def test_version_without_files_does_not_load(self, case: WrapperCase, tmp_path: Path) -> None:
        if not self.needs_files:
            return
        with pytest.raises(LoadFailed) as caught, self.open_session(case, tmp_path):
            pass
        assert caught.value.hint, "say what to do next"

    def test_code_of_the_version_needs_the_policy(self, case: WrapperCase, folder: Path) -> None:
        if not case.allow_code:
            return
        with pytest.raises(LoadFailed) as caught, self.open_session(case, folder, allow_code=False):
            pass
        assert caught.value.hint == "clipperfs policy suite allow_code=true"

    @staticmethod
    def _answered_or_refused(session: ReplicaSession, inputs: list[Any]) -> None:
        try:
            assert len(session.predict(inputs)) == len(inputs)
        except PredictFailed as error:
            assert error.message


def assert_alike(outputs: Any, expected: Any) -> None:
    """Compare parsed outputs: numbers to about six digits, everything else exactly."""
    if isinstance(expected, list):
        assert isinstance(outputs, list) and len(outputs) == len(expected)
        for output, wanted in zip(outputs, expected, strict=True):
            assert_alike(output, wanted)
    elif isinstance(expected, dict):
        assert isinstance(outputs, dict) and outputs.keys() == expected.keys()
        for key, wanted in expected.items():
            assert_alike(outputs[key], wanted)
    elif isinstance(expected, float):
        assert outputs == pytest.approx(expected, rel=1e-5, abs=1e-6)
    else:
        assert outputs == expected
