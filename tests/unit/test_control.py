"""The control channel's framing."""

from __future__ import annotations

import itertools

import pytest
from clipperfs.serverd import control
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(0, 400), max_size=8))
def test_messages_survive_any_cut(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(control.pack_message(control.TEXT, id=number, body=body) for number, body in enumerate(bodies))
    bounds = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    reader = control.FrameReader()
    messages = [m for start, end in itertools.pairwise(bounds) for m in reader.feed(stream[start:end])]
    assert [message["body"] for message in messages] == bodies
    assert [message["id"] for message in messages] == list(range(len(bodies)))


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\xc1",
        b"\0\0\0\1\x01",
        b"\0\0\0\1\x80",
        b"\0\0\0\3\x81\xa1t",
        b"\0\0\0\4\x81\xa1t\1",
    ],
)
def test_frame_that_breaks_the_rules_is_an_error(frame: bytes) -> None:
    with pytest.raises(control.ControlError):
        control.FrameReader().feed(frame)
