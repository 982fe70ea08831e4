"""When a batch counts as a straggler."""

from __future__ import annotations

from clipperfs.serverd.hedging import BATCHES_KNOWN, BATCHES_PER_HEDGE, FLOOR_S, Pace
from hypothesis import given
from hypothesis import strategies as st


def test_nothing_is_late_while_little_is_known() -> None:
    pace = Pace()
    for _ in range(BATCHES_KNOWN - 1):
        pace.observe(0.010)
    assert pace.late_after_s == float("inf")
    pace.observe(0.010)
    assert 0.010 < pace.late_after_s < 0.030


def test_quick_version_is_given_the_floor() -> None:
    pace = Pace()
    for _ in range(100):
        pace.observe(0.0002)
    assert pace.late_after_s == FLOOR_S


def test_steady_version_is_late_soon_and_a_varying_one_later() -> None:
    steady, varying = Pace(), Pace()
    for number in range(200):
        steady.observe(0.100)
        varying.observe(0.050 if number % 2 else 0.150)
    assert steady.late_after_s < 0.11
    assert varying.late_after_s > 0.25


@given(st.lists(st.booleans(), max_size=400))
def test_second_batches_stay_within_their_budget(asks: list[bool]) -> None:
    pace = Pace()
    spent = batches = 0
    for ask in asks:
        if ask:
            spent += pace.spend()
        else:
            pace.observe(0.01)
            batches += 1
        assert spent <= 1 + batches / BATCHES_PER_HEDGE + 1e-6
