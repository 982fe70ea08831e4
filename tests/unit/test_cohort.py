"""Cohorts: the specification's vectors, even shares, and growth that loses nobody."""

from __future__ import annotations

import re
import struct
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from clipperfs.cohort import Cohort, hundredths
from tests.spec.page import section

SALT = "00112233445566778899aabbccddeeff"
PERCENTS = st.integers(1, 10_000).map(lambda number: number / 100)


def test_vectors_of_the_specification() -> None:
    keys = {
        "`user-1`": b"user-1",
        "`user-2`": b"user-2",
        "the empty text": b"",
        "`zoë`": "zoë".encode(),
        "`000000000000f03f0000000000000040` (bytes, in hexadecimal)": struct.pack("<2d", 1.0, 2.0),
    }
    rows = re.findall(r"^\| (.+?) \| `([0-9a-f]{16})` \| ([\d.]+) \|$", section("8.17"), re.MULTILINE)
    assert {name for name, _, _ in rows} == set(keys)
    for name, drawn, smallest in rows:
        step = hundredths(float(smallest))
        assert int(drawn, 16) * 10_000 < step << 64
        assert keys[name] in Cohort(SALT, step / 100), name
        assert keys[name] not in Cohort(SALT, (step - 1) / 100), name


@given(st.binary(max_size=40), st.text("0123456789abcdef", min_size=8, max_size=64), PERCENTS, PERCENTS)
def test_growing_share_keeps_every_key(key: bytes, salt: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert key not in Cohort(salt, small) or key in Cohort(salt, large)
    assert key in Cohort(salt, 100)


def test_shares_are_even() -> None:
    keys = [b"user-%d" % number for number in range(20_000)]
    for percent in (0.5, 5.0, 30.0, 99.0):
        share = Fraction(sum(key in Cohort(SALT, percent) for key in keys), len(keys))
        deviation = (percent / 100 * (1 - percent / 100) / len(keys)) ** 0.5
        assert abs(float(share) - percent / 100) < 4 * deviation, percent


def test_another_salt_draws_another_cohort() -> None:
    keys = [b"user-%d" % number for number in range(2_000)]
    both = sum(key in Cohort(SALT, 50) and key in Cohort(SALT[::-1], 50) for key in keys)
    assert 400 < both < 600
