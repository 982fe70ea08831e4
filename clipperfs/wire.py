"""The wrapper protocol: what a replica and its peers say to each other over ZeroMQ (``docs/wire.md``). No I/O.

A replica connects one DEALER socket, with the identity it was given and PROBE_ROUTER set, to the ROUTER of each peer
(the controller first, then every frontend). A message is a header frame, a msgpack array that begins with its kind,
and for PREDICT and OUTPUT a body frame of raw bytes. Numbers are little-endian.

    HELLO    replica → peer   [1, major, minor, pid]                       first, and after a peer restarted
    STATE    replica → peer   [2, state, reason]                           to the controller: loading, ready, failed
    PREDICT  peer → replica   [3, batch, input type, count, lengths]  body  inputs one after the other
    OUTPUT   replica → peer   [4, batch, predict_us, lengths]         body  outputs one after the other, each JSON text
    FAULT    replica → peer   [5, batch, reason]                           this batch failed; the process lives
    STOP     peer → replica   [6]                                          finish what has arrived, then exit
    PING     peer → replica   [7, number]      PONG  replica → peer  [8, number]

``lengths`` of PREDICT is one integer when all inputs have that many elements (bytes for strings), else a list of them.
``lengths`` of OUTPUT is the list of byte lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgpack

MAJOR: Final = 1
MINOR: Final = 0

HELLO: Final = 1
STATE: Final = 2
PREDICT: Final = 3
OUTPUT: Final = 4
FAULT: Final = 5
STOP: Final = 6
PING: Final = 7
PONG: Final = 8

LOADING: Final = "loading"
READY: Final = "ready"
FAILED: Final = "failed"

INPUT_TYPES: Final[tuple[str, ...]] = ("ints", "floats", "doubles", "bytes", "strings")
"""Their positions are their codes on the wire."""

ELEMENT_BYTES: Final = {"ints": 4, "floats": 4, "doubles": 8, "bytes": 1, "strings": 1}

MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
MAX_BODY_BYTES: Final = 1 << 30
MAX_REASON_CHARS: Final = 4000


class WireError(Exception):
    """A frame breaks the protocol."""


def pack_header(kind: int, *fields: Any) -> bytes:
    """Return a header frame."""
    return msgpack.packb((kind, *fields))  # type: ignore[no-any-return]


def unpack_header(frame: bytes | memoryview) -> list[Any]:
    """Return a header frame's fields, the kind first. Raises WireError."""
    if len(frame) > MAX_HEADER_BYTES:
        raise WireError(f"a header of {len(frame)} bytes is larger than {MAX_HEADER_BYTES}")
    try:
        fields = msgpack.unpackb(frame, max_ext_len=0, max_map_len=0, max_bin_len=0)
    except (ValueError, msgpack.exceptions.UnpackException, msgpack.exceptions.ExtraData) as error:
        raise WireError(f"a header is not msgpack: {error}") from error
    if not isinstance(fields, list) or not fields or not isinstance(fields[0], int):
        raise WireError("a header must be an array that begins with its kind")
    return fields


def common_length(lengths: Sequence[int]) -> int | list[int]:
    """Return the one length that all share, or the list: the ``lengths`` field of PREDICT."""
    first = lengths[0]
    return first if all(length == first for length in lengths) else list(lengths)
