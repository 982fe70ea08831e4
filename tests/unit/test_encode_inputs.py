"""Inputs as JSON gives them, packed: what fits each type, what does not, and how that is said."""

from __future__ import annotations

import base64
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipperfs.errors import InvalidInput
from clipperfs.replica.batch import unpack_batch
from clipperfs.replica.encode import encode_input, pack_batch
from clipperfs.wire import INPUT_TYPES


@pytest.mark.parametrize(
    ("value", "input_type", "packed", "count"),
    [
        ([1, -2, 2**31 - 1, -(2**31)], "ints", struct.pack("<4i", 1, -2, 2**31 - 1, -(2**31)), 4),
        ([], "ints", b"", 0),
        ((1, 2), "ints", struct.pack("<2i", 1, 2), 2),
        ([0.5, 1, -3], "floats", struct.pack("<3f", 0.5, 1, -3), 3),
        ([0.1, 1], "doubles", struct.pack("<2d", 0.1, 1), 2),
        ([1e300, 2**100], "doubles", struct.pack("<2d", 1e300, 2.0**100), 2),
        ("AP8=", "bytes", b"\x00\xff", 2),
        ("", "bytes", b"", 0),
        (b"raw", "bytes", b"raw", 3),
        (bytearray(b"raw"), "bytes", b"raw", 3),
        (memoryview(b"raw"), "bytes", b"raw", 3),
        ("naïve", "strings", "naïve".encode(), 6),
        ("", "strings", b"", 0),
        ("nul\x00", "strings", b"nul\x00", 4),
        (np.array([1, 2], np.int64), "ints", struct.pack("<2i", 1, 2), 2),
        (np.array([1, 2], np.uint8), "doubles", struct.pack("<2d", 1, 2), 2),
        (np.array([1.5], np.float32), "doubles", struct.pack("<d", 1.5), 1),
        (np.array([1.5], ">f8"), "floats", struct.pack("<f", 1.5), 1),
        (np.array([-1, 1], np.int8), "bytes", b"\xff\x01", 2),
        (np.array([255], np.uint8), "bytes", b"\xff", 1),
        ([np.float32(1.5), np.int64(2)], "doubles", struct.pack("<2d", 1.5, 2), 2),
    ],
)
def test_fitting_input_is_packed_little_endian(value: Any, input_type: Any, packed: bytes, count: int) -> None:
    assert encode_input(value, input_type) == (packed, count)


