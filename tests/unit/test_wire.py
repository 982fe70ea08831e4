"""The wrapper protocol's frames: headers there and back, batches from bodies, and hostile bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipperfs import wire
from clipperfs.errors import InvalidSetting, LoadFailed, PredictFailed
from clipperfs.replica.batch import unpack_batch
from clipperfs.replica.session import split_outputs
from clipperfs.replica.spec import failure_reason, split_reason

INTS, FLOATS, DOUBLES, BYTES, STRINGS = range(5)


def test_header_survives_the_way() -> None:
    assert wire.unpack_header(wire.pack_header(wire.PREDICT, 2**60, 2, 3, [1, 2, 3])) == [3, 2**60, 2, 3, [1, 2, 3]]


@given(st.binary(max_size=60))
def test_hostile_header_is_refused_or_an_array_that_begins_with_its_kind(frame: bytes) -> None:
    try:
        fields = wire.unpack_header(frame)
    except wire.WireError:
        return
    assert isinstance(fields[0], int)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x90",
        b"\x01",
        b"\xc1",
        b"\x91\xa1x",
        b"\x91\x01\x00",
        msgpack.packb([1, {"a": 1}]),
        msgpack.packb([1, b"x"]),
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000,
        msgpack.packb([3, msgpack.ExtType(1, b"x")]),
    ],
)
def test_frame_that_is_no_header_is_refused(frame: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.unpack_header(frame)


def test_one_length_stands_for_all_that_are_equal() -> None:
    assert wire.common_length([4, 4, 4]) == 4
    assert wire.common_length([4, 5]) == [4, 5]
    assert wire.common_length([0]) == 0


@pytest.mark.parametrize(
    ("code", "dtype"), [(INTS, np.int32), (FLOATS, np.float32), (DOUBLES, np.float64), (BYTES, np.int8)]
)
def test_inputs_of_one_length_are_one_read_only_array(code: int, dtype: Any) -> None:
    rows = np.arange(6, dtype=dtype).reshape(3, 2)
    batch = unpack_batch(code, 3, 2, rows.tobytes())
    assert isinstance(batch, np.ndarray)
    assert batch.shape == (3, 2) and batch.dtype == dtype and batch.flags.c_contiguous
    assert (batch == rows).all()
    with pytest.raises(ValueError, match="read-only"):
        batch[0, 0] = 1


def test_numbers_are_views_of_the_body_not_copies() -> None:
    body = bytes(80)
    assert unpack_batch(DOUBLES, 5, 2, body).base is not None  # type: ignore[union-attr]
    assert np.shares_memory(unpack_batch(DOUBLES, 5, 2, body), np.frombuffer(body))


def test_body_in_writable_memory_is_read_only_too() -> None:
    batch = unpack_batch(DOUBLES, 1, 1, memoryview(bytearray(8)))
    assert not batch.flags.writeable  # type: ignore[union-attr]


def test_body_that_is_not_aligned_is_copied_into_place() -> None:
    body = memoryview(b"x" + np.arange(3.0).tobytes())[1:]
    batch = unpack_batch(DOUBLES, 3, 1, body)
    assert batch.flags.aligned and batch.tolist() == [[0.0], [1.0], [2.0]]  # type: ignore[union-attr]


def test_mixed_lengths_are_a_list_of_read_only_arrays() -> None:
    batch = unpack_batch(INTS, 3, [2, 0, 1], np.array([1, 2, 3], "<i4").tobytes())
    assert [item.tolist() for item in batch] == [[1, 2], [], [3]]  # type: ignore[union-attr]
    assert not any(item.flags.writeable for item in batch)  # type: ignore[union-attr]


def test_bytes_arrive_as_the_wrapper_asks() -> None:
    assert unpack_batch(BYTES, 1, 2, b"\xff\x01", "int8").tolist() == [[-1, 1]]  # type: ignore[union-attr]
    assert unpack_batch(BYTES, 1, 2, b"\xff\x01", "uint8").tolist() == [[255, 1]]  # type: ignore[union-attr]
    assert unpack_batch(BYTES, 2, [0, 2], b"\xff\x01", "raw") == [b"", b"\xff\x01"]
    assert unpack_batch(BYTES, 2, 1, memoryview(b"ab"), "raw") == [b"a", b"b"]


def test_strings_are_cut_by_their_bytes() -> None:
    assert unpack_batch(STRINGS, 3, [0, 3, 2], "☃é".encode()) == ["", "☃", "é"]
    assert unpack_batch(STRINGS, 2, 0, b"") == ["", ""]


@pytest.mark.parametrize(
    ("code", "count", "lengths", "body"),
    [
        (7, 1, 1, b"\0" * 8),
        (-1, 1, 1, b"\0"),
        (None, 1, 1, b"\0"),
        (True, 1, 1, b"\0" * 4),
        (DOUBLES, 0, 1, b""),
        (DOUBLES, -1, -1, b"\0" * 8),
        (DOUBLES, "1", 1, b"\0" * 8),
        (DOUBLES, 1, -1, b""),
        (DOUBLES, 1, 1.0, b"\0" * 8),
        (DOUBLES, 1, None, b"\0" * 8),
        (DOUBLES, 1, True, b"\0" * 8),
        (DOUBLES, 1, 1, b"\0" * 7),
        (DOUBLES, 2, 1, b"\0" * 8),
        (DOUBLES, 2, [1], b"\0" * 8),
        (DOUBLES, 2, [2, -1], b"\0" * 8),
        (DOUBLES, 2, [1, "0"], b"\0" * 8),
        (DOUBLES, 2**62, 2**62, b"\0" * 8),
        (STRINGS, 1, 1, b"\xff"),
        (STRINGS, 2, [1, 2], "aé".encode()[:2] + b"x"),
    ],
)
def test_batch_whose_numbers_contradict_is_refused(code: Any, count: Any, lengths: Any, body: bytes) -> None:
    with pytest.raises(wire.WireError):
        unpack_batch(code, count, lengths, body)


integers = st.integers(-3, 9) | st.integers()


@given(integers, integers, integers | st.lists(integers, max_size=5), st.binary(max_size=40))
def test_hostile_batch_is_refused_or_has_its_count(code: int, count: int, lengths: Any, body: bytes) -> None:
    try:
        batch = unpack_batch(code, count, lengths, body)
    except wire.WireError:
        return
    assert len(batch) == count


def test_zero_length_batch_cannot_ask_for_memory() -> None:
    """A header of a few bytes must not make a list of a billion empty texts."""
    with pytest.raises(wire.WireError):
        unpack_batch(STRINGS, 10**9, 0, b"")


def test_outputs_are_parsed_and_must_fill_the_body() -> None:
    assert split_outputs([1, 4], b'1"ab"') == [1, "ab"]
    for lengths, body in (([1], b"12"), ([3], b"12"), ([2, 2], b"12"), ([0], b"")):
        with pytest.raises(PredictFailed):
            split_outputs(lengths, body)


def test_reason_has_the_hint_on_its_second_line() -> None:
    reason = failure_reason(LoadFailed("a\nb  c", hint="do\nthis"))
    assert reason == "a b c\ndo this"
    assert split_reason(reason) == ("a b c", "do this")
    assert split_reason("alone") == ("alone", None)


def test_reason_of_a_missing_framework_names_the_extra() -> None:
    for module, extra in (("sklearn.base", "sklearn"), ("onnxruntime", "onnx"), ("cloudpickle", "closure")):
        reason = failure_reason(ModuleNotFoundError(f"No module named {module!r}", name=module))
        assert reason.endswith(f"\npip install 'clipperfs[{extra}]'")


def test_reason_of_a_foreign_exception_says_where_it_was_raised() -> None:
    try:
        Path("/nowhere/at/all").read_text()
    except OSError as error:
        reason = failure_reason(error)
    assert reason.startswith("FileNotFoundError: ") and "pathlib.py:" in reason


def test_reason_is_bounded() -> None:
    assert len(failure_reason(InvalidSetting("x" * 10**6, hint="y" * 10**6))) < wire.MAX_REASON_CHARS
    assert len(failure_reason(ValueError("x" * 10**6))) < wire.MAX_REASON_CHARS


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.binary(max_size=60)), max_size=8),
    st.lists(st.integers(1, 40), max_size=30),
)
def test_frames_come_out_of_a_lane_as_they_went_in_however_they_are_cut(
    messages: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(wire.pack_frame_head(header, len(body)) + body for header, body in messages)
    cutter = wire.FrameCutter()
    found = []
    for size in [*cuts, len(stream)]:
        piece, stream = stream[:size], stream[size:]
        found += [(header, bytes(body)) for header, body in cutter.feed(piece)]
    assert found == messages


sizes_of_bodies = st.integers(0, 60) | st.sampled_from([wire.BUFFER_BYTES, 3 * wire.BUFFER_BYTES + 1])


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=20), sizes_of_bodies), max_size=8), st.data())
def test_frames_come_out_of_a_buffer_as_they_went_in_however_they_arrive(
    messages: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    expected = [(header, bytes([at + 1]) * size) for at, (header, size) in enumerate(messages)]
    stream = b"".join(wire.pack_frame_head(header, len(body)) + body for header, body in expected)
    buffer = wire.FrameBuffer()
    found = []
    while stream:
        room = buffer.room()
        assert len(room) > 0
        size = min(len(room), len(stream), data.draw(st.integers(1, 40) | st.just(1 << 30)))
        room[:size] = stream[:size]
        stream = stream[size:]
        found += [(header, bytes(body)) for header, body in buffer.take(size)]
    assert found == expected


def test_buffer_lets_go_of_the_room_of_a_very_large_frame() -> None:
    buffer = wire.FrameBuffer()
    stream = b"".join(
        wire.pack_frame_head(b"h", size) + bytes(size) for size in (2 * wire.MAX_KEPT_BYTES, wire.BUFFER_BYTES, 1)
    )
    count, rooms = 0, []
    while stream:
        room = buffer.room()
        rooms.append(len(room))
        size = min(len(room), len(stream))
        room[:size] = stream[:size]
        stream = stream[size:]
        count += len(list(buffer.take(size)))
    assert count == 3
    assert max(rooms) > wire.MAX_KEPT_BYTES
    assert len(buffer.room()) == wire.BUFFER_BYTES


def test_frame_that_is_too_large_for_a_buffer_is_refused() -> None:
    buffer = wire.FrameBuffer()
    buffer.room()[:8] = wire.MAX_LANE_FRAME_BYTES.to_bytes(4, "little") + bytes(4)
    with pytest.raises(wire.WireError, match="is larger than"):
        list(buffer.take(8))


def test_body_lies_aligned_in_its_frame() -> None:
    for size in range(1, 20):
        assert len(wire.pack_frame_head(b"h" * size, 5)) % wire.ALIGNMENT == 0


@pytest.mark.parametrize("cut", [3, 8, 100])
def test_frame_that_is_too_large_is_refused_as_soon_as_its_size_is_known(cut: int) -> None:
    stream = (wire.MAX_LANE_FRAME_BYTES).to_bytes(4, "little") + bytes(200)
    cutter = wire.FrameCutter()
    with pytest.raises(wire.WireError, match="is larger than"):
        for piece in (stream[:cut], stream[cut:]):
            list(cutter.feed(piece))
