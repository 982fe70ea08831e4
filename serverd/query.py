"""Predict bodies to packed inputs, outputs to reply bodies: Clipper's query interface, by input type. Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec

from clipperfs.errors import InvalidInput
from clipperfs.replica.encode import encode_input, output_text
from clipperfs.wire import Body, Packed

from .predict_body import PredictBody
from .quick import quick_packer

JSON_ERROR: Final = "Json error"
QUERY_ERROR: Final = "Query processing error"
"""The values of ``error`` in a 400. Source: Clipper, ``query_frontend.hpp``."""

MAX_BATCH_INPUTS: Final = 16_384
"""Elements that one ``input_batch`` may have."""
MAX_STRUCTS: Final = 1024
"""Input lengths whose formats are kept at hand, for each input type."""


class BadQueryError(Exception):
    """A predict body cannot be understood: the two fields of the 400."""

    def __init__(self, error: str, cause: str) -> None:
        super().__init__(cause)
        self.error = error
        self.cause = cause


class InputCodec:
    """Reads the inputs of one input type.

    ``decode`` returns the body or raises one of ``REFUSALS``; ``pack`` turns one decoded input into little-endian bytes
    or raises one of ``REFUSALS``; ``explain`` turns the exception into the two fields of the 400. They are apart so
    that a good body pays for nothing else.
    """

    __slots__ = ("decode", "element_bytes", "input_type", "pack", "quick")

    def __init__(
        self, input_type: str, decode: Callable[[Body], PredictBody[Any]], pack: Callable[[Any], bytes], size: int
    ) -> None:
        self.input_type = input_type
        self.decode = decode
        self.pack = pack
        self.element_bytes = size
        self.quick = quick_packer(input_type)
        """Packs a long body at once, or gives it back (``None``): see ``quick``."""

    def explain(self, error: Exception, body: Body) -> BadQueryError:
        """Return what is wrong with a body that raised ``error``. Slow: looks at the inputs one by one."""
        if isinstance(error, RecursionError):
            return BadQueryError(JSON_ERROR, "the body is nested too deeply")
        if isinstance(error, UnicodeError):
            return BadQueryError(JSON_ERROR, f"the body is not UTF-8 text: {error}")
        if isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError):
            return BadQueryError(JSON_ERROR, str(error))
        try:
            plain = msgspec.json.decode(body)
            if "input" in plain:
                encode_input(plain["input"], self.input_type)  # type: ignore[arg-type]
            else:
                for index, value in enumerate(plain.get("input_batch", ())):
                    self._explain_element(index, value)
        except InvalidInput as found:
            return BadQueryError(QUERY_ERROR, found.message)
        except (msgspec.DecodeError, RecursionError, TypeError, AttributeError, UnicodeError):
            pass
        return BadQueryError(QUERY_ERROR, str(error))

    def _explain_element(self, index: int, value: Any) -> None:
        try:
            encode_input(value, self.input_type)  # type: ignore[arg-type]
        except InvalidInput as error:
            raise InvalidInput(f"input_batch[{index}]: {error.message}") from error


REFUSALS: Final = (msgspec.DecodeError, RecursionError, UnicodeError, struct.error, OverflowError)
"""Everything that ``decode`` and ``pack`` raise because of the body."""


def _number_packer(code: str) -> Callable[[list[Any]], bytes]:
    packs: dict[int, Callable[..., bytes]] = {}

    def pack(values: list[Any]) -> bytes:
        count = len(values)
        pack_all = packs.get(count)
        if pack_all is None:
            if len(packs) >= MAX_STRUCTS:
                packs.clear()
            # "<" and not native order: native "f" makes infinity of 1e39, this one raises (25 % dearer, measured)
            pack_all = packs[count] = struct.Struct(f"<{count}{code}").pack
        return pack_all(*values)

    return pack


def _as_bytes(value: bytes) -> bytes:
    return value


CODECS: Final[dict[str, InputCodec]] = {
    "ints": InputCodec("ints", msgspec.json.Decoder(PredictBody[list[int]]).decode, _number_packer("i"), 4),
    "floats": InputCodec("floats", msgspec.json.Decoder(PredictBody[list[float]]).decode, _number_packer("f"), 4),
    "doubles": InputCodec("doubles", msgspec.json.Decoder(PredictBody[list[float]]).decode, _number_packer("d"), 8),
    "bytes": InputCodec("bytes", msgspec.json.Decoder(PredictBody[bytes]).decode, _as_bytes, 1),
    "strings": InputCodec("strings", msgspec.json.Decoder(PredictBody[str]).decode, str.encode, 1),
}
"""By input type. ``bytes`` are base64 text."""


def check_input(packed: Packed, codec: InputCodec, input_size: int | None, model: str | None) -> None:
    """Refuse an input that is empty, or has another length than the model's.

    Raises:
        BadQueryError: says which.
    """
    if not packed:
        raise BadQueryError(QUERY_ERROR, "an input must not be empty")
    count = len(packed) // codec.element_bytes
    if input_size is not None and count != input_size:
        raise BadQueryError(QUERY_ERROR, f"model {model} expects {input_size} elements in an input, not {count}")


def nest_output(text: str) -> bytes:
    """Return a text as it stands in a reply: itself if it is JSON, else a JSON string."""
    return output_text(text)


def answer_body(query_id: int, output: bytes) -> bytes:
    """Return the body of an answered query."""
    return b'{"query_id":%d,"output":%b,"default":false}' % (query_id, output)


def default_body(query_id: int, output: bytes, explanation: str) -> bytes:
    """Return the body of a query that gets the default output."""
    text = msgspec.json.encode(explanation)
    return b'{"query_id":%d,"output":%b,"default":true,"default_explanation":%b}' % (query_id, output, text)


def batch_body(bodies: list[bytes]) -> bytes:
    """Return the body of a reply to an ``input_batch``, its elements in the order of the inputs."""
    return b'{"batch_predictions":[%b]}' % b",".join(bodies)


def reply_head(version: str | None) -> bytes:
    """Return the head of a reply to a query, up to the digits of Content-Length."""
    named = b"" if version is None else b"Clipperfs-Version: %b\r\n" % version.encode("ascii")
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: " % named


def version_of(head: bytes) -> str:
    """Return the version that a head made by ``reply_head`` names; an empty text for none."""
    return head.partition(b"Clipperfs-Version: ")[2].partition(b"\r\n")[0].decode("ascii")
