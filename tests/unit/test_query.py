"""Predict bodies: what each input type takes, and what is refused with which reason."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from clipperfs.serverd.query import (
    CODECS,
    JSON_ERROR,
    MAX_STRUCTS,
    QUERY_ERROR,
    REFUSALS,
    BadQueryError,
    answer_body,
    batch_body,
    check_input,
    default_body,
    nest_output,
)
from hypothesis import given
from hypothesis import strategies as st

from clipperfs.replica.encode import encode_input


def read(input_type: str, body: bytes) -> bytes:
    """Return the packed input of a body, as the handler does."""
    codec = CODECS[input_type]
    try:
        packed = codec.pack(codec.decode(body).input)
    except REFUSALS as error:
        raise codec.explain(error, body) from error
    check_input(packed, codec, None, "m")
    return packed


@pytest.mark.parametrize(
    ("input_type", "value", "packed"),
    [
        ("ints", b"[1, -2147483648, 2147483647]", struct.pack("<3i", 1, -(2**31), 2**31 - 1)),
        ("floats", b"[1, 2.5, -0.0, 1e-50]", struct.pack("<4f", 1, 2.5, -0.0, 0)),
        ("doubles", b"[1, 2.5, 1e308, 12345678901234567890]", struct.pack("<4d", 1, 2.5, 1e308, 12345678901234567890)),
        ("bytes", b'"AAEC/w=="', b"\x00\x01\x02\xff"),
        ("strings", '"gr\\u00fcn 🌳"'.encode(), "grün 🌳".encode()),
        ("strings", b'"a\\u0000b"', b"a\0b"),
    ],
)
def test_input_of_its_type_is_packed_little_endian(input_type: str, value: bytes, packed: bytes) -> None:
    assert read(input_type, b'{"input": %b}' % value) == packed


DEEP = b"[" * 100_000

BAD = [
    ("doubles", b"", JSON_ERROR),
    ("doubles", b"{", JSON_ERROR),
    ("doubles", b'{"input":[1,]}', JSON_ERROR),
    ("doubles", b'{"input":[NaN]}', JSON_ERROR),
    ("doubles", b'{"input":[Infinity]}', JSON_ERROR),
    ("doubles", b'{"input":[1]} x', JSON_ERROR),
    ("doubles", b'\xef\xbb\xbf{"input":[1]}', JSON_ERROR),
    ("doubles", '{"input":[1]}'.encode("utf-16"), JSON_ERROR),
    ("doubles", b'{"other":%b' % DEEP, JSON_ERROR),
    ("doubles", b'{"input":%b' % DEEP, QUERY_ERROR),
    ("doubles", b'{"input":[1e999]}', QUERY_ERROR),
    ("doubles", b'{"input":[%b]}' % (b"9" * 400), QUERY_ERROR),
    ("doubles", b'{"input":[true]}', QUERY_ERROR),
    ("doubles", b'{"input":["1"]}', QUERY_ERROR),
    ("doubles", b'{"input":[[1]]}', QUERY_ERROR),
    ("doubles", b'{"input":[null]}', QUERY_ERROR),
    ("doubles", b'{"input":1}', QUERY_ERROR),
    ("doubles", b'{"input":null}', QUERY_ERROR),
    ("doubles", b'{"input":[]}', QUERY_ERROR),
    ("doubles", b"[]", QUERY_ERROR),
    ("doubles", b"1", QUERY_ERROR),
    ("doubles", b'{"input":[1],"version":3}', QUERY_ERROR),
    ("floats", b'{"input":[1e39]}', QUERY_ERROR),
    ("floats", b'{"input":[-3.5e38]}', QUERY_ERROR),
    ("ints", b'{"input":[1.0]}', QUERY_ERROR),
    ("ints", b'{"input":[1e2]}', QUERY_ERROR),
    ("ints", b'{"input":[2147483648]}', QUERY_ERROR),
    ("ints", b'{"input":[-2147483649]}', QUERY_ERROR),
    ("ints", b'{"input":[%b]}' % (b"9" * 30), QUERY_ERROR),
    ("ints", b'{"input":[%b]}' % (b"9" * 5000), QUERY_ERROR),
    ("ints", b'{"input":[false]}', QUERY_ERROR),
    ("bytes", b'{"input":"A"}', QUERY_ERROR),
    ("bytes", b'{"input":"A A="}', QUERY_ERROR),
    ("bytes", b'{"input":"QUJD\\n"}', QUERY_ERROR),
    ("bytes", b'{"input":[1]}', QUERY_ERROR),
    ("bytes", b'{"input":""}', QUERY_ERROR),
    ("strings", b'{"input":"\xff"}', JSON_ERROR),
    ("strings", b'{"input":"\\ud800 and more text here"}', JSON_ERROR),
    ("strings", b'{"input":"\\ud800"}', JSON_ERROR),
    ("strings", b'{"input":"\\udc00\\ud800"}', JSON_ERROR),
    ("strings", b'{"input":1}', QUERY_ERROR),
    ("strings", b'{"input":""}', QUERY_ERROR),
]


@pytest.mark.parametrize(("input_type", "body", "error"), BAD)
def test_input_that_does_not_fit_is_refused_with_a_cause(input_type: str, body: bytes, error: str) -> None:
    with pytest.raises(BadQueryError) as caught:
        read(input_type, body)
    assert caught.value.error == error
    assert caught.value.cause


def test_cause_names_the_element() -> None:
    with pytest.raises(BadQueryError, match="element 2 is 2147483648, which does not fit 32 bits"):
        read("ints", b'{"input":[1,2,2147483648]}')
    codec = CODECS["floats"]
    body = b'{"input_batch":[[1],[2,1e39]]}'
    with pytest.raises(OverflowError) as caught:
        [codec.pack(value) for value in codec.decode(body).input_batch or ()]
    assert codec.explain(caught.value, body).cause.startswith("input_batch[1]: element 1 is 1e+39")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(CODECS)), plain)
def test_what_the_query_interface_takes_is_what_hooks_and_samples_take(input_type: Any, value: Any) -> None:
    body = json.dumps({"input": value}).encode()
    try:
        packed: bytes | None = read(input_type, body)
    except BadQueryError:
        packed = None
    if packed is not None:
        assert encode_input(value, input_type)[0] == packed


@given(
    st.sampled_from(["floats", "doubles"]), st.lists(st.floats(allow_nan=False, width=32) | st.integers(), min_size=1)
)
def test_numbers_are_packed_or_refused_never_made_infinite(input_type: str, values: list[float]) -> None:
    try:
        packed = read(input_type, json.dumps({"input": values}).encode())
    except BadQueryError:
        return
    code = "f" if input_type == "floats" else "d"
    for got, wanted in zip(struct.unpack(f"<{len(values)}{code}", packed), values, strict=True):
        assert got == pytest.approx(float(wanted), rel=1e-6)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for input_type in CODECS:
        try:
            read(input_type, body)
        except BadQueryError as error:
            json.dumps([error.error, error.cause]).encode()
        except TypeError:
            assert b"input" not in body  # the handler asks for the field first


def test_of_two_fields_of_one_name_the_last_counts_and_others_are_passed_over() -> None:
    assert read("ints", b'{"input":[1],"more":{"a":[1]},"input":[2]}') == struct.pack("<i", 2)


def test_wrong_number_of_elements_is_refused_when_the_model_says_how_many() -> None:
    codec = CODECS["floats"]
    check_input(b"1234" * 3, codec, 3, "m")
    with pytest.raises(BadQueryError, match="model m expects 3 elements in an input, not 2"):
        check_input(b"1234" * 2, codec, 3, "m")


def test_formats_at_hand_are_bounded() -> None:
    codec = CODECS["ints"]
    for count in range(1, MAX_STRUCTS + 50):
        codec.pack([0] * count)
    closure: Any = codec.pack.__closure__
    assert max(len(cell.cell_contents) for cell in closure if isinstance(cell.cell_contents, dict)) <= MAX_STRUCTS


@pytest.mark.parametrize(
    ("text", "nested"),
    [("0", 0), ("-1.5", -1.5), ('{"a": [1]}', {"a": [1]}), ("null", None), ("NaN", "NaN"), ("no", "no"), ("", "")],
)
def test_default_output_is_nested_when_it_is_json(text: str, nested: Any) -> None:
    assert json.loads(nest_output(text)) == nested


def test_replies_have_exactly_the_documented_fields() -> None:
    assert answer_body(7, b"[1]") == b'{"query_id":7,"output":[1],"default":false}'
    default = json.loads(default_body(8, b'"x"', 'a "reason"\n'))
    assert default == {"query_id": 8, "output": "x", "default": True, "default_explanation": 'a "reason"\n'}
    assert json.loads(batch_body([answer_body(1, b"2"), answer_body(2, b"3")])) == {
        "batch_predictions": [
            {"query_id": 1, "output": 2, "default": False},
            {"query_id": 2, "output": 3, "default": False},
        ]
    }
