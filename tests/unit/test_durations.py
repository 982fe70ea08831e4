"""Lengths of time: every unit, exact, and nothing that only looks like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipperfs.durations import duration_s, duration_us, format_duration
from clipperfs.errors import InvalidSetting


@pytest.mark.parametrize(
    ("text", "expected_us"),
    [
        ("100ms", 100_000),
        ("2s", 2_000_000),
        ("1.5s", 1_500_000),
        ("250us", 250),
        ("5m", 300_000_000),
        ("1h", 3_600_000_000),
        ("1d", 86_400_000_000),
        ("0", 0),
        ("20", 20_000),
        ("0.5", 500),
        (20, 20_000),
        (1.5, 1_500),
        (" 2 S ", 2_000_000),
    ],
)
def test_valid_length_is_exact_in_microseconds(text: str | int | float, expected_us: int) -> None:
    assert duration_us(text) == expected_us


@pytest.mark.parametrize(
    "text",
    ["", "ms", "-1s", "1 s 2", "1sec", "nan", "inf", "1e3", "1,5s", "0.1us", "1.0000001s", "²s", "1" * 20, ".5s"],
)
def test_invalid_length_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        duration_us(text)
    assert caught.value.hint


def test_seconds_are_seconds() -> None:
    assert duration_s("250ms") == 0.25


@given(st.integers(0, 10**15))
def test_formatted_length_reads_back_the_same(value_us: int) -> None:
    assert duration_us(format_duration(value_us)) == value_us


@pytest.mark.parametrize(
    ("value_us", "text"), [(100_000, "100ms"), (2_000_000, "2s"), (1_500_000, "1.5s"), (250, "250us")]
)
def test_formatted_length_is_short(value_us: int, text: str) -> None:
    assert format_duration(value_us) == text
