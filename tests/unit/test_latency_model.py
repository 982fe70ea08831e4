"""The upper line of predict times by batch size, without a clock."""

from __future__ import annotations

import random

import pytest
from clipperfs.serverd.latency_model import FIRST_MARGIN, MEMORY, LatencyModel
from hypothesis import given
from hypothesis import strategies as st


def model_of(*measured: tuple[int, float]) -> LatencyModel:
    model = LatencyModel()
    for rows, predict_s in measured:
        model.observe(rows, predict_s)
    return model


def test_model_that_knows_nothing_says_one() -> None:
    assert LatencyModel().largest_within(1.0) == 1
    assert LatencyModel().middle_s(10) == 0.0


def test_line_goes_through_what_was_measured() -> None:
    model = model_of(*((rows, 0.002 + 0.0004 * rows) for rows in [1, 8, 32, 20, 4, 16] * 20))
    assert model.middle_s(25) == pytest.approx(0.012, rel=0.02)
    assert 14 <= model.largest_within(0.0084 * model.margin) <= 16


def test_largest_batch_is_never_one_that_was_not_seen() -> None:
    assert model_of((1, 0.001), (32, 0.002)).largest_within(10.0) == 32


def test_batches_of_one_size_are_taken_for_a_cost_in_proportion() -> None:
    model = model_of(*[(32, 0.016)] * 10)
    assert model.middle_s(16) == pytest.approx(0.008)


def test_what_a_query_costs_is_remembered_when_all_batches_have_one_size() -> None:
    model = model_of(*((rows, 0.018) for rows in [1, 4, 16, 32] * 4), *[(32, 0.018)] * 500)
    assert model.middle_s(1) == pytest.approx(0.018, rel=0.1)


def test_line_is_a_guess_until_batches_have_had_different_sizes() -> None:
    model = LatencyModel()
    shaped = []
    for sizes in ([32] * 50, [16, 8], [32] * 100):
        for rows in sizes:
            model.observe(rows, 0.0003 * rows)
        shaped.append(model.is_shaped)
    assert shaped == [False, True, True], "what is known is not forgotten"


def test_cost_that_changes_is_followed_within_the_memory() -> None:
    model = model_of(*((rows, 0.001 * rows) for rows in range(1, 33)))
    for rows in list(range(1, 33)) * 4:
        model.observe(rows, 0.004 * rows)
    assert model.middle_s(10) == pytest.approx(0.04, rel=0.1)
    assert MEMORY == 32


def test_upper_line_has_about_one_batch_in_a_hundred_above_it() -> None:
    source, model, above = random.Random(3), LatencyModel(), 0
    for number in range(6000):
        rows = source.randrange(1, 65)
        predict_s = (0.002 + 0.0003 * rows) * (1 + source.expovariate(10))
        above += number >= 2000 and predict_s > model.margin * model.middle_s(rows)
        model.observe(rows, predict_s)
    assert 0.004 < above / 4000 < 0.03


def test_single_outlier_moves_the_margin_by_a_step_only() -> None:
    model = model_of(*((rows, 0.001 * rows) for rows in range(1, 33)))
    before = model.margin
    model.observe(10, 5.0)
    assert model.margin < before + 0.06


def test_first_batch_of_a_warm_up_may_be_slow() -> None:
    model = LatencyModel()
    model.learn_warm_up([(1, 0.5), (1, 0.002), (32, 0.004)])
    assert model.largest_within(0.004 * FIRST_MARGIN + 1e-9) == 32
    assert model.middle_s(32) == pytest.approx(0.004, rel=0.05)


def test_warm_up_over_the_budget_starts_lower() -> None:
    model = LatencyModel()
    model.learn_warm_up([(1, 0.002), (32, 0.033)])
    assert 8 <= model.largest_within(0.0165) <= 13
    assert model.largest_within(0.0001) == 1


@given(
    st.lists(st.tuples(st.integers(1, 4096), st.floats(0, 100)), max_size=80),
    st.floats(1e-6, 10),
    st.integers(1, 4096),
)
def test_whatever_was_measured_the_answers_are_sane(
    measured: list[tuple[int, float]], budget_s: float, rows: int
) -> None:
    model = model_of(*measured)
    assert 1 <= model.largest_within(budget_s) <= max(1, model.most_rows)
    assert 0 <= model.middle_s(rows) < float("inf")
    assert model.middle_s(rows) <= model.middle_s(rows + 1) + 1e-9
    assert 1 <= model.margin <= 4
