"""The replica's end of PREDICT: from the bytes of a body to the batch that a wrapper is given. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from clipperfs.wire import ELEMENT_BYTES, INPUT_TYPES, WireError
from clipperfs.wrapper import DTYPES, BytesAs, Inputs

MAX_INPUTS = 1 << 20
"""In one batch. Empty inputs take no room in a body, so its length alone would not bound their number."""

_UINT8 = np.dtype("u1")


def unpack_batch(code: int, count: int, lengths: int | list[int], body: Any, bytes_as: BytesAs = "int8") -> Inputs:
    """Return the batch that a PREDICT describes, as views of ``body`` where that is possible.

    Args:
        code: the input type's position in ``INPUT_TYPES``.
        count: number of inputs, 1 to MAX_INPUTS.
        lengths: elements (bytes for strings) of every input, or of each.
        body: the inputs one after the other: ``bytes`` or a memoryview.
        bytes_as: how the wrapper wants inputs of type ``bytes``.

    Returns:
        One read-only array of shape (count, length) for numeric inputs of one length; a list of read-only 1-D arrays
        for mixed lengths; a list of ``str`` or of ``bytes`` otherwise.

    Raises:
        WireError: the numbers contradict each other or the body.
    """
    input_type = _input_type(code)
    total = check_lengths(count, lengths)
    if total * ELEMENT_BYTES[input_type] != len(body):
        raise WireError(f"{total} {input_type} in a body of {len(body)} bytes")
    if input_type == "strings":
        return [_text(part) for part in cut_body(body, count, lengths)]
    if input_type == "bytes" and bytes_as == "raw":
        return [bytes(part) for part in cut_body(body, count, lengths)]
    dtype = _UINT8 if input_type == "bytes" and bytes_as == "uint8" else DTYPES[input_type]
    array: np.ndarray[Any, Any] = np.frombuffer(body, dtype)
    if not array.flags.aligned:
        array = array.copy()
    array.flags.writeable = False
    return cut_body(array, count, lengths) if isinstance(lengths, list) else array.reshape(count, lengths)


def check_lengths(count: int, lengths: int | list[int]) -> int:
    """Return how long all inputs are together. Raises WireError when the numbers contradict each other."""
    if type(count) is not int or not 1 <= count <= MAX_INPUTS:
        raise WireError(f"a batch of {count!r} inputs")
    if isinstance(lengths, list):
        if len(lengths) != count or not all(type(length) is int and length >= 0 for length in lengths):
            raise WireError("the lengths do not fit the number of inputs")
        return sum(lengths)
    if isinstance(lengths, int) and not isinstance(lengths, bool) and lengths >= 0:
        return lengths * count
    raise WireError(f"a length of {lengths!r}")


def _input_type(code: Any) -> str:
    if type(code) is not int or not 0 <= code < len(INPUT_TYPES):
        raise WireError(f"no input type has the code {code!r}")
    return INPUT_TYPES[code]


def cut_body(body: Any, count: int, lengths: int | list[int]) -> list[Any]:
    """Return the inputs of a body or an array as slices of it."""
    parts = []
    at = 0
    for length in [lengths] * count if isinstance(lengths, int) else lengths:
        parts.append(body[at : at + length])
        at += length
    return parts


def _text(part: Any) -> str:
    try:
        return str(part, "utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"a string is not UTF-8: {error}") from error
