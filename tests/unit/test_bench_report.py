"""Load plans and reports: when queries are due, what the figures say, and what the plot shows."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipperfs.bench import LoadPlan, Sample, draw, summarise
from clipperfs.bench.plan import empty_sample, random_bodies, raw_input
from clipperfs.bench.report import percentile
from clipperfs.documents.author import InputType
from clipperfs.errors import InvalidInput


def plan(rate: float = 100.0, seconds: float = 1.0, **changes: object) -> LoadPlan:
    settings: dict[str, object] = {"host": "h", "port": 1, "path": "/a/predict", "bodies": [b"{}"], "warm_up_s": 0.0}
    return LoadPlan(rate=rate, seconds=seconds, **{**settings, **changes})  # type: ignore[arg-type]


def test_even_queries_are_due_at_the_rate() -> None:
    due = plan(rate=10, seconds=1.0).due_times()
    assert due == pytest.approx([number / 10 for number in range(10)])


def test_random_gaps_have_the_rate_on_average_and_are_repeatable() -> None:
    due = plan(rate=1000, seconds=10, poisson=True).due_times()
    assert 9_500 < len(due) < 10_500
    assert due == sorted(due) == plan(rate=1000, seconds=10, poisson=True).due_times()
    gaps = [after - before for before, after in itertools.pairwise(due)]
    assert max(gaps) > 5 * sum(gaps) / len(gaps)


@pytest.mark.parametrize("changes", [{"rate": 0}, {"rate": 1e9}, {"seconds": 0}, {"bodies": []}, {"connections": 0}])
def test_plan_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"rate|run"):
        plan(**changes)  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50), st.floats(0.1, 100))
def test_percentile_is_the_smallest_value_that_so_many_do_not_exceed(values: list[float], percent: float) -> None:
    found = percentile(sorted(values), percent)
    share = sum(1 for value in values if value <= found) / len(values) * 100
    below = sum(1 for value in values if value < found) / len(values) * 100
    assert share >= percent - 1e-9
    assert below < percent + 1e-9


def test_report_counts_defaults_and_failures_against_the_slo() -> None:
    sample = Sample([0.0] * 8, [0.01] * 6 + [0.5] * 2, {"too late": 2}, {"status 503": 1}, sent=10, unfinished=1)
    sample.elapsed_s = 1.0
    report = summarise(plan(), sample, slo_s=0.1)
    assert (report.answered, report.predictions, report.unfinished) == (8, 6, 1)
    assert report.within_slo == pytest.approx(0.4)
    assert report.latency_ms["p50"] == pytest.approx(10)
    assert report.latency_ms["max"] == pytest.approx(500)


def test_run_without_answers_has_no_latencies() -> None:
    report = summarise(plan(), empty_sample(), slo_s=0.1)
    assert math.isnan(report.latency_ms["p99"])
    assert (report.answered, report.within_slo, draw([])) == (0, None, "")


def test_plot_has_a_line_for_each_bucket_and_marks_the_slo() -> None:
    shown = draw([0.001] * 90 + [0.010] * 9 + [0.1], slo_s=0.05)
    lines = shown.splitlines()
    assert len(lines) >= 13
    assert sum(int(line.split()[-1].replace(",", "")) for line in lines if "SLO" not in line) in (99, 100)
    assert sum("SLO" in line for line in lines) == 1
    assert max(len(line) for line in lines) < 100


@pytest.mark.parametrize("kind", ["ints", "floats", "doubles", "bytes", "strings"])
def test_made_up_inputs_differ_and_have_the_size(kind: InputType) -> None:
    bodies = random_bodies(kind, 12, 50)
    assert len(set(bodies)) == 50
    if kind in ("ints", "floats", "doubles"):
        assert all(len(json.loads(body)["input"]) == 12 for body in bodies)


@pytest.mark.parametrize(("kind", "dtype"), [("ints", "<i4"), ("floats", "<f4"), ("doubles", "<f8")])
def test_raw_inputs_hold_the_same_numbers_as_json(kind: InputType, dtype: str) -> None:
    for raw, body in zip(random_bodies(kind, 12, 5, is_raw=True), random_bodies(kind, 12, 5), strict=True):
        assert np.array_equal(np.frombuffer(raw, dtype), np.array(json.loads(body)["input"], dtype))


def test_raw_bytes_and_texts_are_as_they_are() -> None:
    assert raw_input("AP8=", "bytes") == b"\x00\xff"
    assert raw_input("grün", "strings") == "grün".encode()


@pytest.mark.parametrize(
    ("kind", "value"),
    [("ints", [0.5]), ("ints", [1 << 40]), ("floats", "text"), ("doubles", 3), ("floats", [1e300]), ("bytes", "!"),
     ("strings", [1])],
)  # fmt: skip
def test_raw_input_that_does_not_fit_is_told(kind: InputType, value: object) -> None:
    with pytest.raises(InvalidInput):
        raw_input(value, kind)
