"""Every built-in hook against the public contract suite."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from clipperfs.hook import HookContext
from clipperfs.testing.hook_suite import HookSuite, make_context, make_subject


def doubled(inputs: Sequence[Any]) -> list[Any]:
    return [2 * item[0] for item in inputs]


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


class TestIntegrity(HookSuite):
    name = "integrity"

    @pytest.fixture
    def accepted(self, tmp_path: Path) -> HookContext:
        return make_context(make_subject(tmp_path / "good", doubled, files={"a/b": b"1", "c": b""}))

    @pytest.fixture
    def refused(self, tmp_path: Path) -> HookContext:
        subject = make_subject(tmp_path / "bad", doubled, files={"weights": b"1234"})
        (subject.path / "weights").write_bytes(b"1235")
        return make_context(subject)


class TestLoadable(HookSuite):
    name = "loadable"

    @pytest.fixture
    def accepted(self, tmp_path: Path) -> HookContext:
        return make_context(make_subject(tmp_path / "good", doubled, sample=[[1.0], [2.0]]))

    @pytest.fixture
    def refused(self, tmp_path: Path) -> HookContext:
        return make_context(make_subject(tmp_path / "bad", None, sample=[[1.0]]))


class TestSignature(HookSuite):
    name = "signature"

    @pytest.fixture
    def accepted(self, tmp_path: Path) -> HookContext:
        active = make_subject(tmp_path / "active", doubled, version="1", sample=[[1.0], [2.0]])
        return make_context(make_subject(tmp_path / "good", doubled, sample=[[3.0]]), active)

    @pytest.fixture
    def refused(self, tmp_path: Path) -> HookContext:
        active = make_subject(tmp_path / "active1", doubled, version="1", sample=[[1.0]])
        return make_context(make_subject(tmp_path / "bad", lambda inputs: ["cat"] * len(inputs)), active)


class TestSmoke(HookSuite):
    name = "smoke"
    bad_options: ClassVar[Sequence[Mapping[str, Any]]] = [
        {"no_such_option": 1},
        {"tolerance": "wide"},
        {"tolerance": -1},
        {"relative_tolerance": float("nan")},
        {"requests": []},
        {"requests": [{"output": 1}]},
        {"file": 3},
    ]

    @pytest.fixture
    def accepted(self, tmp_path: Path) -> HookContext:
        golden = json.dumps([{"input": [1.0], "output": 2.0000001}, {"input": [3], "output": 6}]).encode()
        return make_context(make_subject(tmp_path / "good", doubled, files={"golden.json": golden}))

    @pytest.fixture
    def refused(self, tmp_path: Path) -> HookContext:
        golden = json.dumps([{"input": [1.0], "output": 2.0}, {"input": [3], "output": 7}]).encode()
        return make_context(make_subject(tmp_path / "bad", doubled, files={"golden.json": golden}))


class TestQuality(HookSuite):
    name = "quality"
    options: ClassVar[Mapping[str, Any]] = {"floor": 0.75}
    bad_options: ClassVar[Sequence[Mapping[str, Any]]] = [
        {"metric": "accuracy", "ceiling": 0.5},
        {"metric": "mae", "floor": 0.5},
        {"floor": 0.5, "metric": "auc"},
        {"delta": -0.1},
        {"floor": True},
        {"floor": 0.5, "rows": "../holdout.npz"},
        {"floor": 0.5, "rows": "a.npz", "rows_url": "/a.npz"},
        {"floor": 0.5, "batch": 0},
        {"floor": 0.5, "threshold": 0.5},
    ]

    @pytest.fixture
    def accepted(self, tmp_path: Path) -> HookContext:
        rows = npz(x=np.array([[1.0], [2.0], [3.0], [4.0]]), y=np.array([2, 4, 6, 9]))
        return make_context(make_subject(tmp_path / "good", doubled, files={"holdout.npz": rows}))

    @pytest.fixture
    def refused(self, tmp_path: Path) -> HookContext:
        rows = npz(x=np.array([[1.0], [2.0], [3.0], [4.0]]), y=np.array([2, 4, 7, 9]))
        return make_context(make_subject(tmp_path / "bad", doubled, files={"holdout.npz": rows}))


class TestLatency(HookSuite):
    name = "latency"
    options: ClassVar[Mapping[str, Any]] = {"p99_ms": 20, "batch": 3, "repeats": 4}
    bad_options: ClassVar[Sequence[Mapping[str, Any]]] = [
        {"p99_ms": 0},
        {"p99_ms": "20 ms"},
        {"p99_ms": 20, "batch": 1.5},
        {"p99_ms": 20, "repeats": 0},
        {"p99_ms": 20, "p95_ms": 10},
    ]

    @pytest.fixture
    def accepted(self, tmp_path: Path) -> HookContext:
        return make_context(make_subject(tmp_path / "good", doubled, sample=[[1.0], [2.0]], latency_ms=19.0))

    @pytest.fixture
    def refused(self, tmp_path: Path) -> HookContext:
        return make_context(make_subject(tmp_path / "bad", doubled, sample=[[1.0]], latency_ms=21.0))


class TestCommand(HookSuite):
    name = "command"
    options: ClassVar[Mapping[str, Any]] = {"argv": ["sh", "-c", "test -e good || { echo bad weights; exit 3; }"]}
    bad_options: ClassVar[Sequence[Mapping[str, Any]]] = [
        {"argv": []},
        {"argv": "check.sh"},
        {"argv": [""]},
        {"argv": ["a\0b"]},
        {"argv": ["true"], "shell": True},
    ]

    @pytest.fixture
    def accepted(self, tmp_path: Path) -> HookContext:
        subject = make_subject(tmp_path / "good", doubled, files={"good": b""})
        return make_context(subject, allow_code=True)

    @pytest.fixture
    def refused(self, tmp_path: Path) -> HookContext:
        return make_context(make_subject(tmp_path / "bad", doubled), allow_code=True)
