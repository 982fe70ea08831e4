"""Bodies that are not plain JSON: compressed ones, and inputs as raw little-endian numbers or bytes. Pure.

The headers that describe a raw body, beside ``Content-Type: application/octet-stream`` (or image/, audio/, video/):

    Clipperfs-Dtype: float32      the elements' type; the application's when it is left out
    Clipperfs-Shape: 784          elements of one input, or rows and elements: 32,784; one input when it is left out
    Clipperfs-Version: v2         a version or an alias, as the body's "version" does in JSON
    Clipperfs-Key: user-17        what decides which side of a rollout answers, as the body's "key" does in JSON
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from clipperfs.wire import Body, Packed

from .query import MAX_BATCH_INPUTS, QUERY_ERROR, BadQueryError, InputCodec

RAW_TYPES: Final = (b"application/octet-stream", b"image/", b"audio/", b"video/")
MEDIA_TYPES: Final = (*RAW_TYPES[1:], b"multipart/")
DTYPES: Final[Mapping[str, tuple[bytes, ...]]] = {
    "ints": (b"int32", b"<i4"),
    "floats": (b"float32", b"<f4"),
    "doubles": (b"float64", b"<f8"),
    "bytes": (b"uint8", b"int8", b"|u1", b"|i1"),
    "strings": (),
}
"""What ``Clipperfs-Dtype`` may say for each input type; the first is how it is called in messages."""
SHAPE: Final = re.compile(rb"[0-9]{1,10}( ?, ?[0-9]{1,10})?")
FIRST_PIECE_BYTES: Final = 256
"""Of each member of a compressed body; each further piece is four times as long, up to LAST_PIECE_BYTES."""
LAST_PIECE_BYTES: Final = 256 * 1024
STEP_BYTES: Final = 1024 * 1024
"""What is decompressed at a time."""
VIEW_BYTES: Final = 64 * 1024
"""The rows of a raw body from this size on are views of it instead of copies."""
BODY_ERROR: Final = "Body error"
"""The value of ``error`` when a body cannot be decompressed."""


class BadBodyError(Exception):
    """A compressed body cannot be read: the status and the cause of the reply."""

    def __init__(self, status: int, cause: str) -> None:
        super().__init__(cause)
        self.status = status
        self.cause = cause


@dataclass(frozen=True, slots=True)
class BodyForm:
    """What the headers say of a body. Empty fields were not given."""

    encoding: bytes = b""
    is_raw: bool = False
    media: bytes = b""
    """``image``, ``audio`` or ``video`` of a raw body that says so, or ``multipart``."""
    dtype: bytes = b""
    shape: bytes = b""
    version: bytes = b""
    key: bytes = b""


def read_form(headers: Mapping[bytes, bytes]) -> BodyForm | None:
    """Return what the headers (names in lower case) say of the body, or None when it is plain JSON."""
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    kind = headers.get(b"content-type", b"").strip().lower()
    form = BodyForm(
        encoding=b"" if encoding == b"identity" else encoding,
        is_raw=kind.startswith(RAW_TYPES),
        media=kind.partition(b"/")[0] if kind.startswith(MEDIA_TYPES) else b"",
        dtype=headers.get(b"clipperfs-dtype", b"").strip().lower(),
        shape=headers.get(b"clipperfs-shape", b"").strip(),
        version=headers.get(b"clipperfs-version", b"").strip(),
        key=headers.get(b"clipperfs-key", b"").strip(),
    )
    return None if form == BodyForm() else form


def decompress(body: Body, encoding: bytes, limit_bytes: int) -> bytes:
    """Return a body as it was before it was compressed. Takes time: not for large bodies on the loop.

    Guarantees: never holds more than the body, what comes out of it, and ``STEP_BYTES``; what comes out is held once.
    Lets go of the interpreter's lock every megabyte or so, for those who serve others beside it.

    Raises:
        BadBodyError: with 413 for more than ``limit_bytes``, 400 for bytes that are not of this encoding or cut short,
            415 for an encoding that is not known here.
    """
    if encoding in (b"gzip", b"x-gzip"):
        return _gunzip(body, limit_bytes)
    if encoding == b"zstd":
        return _unzstd(body, limit_bytes)
    raise BadBodyError(415, f"the Content-Encoding {encoding.decode('ascii', 'backslashreplace')} is not known: "
                            "gzip and zstd are")  # fmt: skip


def _gunzip(body: Body, limit_bytes: int) -> bytes:
    out = bytearray()

    def inflate(member: Any, piece: memoryview | bytes) -> int:
        while True:
            out.extend(member.decompress(piece, min(limit_bytes + 1 - len(out), STEP_BYTES)))
            if len(out) > limit_bytes:
                raise _too_large(limit_bytes)
            piece = member.unconsumed_tail
            if not piece:
                return len(member.unused_data)

    try:
        _read_members(body, lambda: zlib.decompressobj(wbits=31), inflate, "gzip")
    except zlib.error as error:
        raise BadBodyError(400, f"the body is not gzip: {error}") from None
    return cast(bytes, out)  # large: handed on as it is


def _unzstd(body: Body, limit_bytes: int) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise BadBodyError(415, "zstd bodies need the package zstandard: pip install 'clipperfs[zstd]'") from None
    decoder = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    out = bytearray()

    def inflate(frame: Any, piece: memoryview) -> int:
        out.extend(frame.decompress(piece))
        return len(frame.unused_data)

    try:
        whole = _unzstd_at_once(zstandard, decoder, body, limit_bytes)
        if whole is not None:
            return whole
        # The reader can be stopped at a size, but does not notice an end that is missing; decompressobj does.
        scratch = bytearray(min(STEP_BYTES, limit_bytes + 1))
        reader, size = decoder.stream_reader(body, read_across_frames=True), 0
        while got := reader.readinto(scratch):
            size += got
            if size > limit_bytes:
                raise _too_large(limit_bytes)
        _read_members(body, decoder.decompressobj, inflate, "zstd")
    except zstandard.ZstdError as error:
        raise BadBodyError(400, f"the body is not zstd: {error}") from None
    return cast(bytes, out)  # large: handed on as it is


def _unzstd_at_once(zstandard: Any, decoder: Any, body: Body, limit_bytes: int) -> bytes | None:
    """Return what a single frame holds that says how much that is, as most do; None for any other body."""
    size = zstandard.frame_content_size(body)
    if size <= 0:  # not said; or nothing, and then it would not look at what follows
        return None
    if size > limit_bytes:
        raise _too_large(limit_bytes)
    try:
        return bytes(decoder.decompress(body, allow_extra_data=False))
    except zstandard.ZstdError:
        return None  # several frames, or damage: the long way tells


def _read_members(
    body: Body, begin: Callable[[], Any], inflate: Callable[[Any, memoryview], int], encoding: str
) -> None:
    """Hand the members (RFC 1952 §2.2) or frames of a body to ``inflate``, one behind the other, in pieces.

    A member that ends copies what follows it in the piece that it was given, and ``inflate`` returns how much that is.
    So it is given a small piece first, then larger ones: the time grows with the body, and not with its square when it
    has a million empty members.
    """
    view = memoryview(body)
    position = 0
    while position < len(view):
        member = begin()
        size = FIRST_PIECE_BYTES
        while not member.eof:
            piece = view[position : position + size]
            if not piece:
                raise BadBodyError(400, f"the {encoding} body is cut short; send all of it")
            position += len(piece) - inflate(member, piece)
            size = min(4 * size, LAST_PIECE_BYTES)


def _too_large(limit_bytes: int) -> BadBodyError:
    cause = f"the body is larger than {limit_bytes} bytes when it is decompressed; 'start --max-body' sets the limit"
    return BadBodyError(413, cause)


def raw_inputs(body: Body, form: BodyForm, codec: InputCodec) -> list[Packed] | Packed:
    """Return the packed inputs of a raw body: a list when the shape has rows, else the one input.

    Raises:
        BadQueryError: says what does not fit, and what would.
    """
    names = DTYPES[codec.input_type]
    if form.media and codec.input_type != "bytes":
        kind = form.media.decode("ascii", "backslashreplace")
        raise BadQueryError(
            QUERY_ERROR,
            f"a body of type {kind}/… is for applications of input type bytes; this one takes {codec.input_type}: send "
            "its elements as application/octet-stream, or as JSON",
        )
    if form.dtype and form.dtype not in names:
        expected = (
            f"{names[0].decode()}, little-endian, is expected" if names else "none is expected: the input is UTF-8 text"
        )
        raise BadQueryError(
            QUERY_ERROR,
            f"Clipperfs-Dtype says {form.dtype.decode('ascii', 'backslashreplace')}; for {codec.input_type} {expected}",
        )
    if codec.input_type == "strings":
        _check_text(body)
    if len(body) % codec.element_bytes:
        raise BadQueryError(
            QUERY_ERROR,
            f"the body has {len(body)} bytes, which is no whole number of {names[0].decode()} elements of "
            f"{codec.element_bytes} bytes",
        )
    if not form.shape:
        return body
    if SHAPE.fullmatch(form.shape) is None:
        shown = form.shape[:40].decode("ascii", "backslashreplace")
        raise BadQueryError(QUERY_ERROR, f"Clipperfs-Shape is ELEMENTS, or ROWS,ELEMENTS, not {shown}")
    *rows, elements = (int(number) for number in form.shape.split(b","))
    count = rows[0] if rows else 1
    size = elements * codec.element_bytes
    if count * size != len(body):
        raise BadQueryError(
            QUERY_ERROR, f"the body has {len(body)} bytes; the shape {form.shape.decode()} needs {count * size}"
        )
    if not rows:
        return body
    if not count:
        raise BadQueryError(QUERY_ERROR, "a shape must not have 0 rows")
    if count > MAX_BATCH_INPUTS:
        raise BadQueryError(QUERY_ERROR, f"a body must not have more than {MAX_BATCH_INPUTS} rows")
    if codec.input_type == "strings" and count > 1:
        raise BadQueryError(QUERY_ERROR, "several texts are sent as JSON, in input_batch")
    rows_of: Any = memoryview(body) if len(body) >= VIEW_BYTES else body
    return [rows_of[start : start + size] for start in range(0, len(body), size)] if size else [b""] * count


def _check_text(body: Body) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise BadQueryError(QUERY_ERROR, f"the body is not UTF-8 text: {error}") from None
