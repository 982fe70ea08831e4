"""Bodies that are not plain JSON: what headers say of them, decompression within limits, raw inputs."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc

import pytest
import zstandard
from clipperfs.serverd.form import STEP_BYTES, VIEW_BYTES, BadBodyError, BodyForm, decompress, raw_inputs, read_form
from clipperfs.serverd.query import CODECS, BadQueryError
from hypothesis import given
from hypothesis import strategies as st

ENCODERS = {b"gzip": gzip.compress, b"zstd": zstandard.ZstdCompressor().compress}


def test_plain_json_has_no_form() -> None:
    assert read_form({}) is None
    assert read_form({b"content-type": b"text/plain"}) is None
    assert read_form({b"content-encoding": b"identity"}) is None


def test_raw_body_is_known_by_its_content_type() -> None:
    form = read_form({b"content-type": b"Image/png", b"clipperfs-dtype": b" UINT8 "})
    assert form == BodyForm(is_raw=True, media=b"image", dtype=b"uint8")
    assert read_form({b"content-type": b"application/octet-stream"}) == BodyForm(is_raw=True)
    assert read_form({b"content-type": b"multipart/form-data; boundary=x"}) == BodyForm(media=b"multipart")


@pytest.mark.parametrize("encoding", ENCODERS)
@given(body=st.binary(max_size=5000))
def test_compressed_body_comes_out_as_it_went_in(encoding: bytes, body: bytes) -> None:
    assert decompress(ENCODERS[encoding](body), encoding, 5000) == body


def test_gzip_of_several_members_is_one_body() -> None:
    assert decompress(gzip.compress(b"one") + gzip.compress(b"two"), b"gzip", 100) == b"onetwo"


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize("size", [0, 1, STEP_BYTES - 1, STEP_BYTES, 5 * STEP_BYTES + 7])
def test_body_of_the_limit_passes_and_one_byte_more_does_not(encoding: bytes, size: int) -> None:
    body = (b"0123456789" * (size // 10 + 1))[:size]
    assert decompress(ENCODERS[encoding](body), encoding, size) == body
    if size:
        with pytest.raises(BadBodyError, match=f"larger than {size - 1} bytes"):
            decompress(ENCODERS[encoding](body), encoding, size - 1)


@pytest.mark.parametrize("encoding", ENCODERS)
def test_memory_is_bounded_by_the_limit_and_not_by_the_bomb(encoding: bytes) -> None:
    bomb = ENCODERS[encoding](b"") + ENCODERS[encoding](b"\0" * 100_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(BadBodyError):
            decompress(bomb, encoding, 2_000_000)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ENCODERS)
def test_what_comes_out_is_held_once(encoding: bytes) -> None:
    body = os.urandom(8_000_000)
    packed = ENCODERS[encoding](body)
    tracemalloc.start()
    try:
        decompress(packed, encoding, 10_000_000)
        assert tracemalloc.get_traced_memory()[1] < 1.4 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ENCODERS)
def test_bomb_is_refused_at_the_limit(encoding: bytes) -> None:
    bomb = ENCODERS[encoding](b"\0" * 50_000_000)
    with pytest.raises(BadBodyError, match="larger than 1000000 bytes") as caught:
        decompress(bomb, encoding, 1_000_000)
    assert caught.value.status == 413


def test_zstd_of_several_frames_is_one_body() -> None:
    pack = zstandard.ZstdCompressor(write_content_size=False).compressobj
    frames = b"".join(one.compress(b"part") + one.flush() for one in (pack(), pack()))
    assert decompress(frames, b"zstd", 100) == b"partpart"


def test_limit_counts_all_members_together() -> None:
    with pytest.raises(BadBodyError, match="larger than 1000 bytes"):
        decompress(gzip.compress(b"x" * 600) * 2, b"gzip", 1000)


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize("damage", ["cut", "garbage", "tail"])
def test_damaged_body_is_a_bad_request(encoding: bytes, damage: str) -> None:
    whole = ENCODERS[encoding](b"hello " * 1000)
    body = {"cut": whole[: len(whole) // 2], "garbage": b"not at all", "tail": whole + b"tail"}[damage]
    with pytest.raises(BadBodyError) as caught:
        decompress(body, encoding, 100_000)
    assert caught.value.status == 400


@given(st.binary(max_size=200), st.sampled_from(sorted(ENCODERS)))
def test_any_bytes_end_in_a_body_or_a_refusal(body: bytes, encoding: bytes) -> None:
    try:
        decompress(body, encoding, 10_000)
    except BadBodyError as error:
        assert error.status in (400, 413)


def test_unknown_encoding_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(BadBodyError, match="gzip and zstd") as caught:
        decompress(b"", b"br", 10)
    assert caught.value.status == 415


def test_raw_body_is_one_input_or_rows() -> None:
    body = struct.pack("<6f", *range(6))
    codec = CODECS["floats"]
    assert raw_inputs(body, BodyForm(is_raw=True), codec) == body
    assert raw_inputs(body, BodyForm(is_raw=True, shape=b"6"), codec) == body
    assert raw_inputs(body, BodyForm(is_raw=True, shape=b"2, 3", dtype=b"float32"), codec) == [body[:12], body[12:]]
    assert raw_inputs(b"\x89PNG", BodyForm(is_raw=True), CODECS["bytes"]) == b"\x89PNG"


def test_rows_of_a_large_raw_body_are_views_of_it() -> None:
    body = bytes(VIEW_BYTES)
    rows = raw_inputs(body, BodyForm(is_raw=True, shape=b"2,%d" % (VIEW_BYTES // 8)), CODECS["floats"])
    assert isinstance(rows, list)
    assert [getattr(row, "obj", None) is body for row in rows] == [True, True]
    assert b"".join(rows) == body


@pytest.mark.parametrize(
    ("kind", "body", "form", "says"),
    [
        ("floats", b"x" * 8, BodyForm(dtype=b"float64"), "for floats float32, little-endian, is expected"),
        ("floats", b"x" * 8, BodyForm(dtype=b">f4"), "says >f4; for floats float32, little-endian, is expected"),
        ("floats", b"x" * 8, BodyForm(media=b"image"), "type image/… is for applications of input type bytes"),
        ("strings", b"x" * 8, BodyForm(media=b"video"), "this one takes strings"),
        ("floats", b"x" * 7, BodyForm(), "no whole number of float32 elements"),
        ("doubles", b"x" * 16, BodyForm(shape=b"3"), "the shape 3 needs 24"),
        ("doubles", b"x" * 16, BodyForm(shape=b"2,2"), "the shape 2,2 needs 32"),
        ("doubles", b"x" * 16, BodyForm(shape=b"1,1,2"), "not 1,1,2"),
        ("doubles", b"x" * 16, BodyForm(shape=b"-1"), "not -1"),
        ("doubles", b"", BodyForm(shape=b"0,4"), "0 rows"),
        ("bytes", b"x" * 99_999, BodyForm(shape=b"99999,1"), "more than 16384 rows"),
        ("strings", b"\xff", BodyForm(), "not UTF-8"),
        ("strings", b"ab", BodyForm(dtype=b"uint8"), "none is expected"),
    ],
)
def test_raw_body_that_does_not_fit_is_explained(kind: str, body: bytes, form: BodyForm, says: str) -> None:
    with pytest.raises(BadQueryError, match=says):
        raw_inputs(body, form, CODECS[kind])


@given(st.binary(max_size=64), st.binary(max_size=12), st.binary(max_size=12), st.sampled_from(sorted(CODECS)))
def test_any_raw_body_is_inputs_of_whole_elements_or_a_refusal(
    body: bytes, shape: bytes, dtype: bytes, kind: str
) -> None:
    codec = CODECS[kind]
    try:
        inputs = raw_inputs(body, BodyForm(is_raw=True, shape=shape, dtype=dtype), codec)
    except BadQueryError:
        return
    rows = inputs if isinstance(inputs, list) else [inputs]
    assert b"".join(rows) == body
    assert all(len(row) % codec.element_bytes == 0 for row in rows)


@pytest.mark.parametrize("encoding", ENCODERS)
def test_time_grows_with_the_body_and_not_with_its_square(encoding: bytes) -> None:
    empty = ENCODERS[encoding](b"")

    def bytes_copied(members: int) -> int:
        copied = 0
        real = memoryview.__getitem__

        class View:
            """Counts what is handed to the decoders."""

            def __init__(self, body: bytes) -> None:
                self.view = memoryview(body)

            def __len__(self) -> int:
                return len(self.view)

            def __getitem__(self, part: slice) -> memoryview:
                nonlocal copied
                piece = real(self.view, part)
                copied += len(piece)
                return piece

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("clipperfs.serverd.form.memoryview", View, raising=False)
            assert decompress(empty * members, encoding, 1000) == b""
        return copied

    few, many = bytes_copied(1000), bytes_copied(4000)
    assert few > 0
    assert many < 5 * few


@pytest.mark.parametrize("encoding", ENCODERS)
@given(members=st.lists(st.binary(max_size=3000), min_size=1, max_size=5))
def test_members_of_any_size_are_one_body(encoding: bytes, members: list[bytes]) -> None:
    body = b"".join(map(ENCODERS[encoding], members))
    assert decompress(body, encoding, 20_000) == b"".join(members)
