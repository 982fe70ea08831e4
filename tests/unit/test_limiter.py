"""An application's limits, without a clock."""

from __future__ import annotations

from clipperfs.serverd.limiter import AppLimiter
from hypothesis import given
from hypothesis import strategies as st


def test_only_so_many_queries_at_a_time_are_admitted() -> None:
    limiter = AppLimiter(0.0)
    limiter.set_limits(2, None)
    assert [limiter.admit(0.0) for _ in range(3)] == [True, True, False]
    limiter.in_flight -= 1
    assert limiter.admit(0.0)


def test_rate_is_kept_after_a_burst_of_one_second() -> None:
    limiter = AppLimiter(0.0)
    limiter.set_limits(None, 10.0)
    assert sum(limiter.admit(0.0) for _ in range(50)) == 10
    assert not limiter.admit(0.05)
    assert limiter.admit(0.11)
    assert sum(limiter.admit(5.0) for _ in range(50)) == 10


def test_rate_below_one_a_second_still_lets_queries_through() -> None:
    limiter = AppLimiter(0.0)
    limiter.set_limits(None, 0.5)
    assert limiter.admit(0.0)
    assert not limiter.admit(1.0)
    assert limiter.admit(2.1)


def test_limits_that_go_away_admit_everything() -> None:
    limiter = AppLimiter(0.0)
    limiter.set_limits(1, 1.0)
    limiter.admit(0.0)
    limiter.set_limits(None, None)
    assert all(limiter.admit(0.0) for _ in range(100))


@given(st.lists(st.floats(0, 0.5), max_size=200), st.floats(0.5, 50))
def test_no_schedule_gets_more_than_the_rate_and_one_burst(gaps: list[float], rate: float) -> None:
    limiter = AppLimiter(0.0)
    limiter.set_limits(None, rate)
    now = admitted = 0.0
    for gap in gaps:
        now += gap
        admitted += limiter.admit(now)
    assert admitted <= max(1.0, rate) + rate * now + 1e-6