@pytest.mark.parametrize(
    ("value", "input_type", "words"),
    [
        ([1, 2.5], "ints", "element 1 is a number with a fraction, not an integer"),
        ([1.0], "ints", "element 0 is a number with a fraction"),
        ([True], "ints", "element 0 is a boolean, not a number"),
        ([1.0, False], "floats", "element 1 is a boolean"),
        ([np.bool_(True)], "doubles", "element 0 is a boolean"),
        ([2**31], "ints", "element 0 is 2147483648, which does not fit 32 bits"),
        ([-(2**31) - 1], "ints", "does not fit 32 bits"),
        ([10**40], "ints", "does not fit 32 bits"),
        (["1"], "ints", "element 0 is text"),
        ([None], "doubles", "element 0 is null"),
        ([[1]], "doubles", "element 0 is a list"),
        ([{}], "doubles", "element 0 is a mapping"),
        ([0.0, 1e39], "floats", r"element 1 is 1e\+39, which is too large for floats"),
        ([3.5e38], "floats", "too large for floats"),
        ([10**400], "doubles", "element 0 is too large for doubles"),
        ([float("nan")], "floats", "element 0 is nan, which is not finite"),
        ([1.0, float("inf")], "doubles", "element 1 is inf, which is not finite"),
        (5, "ints", "a list of numbers, not an integer"),
        ("12", "ints", "a list of numbers, not text"),
        ({"a": 1}, "doubles", "a list of numbers, not a mapping"),
        (None, "doubles", "a list of numbers, not null"),
        ([1], "strings", "is text, not a list"),
        (b"x", "strings", "is text, not bytes"),
        ("\ud800", "strings", "lone surrogate"),
        ([1], "bytes", "base64 text or a bytes object, not a list"),
        ("AP8", "bytes", "not base64"),
        ("AP8=\n", "bytes", "not base64"),
        ("AP8AAQ====", "bytes", "not base64"),
        ("AP8A==", "bytes", "excess padding"),
        ("A_8=", "bytes", "not base64"),
        ("é", "bytes", "not base64"),
        (np.zeros((2, 2)), "doubles", "an array of 1 dimension, not 2"),
        (np.array(1.0), "doubles", "an array of 1 dimension, not 0"),
        (np.array([1.5]), "ints", "an array of float64 does not fit an input of type ints"),
        (np.array([True]), "ints", "an array of bool does not fit"),
        (np.array(["a"]), "doubles", "does not fit an input of type doubles"),
        (np.array([2**31]), "ints", "does not fit 32 bits"),
        ([10**5000], "ints", "is an integer of 16610 bits, which does not fit 32 bits"),
        ([10**5000], "doubles", "too large for doubles"),
        (np.array([2**64 - 1], np.uint64), "ints", "does not fit 32 bits"),
        (np.array([1e39]), "floats", "too large for floats"),
        (np.array([np.nan]), "doubles", "not finite"),
        (np.array([1], np.int32), "bytes", "a bytes object"),
    ],
)
def test_input_that_does_not_fit_is_refused_by_element(value: Any, input_type: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        encode_input(value, input_type)


def test_batch_names_the_input_that_does_not_fit() -> None:
    with pytest.raises(InvalidInput, match="input 1: element 0 is text"):
        pack_batch([[1], ["x"]], "ints")


def test_empty_batch_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least one input"):
        pack_batch([], "ints")


def test_rows_of_an_array_are_inputs() -> None:
    lengths, body = pack_batch(np.arange(6.0).reshape(2, 3), "doubles")  # type: ignore[arg-type]
    assert lengths == 3
    assert body == np.arange(6.0).tobytes()


finite = st.floats(allow_nan=False, allow_infinity=False)
elements = {
    "ints": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9),
    "floats": st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=9),
    "doubles": st.lists(finite | st.integers(-(2**53), 2**53), max_size=9),
    "bytes": st.binary(max_size=9),
    "strings": st.text(max_size=9),
}


@pytest.mark.parametrize("input_type", INPUT_TYPES)
@pytest.mark.parametrize("bytes_as", ["int8", "uint8", "raw"])
@given(data=st.data())
def test_packed_batch_unpacks_to_the_same_values(input_type: Any, bytes_as: Any, data: st.DataObject) -> None:
    inputs = data.draw(st.lists(elements[input_type], min_size=1, max_size=6))
    lengths, body = pack_batch(inputs, input_type)
    batch = unpack_batch(INPUT_TYPES.index(input_type), len(inputs), lengths, body, bytes_as)
    assert len(batch) == len(inputs)
    for got, given_value in zip(batch, inputs, strict=True):
        if input_type == "strings" or (input_type == "bytes" and bytes_as == "raw"):
            assert got == given_value
        elif input_type == "bytes":
            assert got.tobytes() == given_value
        else:
            assert got.tolist() == given_value


@given(st.binary(max_size=30))
def test_base64_and_octets_pack_alike(data: bytes) -> None:
    assert encode_input(base64.b64encode(data).decode(), "bytes") == encode_input(data, "bytes")


@given(st.integers() | finite | st.booleans() | st.text(max_size=3) | st.none())
def test_every_scalar_is_packed_or_refused_by_name(value: Any) -> None:
    for input_type in ("ints", "floats", "doubles"):
        try:
            data, count = encode_input([value], input_type)
        except InvalidInput as error:
            assert "element 0" in error.message
        else:
            assert not isinstance(value, bool)
            assert (len(data), count) == (8 if input_type == "doubles" else 4, 1)
