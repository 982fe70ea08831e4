"""The wrapper protocol: what a replica and its peers say to each other over ZeroMQ (``docs/wire.md``). No I/O.

A replica connects one DEALER socket, with the identity it was given and PROBE_ROUTER set, to the ROUTER of each peer
(the controller first, then every frontend). A message is a header frame, a msgpack array that begins with its kind,
and for PREDICT and OUTPUT a body frame of raw bytes. Numbers are little-endian.

    HELLO    replica → peer   [1, major, minor, pid, text]                 first, and after a peer restarted
    STATE    replica → peer   [2, state, reason]                           to the controller: loading, ready, failed
    PREDICT  peer → replica   [3, batch, input type, count, lengths]  body  inputs one after the other
             or               [3, batch, 5 or 6, count, lengths, n]   body  JSON texts of inputs of n numbers each
    OUTPUT   replica → peer   [4, batch, predict_us, lengths]         body  outputs one after the other, each JSON text
    FAULT    replica → peer   [5, batch, reason]                           this batch failed; the process lives
    STOP     peer → replica   [6]                                          finish what has arrived, then exit
    PING     peer → replica   [7, number]      PONG  replica → peer  [8, number]
    LANE     peer → replica   [9, path, token]                             a faster way for both, if the replica likes

``lengths`` of PREDICT is one integer when all inputs have that many elements (bytes for strings), else a list of them.
``lengths`` of OUTPUT is the list of byte lengths; its answer to texts has one field more.

A lane is a unix stream socket that carries the same messages, each as a frame: see ``pack_frame``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

import msgspec

MAJOR: Final = 1
MINOR: Final = 2

HELLO: Final = 1
STATE: Final = 2
PREDICT: Final = 3
OUTPUT: Final = 4
FAULT: Final = 5
STOP: Final = 6
PING: Final = 7
PONG: Final = 8
LANE: Final = 9

LOADING: Final = "loading"
READY: Final = "ready"
FAILED: Final = "failed"

INPUT_TYPES: Final[tuple[str, ...]] = ("ints", "floats", "doubles", "bytes", "strings")
"""Their positions are their codes on the wire."""

ELEMENT_BYTES: Final = {"ints": 4, "floats": 4, "doubles": 8, "bytes": 1, "strings": 1}

TEXT_CODES: Final = {"floats": 5, "doubles": 6}
"""The codes of the input types whose inputs may be sent as JSON text, when they are."""

MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
MAX_BODY_BYTES: Final = 1 << 30
MAX_REASON_CHARS: Final = 4000

LANE_MINOR: Final = 1
"""The first minor version whose replicas may be offered a lane."""
TEXT_MINOR: Final = 2
"""The first minor version whose replicas may be able to read texts."""
LANE_BODY_BYTES: Final = 1024 * 1024
"""The largest body that is sent over a lane. ZeroMQ's own thread takes larger ones off the sender's hands."""
MAX_LANE_FRAME_BYTES: Final = 64 * 1024 * 1024
BUFFER_BYTES: Final = 128 * 1024
MAX_KEPT_BYTES: Final = 2 * LANE_BODY_BYTES
"""What a lane is read into, at first and at most for long."""
ALIGNMENT: Final = 8
"""A body begins at a multiple of this in its frame, so that arrays can be used where they lie."""


Body: TypeAlias = bytes | bytearray
"""A body of HTTP. A large one is handed on as it was gathered."""
Packed: TypeAlias = bytes | bytearray | memoryview
"""A packed input: a large one may be a body as it came, or a view of one."""


class WireError(Exception):
    """A frame breaks the protocol."""


_pack = msgspec.msgpack.Encoder().encode
_Plain = int | str | bool | float | None
_unpack = msgspec.msgpack.Decoder(list[_Plain | list[_Plain]]).decode


def pack_header(kind: int, *fields: Any) -> bytes:
    """Return a header frame."""
    return _pack((kind, *fields))


def unpack_header(frame: bytes | memoryview) -> list[Any]:
    """Return a header frame's fields, the kind first. Raises WireError."""
    if len(frame) > MAX_HEADER_BYTES:
        raise WireError(f"a header of {len(frame)} bytes is larger than {MAX_HEADER_BYTES}")
    try:
        fields = _unpack(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise WireError(f"a header is not an array of numbers, text and arrays of them: {error}") from error
    if not fields or type(fields[0]) is not int:
        raise WireError("a header must be an array that begins with its kind")
    return fields


def text_peers(hello: bytes | memoryview) -> int:
    """Return how many frontends share a replica that can read texts, by its HELLO; 0: it cannot."""
    try:
        fields = unpack_header(hello)
    except WireError:
        return 0
    if len(fields) < 5 or type(fields[2]) is not int or fields[2] < TEXT_MINOR or type(fields[4]) is not int:
        return 0
    return max(0, fields[4])


def common_length(lengths: Sequence[int]) -> int | list[int]:
    """Return the one length that all share, or the list: the ``lengths`` field of PREDICT."""
    first = lengths[0]
    return first if all(length == first for length in lengths) else list(lengths)


_SIZES: Final = struct.Struct("<II")
_PADDING: Final = tuple(bytes(-size % ALIGNMENT) for size in range(ALIGNMENT))


def pack_frame_head(header: bytes, body_bytes: int) -> bytes:
    """Return what goes before the body in a lane's frame.

    A frame is two unsigned 32-bit numbers, little-endian (the sizes of header and body), the header, zeros up to a
    multiple of 8 bytes, and the body.
    """
    size = len(header)
    return b"%b%b%b" % (_SIZES.pack(size, body_bytes), header, _PADDING[size % ALIGNMENT])


class FrameCutter:
    """Cuts what arrives at a lane into messages. No I/O."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, memoryview]]:
        """Return the header and the body (in place) of each message that is complete now, in order.

        Raises:
            WireError: a frame is larger than any that is allowed. Nothing can be read after that.
        """
        kept = self._kept
        if kept:
            kept += data
            data = bytes(kept) if len(kept) >= _frame_bytes(kept) else b""
        start = 0
        size = len(data)
        view = memoryview(data)
        while size - start >= _SIZES.size:
            header_bytes, body_bytes = _SIZES.unpack_from(data, start)
            body_at = start + _SIZES.size + header_bytes + -header_bytes % ALIGNMENT
            end = body_at + body_bytes
            if end - start > MAX_LANE_FRAME_BYTES:
                raise WireError(f"a frame of {end - start} bytes is larger than {MAX_LANE_FRAME_BYTES}")
            if end > size:
                break
            header_at = start + _SIZES.size
            yield data[header_at : header_at + header_bytes], view[body_at:end]
            start = end
        if data:
            kept[:] = view[start:]


class FrameBuffer:
    """Cuts what arrives at a lane into messages where it lies: for large frames, which come in pieces. No I/O.

    Asking the system for as much memory for each frame costs more than reading the frame.
    """

    __slots__ = ("_filled", "_view")

    def __init__(self) -> None:
        self._view = memoryview(bytearray(BUFFER_BYTES))
        self._filled = 0

    def room(self) -> memoryview:
        """Return where the next bytes of the stream go. It is never empty."""
        return self._view[self._filled :]

    def take(self, size: int) -> Iterator[tuple[bytes, memoryview]]:
        """Return the messages that ``size`` bytes more complete. Go through all of them before the next call.

        A body is good until the next message is asked for: then others are written there.

        Raises:
            WireError: a frame is larger than any that is allowed. Nothing can be read after that.
        """
        view = self._view
        self._filled = filled = self._filled + size
        start = needed = 0
        while filled - start >= _SIZES.size:
            header_bytes, body_bytes = _SIZES.unpack_from(view, start)
            header_at = start + _SIZES.size
            body_at = header_at + header_bytes + -header_bytes % ALIGNMENT
            end = body_at + body_bytes
            needed = end - start
            if needed > MAX_LANE_FRAME_BYTES:
                raise WireError(f"a frame of {needed} bytes is larger than {MAX_LANE_FRAME_BYTES}")
            if end > filled:
                break
            yield bytes(view[header_at : header_at + header_bytes]), view[body_at:end]
            start = end
            needed = 0
        rest = view[start:filled]
        if needed > len(view):
            self._view = memoryview(bytearray(1 << needed.bit_length()))
        elif len(view) > MAX_KEPT_BYTES and needed <= BUFFER_BYTES:
            self._view = memoryview(bytearray(BUFFER_BYTES))
        self._view[: len(rest)] = rest
        self._filled = len(rest)


def _frame_bytes(data: bytearray) -> int:
    """Return how many bytes the frame at the beginning of ``data`` has, as far as that is known."""
    if len(data) < _SIZES.size:
        return _SIZES.size
    header_bytes, body_bytes = _SIZES.unpack_from(data, 0)
    size: int = _SIZES.size + header_bytes + -header_bytes % ALIGNMENT + body_bytes
    if size > MAX_LANE_FRAME_BYTES:
        raise WireError(f"a frame of {size} bytes is larger than {MAX_LANE_FRAME_BYTES}")
    return size
