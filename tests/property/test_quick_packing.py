"""The short cut for long lists of numbers never says anything else than the usual way."""

from __future__ import annotations

import json

import pytest
from clipperfs.serverd.query import CODECS, REFUSALS
from clipperfs.serverd.quick import quick_packer
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("simdjson")

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70), st.floats(-1, 1), st.integers(-9, 9)
)
strange = st.sampled_from(
    [
        "1e400", "-1e400", "1e39", "01", "1.", ".5", "+1", "0x1", "NaN", "Infinity", "-0", "-0.0", "1E5", "null",
        "true", '"1"', "[1]", "[[1, 2], [3]]", "{}", "", "1 2", "1,", "18446744073709551616", "1e-400", "\u00e9",
        "-", "1e",
    ]
)  # fmt: skip
frames = st.sampled_from(
    [
        '{"input": [%s]}', '{"input":[%s]}', ' {"input":[%s]}', '{"input":[%s]} ', '{"input":[%s]}x', '{"input":[%s]',
        '{"inputs":[%s]}', '{"input":[%s],"version":"1"}', '{"input":[%s],"input":[1]}', '{"input_batch":[[%s]]}',
        '\ufeff{"input":[%s]}', "[%s]", '{"input":%s}', "{'input':[%s]}", '{"input":[%s]}\n{"input":[1]}',
    ]
)  # fmt: skip


def usual(kind: str, body: bytes) -> bytes | None:
    """Return what the usual way packs, or None when it refuses, or wants more than the input."""
    codec = CODECS[kind]
    try:
        request = codec.decode(body)
        return codec.pack(request.input) if request.version is None and request.key is None else None
    except (*REFUSALS, TypeError):
        return None


@pytest.mark.parametrize("kind", ["floats", "doubles"])
@given(values=st.lists(st.one_of(numbers.map(json.dumps), strange), max_size=8), frame=frames)
@example(values=["1", "2.5"], frame='{"input": [%s]}')
@example(values=["3.4028235677973366e38"], frame='{"input": [%s]}')
def test_what_the_short_cut_packs_is_what_the_usual_way_packs(kind: str, values: list[str], frame: str) -> None:
    pack = quick_packer(kind)
    assert pack is not None
    body = (frame % ", ".join(values)).encode()
    found = pack(body)
    assert found is None or found == usual(kind, body)


@given(st.binary(min_size=1, max_size=60))
def test_any_bytes_are_packed_alike_or_given_back(body: bytes) -> None:
    for kind in ("floats", "doubles"):
        pack = quick_packer(kind)
        assert pack is not None
        found = pack(body)
        assert found is None or found == usual(kind, body)


def test_usual_long_body_takes_the_short_cut() -> None:
    body = json.dumps({"input": [number / 7 for number in range(784)]}).encode()
    for kind in ("floats", "doubles"):
        pack = quick_packer(kind)
        assert pack is not None
        assert pack(body) == usual(kind, body) is not None


@pytest.mark.parametrize("kind", ["ints", "bytes", "strings"])
def test_other_input_types_have_no_short_cut(kind: str) -> None:
    assert quick_packer(kind) is None
