"""The hook keeps the contract of every hook. Run it with ``pytest`` where both are installed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from clipperfs.hook import HookContext
from clipperfs.testing.hook_suite import HookSuite, make_context, make_subject

# Ten rows, two of them of the rare class 1. The first number of a row is the class.
buffer = io.BytesIO()
np.savez(buffer, x=[[0.0]] * 8 + [[1.0]] * 2, y=[0] * 8 + [1] * 2)
FILES = {"holdout.npz": buffer.getvalue()}


class TestClassRecall(HookSuite):
    name = "class_recall"
    options = {"floor": 0.5}
    bad_options = [
        {"floor": 0.5, "no_such_option": 1},
        {"floor": 2},
        {"floor": "0.5"},
        {"floor": 0.5, "rows": "../secret.npz"},
    ]

    @pytest.fixture
    def accepted(self, tmp_path: Path) -> HookContext:
        return make_context(make_subject(tmp_path / "good", lambda rows: [int(row[0]) for row in rows], files=FILES))

    @pytest.fixture
    def refused(self, tmp_path: Path) -> HookContext:
        # Right on 80 % of all rows, by never answering 1.
        return make_context(make_subject(tmp_path / "bad", lambda rows: [0 for _ in rows], files=FILES))

    def test_refusal_names_the_class_and_its_recall(self, refused: HookContext) -> None:
        verdict = self.make().check(refused)
        assert "'1' (0.000)" in verdict.reason
        assert verdict.measures["recall"] == {"0": 1.0, "1": 0.0}
