"""What a wrapper returned, as JSON text."""

from __future__ import annotations

import collections
import json
import math
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipperfs.replica.encode import OutputError, encode_outputs, output_text

NAN, INF = float("nan"), float("inf")


class Tensor:
    """Like a tensor of some framework: no sequence, but it can give its numbers."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def tolist(self) -> Any:
        return self.values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("cat", b'"cat"'),
        ("", b'""'),
        ("[1, 2]", b"[1, 2]"),
        ('{"a": null}', b'{"a": null}'),
        ("3", b"3"),
        ("3.10", b"3.10"),
        ("true", b"true"),
        ('"quoted"', b'"quoted"'),
        ("NaN", b'"NaN"'),
        ("Infinity", b'"Infinity"'),
        ("1e999", b'"1e999"'),
        ("[1,]", b'"[1,]"'),
        ("{'a': 1}", b"\"{'a': 1}\""),
        ("01", b'"01"'),
        ("naïve", '"naïve"'.encode()),
        ('say "x"\n', b'"say \\"x\\"\\n"'),
        (b"[1]", b"[1]"),
        (b"cat", b'"cat"'),
        (np.str_("cat"), b'"cat"'),
        (1, b"1"),
        (2**63, b"9223372036854775808"),
        (2**70, b"1180591620717411303424"),
        ([2**70], b"[1180591620717411303424]"),
        (1.0, b"1.0"),
        (0.1, b"0.1"),
        (True, b"true"),
        (None, b"null"),
        (NAN, b'"NaN"'),
        (INF, b'"Infinity"'),
        (-INF, b'"-Infinity"'),
        ([1, 2.5, "a", None, True], b'[1,2.5,"a",null,true]'),
        ([NAN, None, 1.5], b'["NaN",null,1.5]'),
        (["null"], b'["null"]'),
        (["[1]"], b'["[1]"]'),
        ((1, 2), b"[1,2]"),
        ([[1, [2]]], b"[[1,[2]]]"),
        ([b"x"], b'["x"]'),
        ({"a": INF, 1: [b"x"]}, b'{"a":"Infinity","1":["x"]}'),
        (MappingProxyType({"a": 1}), b'{"a":1}'),
        (collections.OrderedDict(a=1), b'{"a":1}'),
        ([], b"[]"),
        ([7], b"[7]"),
        ({}, b"{}"),
        (np.float32(0.5), b"0.5"),
        (np.float64(NAN), b'"NaN"'),
        (np.int64(3), b"3"),
        (np.bool_(True), b"true"),
        (np.array([1, 2], np.int8), b"[1,2]"),
        (np.array(2.5), b"2.5"),
        (np.array([[1.5, NAN]]), b'[[1.5,"NaN"]]'),
        (np.array(["a", "b"]), b'["a","b"]'),
        ([np.float64(1.5), np.int64(2)], b"[1.5,2]"),
        ({np.str_("k"): np.array([1])}, b'{"k":[1]}'),
        (Tensor([1, 2]), b"[1,2]"),
    ],
)
def test_output_becomes_json_text(value: Any, text: bytes) -> None:
    assert output_text(value) == text


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "type object, which has no JSON form"),
        ({1, 2}, "type set"),
        ([object()], "type object"),
        (1j, "type complex"),
        ({1.5: 1}, "a key of type float"),
        ({None: 1}, "a key of type NoneType"),
        ({True: 1}, "a key of type bool"),
        (b"\xff", "cannot be written as JSON"),
        ("\ud800", "cannot be written as JSON"),
        (["\ud800"], "cannot be written as JSON"),
        (np.array([1j]), "type complex"),
    ],
)
def test_output_without_json_form_is_refused(value: Any, words: str) -> None:
    with pytest.raises(OutputError, match=words):
        output_text(value)


def test_output_that_is_nested_without_end_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(OutputError, match="nested more than 64"):
        output_text(endless)


def test_text_of_deeply_nested_json_becomes_a_string() -> None:
    text = "[" * 100_000 + "]" * 100_000
    assert json.loads(output_text(text)) == text


@pytest.mark.parametrize(
    ("outputs", "texts"),
    [
        (["a", "b", "a"], [b'"a"', b'"b"', b'"a"']),
        (["a", 1, None], [b'"a"', b"1", b"null"]),
        ((1, 2, 3), [b"1", b"2", b"3"]),
        (np.array([1, 2, 3]), [b"1", b"2", b"3"]),
        (np.array([1.5, NAN, 3]), [b"1.5", b'"NaN"', b"3.0"]),
        (np.array([True, False, True]), [b"true", b"false", b"true"]),
        (np.array([[1], [2], [3]]), [b"[1]", b"[2]", b"[3]"]),
        (np.zeros((3, 0)), [b"[]", b"[]", b"[]"]),
        (np.array([[1.5, INF], [0, 1], [2, 3]]), [b'[1.5,"Infinity"]', b"[0.0,1.0]", b"[2.0,3.0]"]),
        (np.array(["x", "3", "z"]), [b'"x"', b"3", b'"z"']),
        (np.array(["x", 1, None], dtype=object), [b'"x"', b"1", b"null"]),
        (np.array([b"x", b"y", b"1"]), [b'"x"', b'"y"', b"1"]),
        ([np.array([1.0])] * 3, [b"[1.0]"] * 3),
        ([{"p": np.float32(0.5)}] * 3, [b'{"p":0.5}'] * 3),
        (Tensor([1, 2, 3]), [b"1", b"2", b"3"]),
    ],
)
def test_batch_of_outputs_is_one_text_each(outputs: Any, texts: list[bytes]) -> None:
    assert encode_outputs(outputs, 3) == texts


@pytest.mark.parametrize(
    "outputs",
    [
        [1],
        [1, 2, 3],
        np.zeros(3),
        np.zeros((1, 2)),
        np.array(1.0),
        None,
        5,
        "ab",
        b"ab",
        {0: 1, 1: 2},
        {1, 2},
        iter([1, 2]),
        Tensor(1.0),
        Tensor([1]),
        memoryview(b"ab"),
        (value for value in (1, 2)),
    ],
)
def test_anything_but_a_list_of_the_right_length_is_refused(outputs: Any) -> None:
    with pytest.raises(OutputError, match=r"predict returned"):
        encode_outputs(outputs, 2)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=12,
)


@given(plain.filter(lambda value: not isinstance(value, str)))
def test_json_value_reads_back_as_itself(value: Any) -> None:
    assert json.loads(output_text(value), parse_constant=pytest.fail) == named(value)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_reads_back_as_what_it_says_or_as_itself(value: str) -> None:
    read = json.loads(output_text(value), parse_constant=pytest.fail)
    try:
        meant = json.loads(value, parse_constant=lambda name: pytest.fail)
    except ValueError:
        meant = value
    assert read in (meant, value)


def named(value: Any) -> Any:
    """Return ``value`` with what is not finite replaced by its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [named(item) for item in value]
    if isinstance(value, dict):
        return {key: named(item) for key, item in value.items()}
    return value
