"""Inputs as JSON gives them to packed bytes, and a wrapper's outputs to JSON text. Pure.

The rules for inputs are those of the query interface, so a hook or a sample accepts exactly what a client may send.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from clipperfs.errors import InvalidInput
from clipperfs.wire import MAX_BODY_BYTES, common_length
from clipperfs.wrapper import DTYPES

if TYPE_CHECKING:
    from clipperfs.documents.author import InputType

_FORMATS = {"ints": "i", "floats": "f", "doubles": "d"}
_INT32 = np.iinfo(np.int32)
_PLAIN = frozenset({int, float, str, bool, type(None)})
_BOOLEANS = frozenset({bool, np.bool_})
_MAX_DEPTH = 64

_encode = msgspec.json.Encoder().encode


class OutputError(Exception):
    """What ``predict`` returned cannot be sent: the wrong number, or a type without a JSON form."""


# --- inputs ----------------------------------------------------------------------------------------------------------


def pack_batch(inputs: Sequence[Any], input_type: InputType) -> tuple[int | list[int], bytes]:
    """Return the ``lengths`` field and the body of a PREDICT. Raises InvalidInput, which names the input."""
    parts, lengths = [], []
    for index, value in enumerate(inputs):
        try:
            data, length = encode_input(value, input_type)
        except InvalidInput as error:
            raise InvalidInput(f"input {index}: {error.message}", hint=error.hint) from error
        parts.append(data)
        lengths.append(length)
    if not parts:
        raise InvalidInput("a batch holds at least one input")
    if sum(map(len, parts)) > MAX_BODY_BYTES:
        raise InvalidInput(f"the batch has more than {MAX_BODY_BYTES} bytes", hint="send fewer inputs at a time")
    return common_length(lengths), b"".join(parts)


def encode_input(value: Any, input_type: InputType) -> tuple[bytes, int]:
    """Return one input as packed little-endian bytes and its number of elements (bytes for strings).

    Args:
        value: ``ints``: a list of integers that fit 32 bits. ``floats`` and ``doubles``: a list of finite numbers,
            integers welcome, that do not overflow float32 or float64. ``bytes``: base64 text (RFC 4648, padded), or a
            bytes object. ``strings``: text. A 1-D numpy array of a fitting type stands for a list. No bool is a number.
        input_type: the application's or version's input type.

    Raises:
        InvalidInput: anything else.
    """
    if input_type == "strings":
        return _encode_text(value)
    if input_type == "bytes":
        return _encode_octets(value)
    if isinstance(value, np.ndarray):
        return _encode_array(value, input_type)
    if not isinstance(value, (list, tuple)):
        raise InvalidInput(f"an input of type {input_type} is a list of numbers, not {_noun(value)}")
    if not _BOOLEANS.isdisjoint(map(type, value)):
        _refuse_element(value, input_type)
    try:
        data = struct.pack(f"<{len(value)}{_FORMATS[input_type]}", *value)
    except (struct.error, OverflowError, TypeError):
        _refuse_element(value, input_type)
    if input_type != "ints" and not np.isfinite(np.frombuffer(data, DTYPES[input_type])).all():
        _refuse_element(value, input_type)
    return data, len(value)


def _encode_text(value: Any) -> tuple[bytes, int]:
    if not isinstance(value, str):
        raise InvalidInput(f"an input of type strings is text, not {_noun(value)}")
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the text holds a lone surrogate, which UTF-8 cannot express") from error
    return data, len(data)


def _encode_octets(value: Any) -> tuple[bytes, int]:
    if isinstance(value, str):
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidInput(f"the text is not base64: {error}", hint="RFC 4648, with padding") from error
        if len(value) != -(-len(data) // 3) * 4:  # b64decode passes over padding that is too much
            raise InvalidInput("the text is not base64: excess padding", hint="RFC 4648, with padding")
    elif isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
    elif isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype in (np.int8, np.uint8):
        data = value.tobytes()
    else:
        raise InvalidInput(f"an input of type bytes is base64 text or a bytes object, not {_noun(value)}")
    return data, len(data)


def _encode_array(value: np.ndarray[Any, Any], input_type: InputType) -> tuple[bytes, int]:
    if value.ndim != 1:
        raise InvalidInput(f"one input is an array of 1 dimension, not {value.ndim}")
    if value.dtype.kind not in ("iu" if input_type == "ints" else "iuf"):
        raise InvalidInput(f"an array of {value.dtype} does not fit an input of type {input_type}")
    if input_type == "ints" and value.size and (value.min() < _INT32.min or value.max() > _INT32.max):
        raise InvalidInput("an element does not fit 32 bits")
    with np.errstate(over="ignore"):
        packed = value.astype(DTYPES[input_type])
    if input_type != "ints" and not np.isfinite(packed).all():
        raise InvalidInput(f"an element is not finite, or too large for {input_type}")
    return packed.tobytes(), value.size


def _refuse_element(values: Sequence[Any], input_type: InputType) -> None:
    """Raise InvalidInput for the first element that does not fit."""
    for index, value in enumerate(values):
        problem = _element_problem(value, input_type)
        if problem is not None:
            raise InvalidInput(f"element {index} {problem}")
    raise InvalidInput(f"an element does not fit {input_type}")


def _element_problem(value: Any, input_type: InputType) -> str | None:
    if isinstance(value, (bool, np.bool_)):
        return "is a boolean, not a number"
    if input_type == "ints":
        if not isinstance(value, (int, np.integer)):
            return f"is {_noun(value)}, not an integer"
        if _INT32.min <= value <= _INT32.max:
            return None
        bits = int(value).bit_length()  # Python writes out no integer of more than 4,300 digits
        return f"is {value if bits < 128 else f'an integer of {bits} bits'}, which does not fit 32 bits"
    if not isinstance(value, (int, float, np.integer, np.floating)):
        return f"is {_noun(value)}, not a number"
    try:
        number = float(value)
    except OverflowError:
        return f"is too large for {input_type}"
    if not math.isfinite(number):
        return f"is {number}, which is not finite"
    try:
        struct.pack("<" + _FORMATS[input_type], number)  # native order would make it infinite
    except OverflowError:
        return f"is {number:g}, which is too large for {input_type}"
    return None


def _noun(value: Any) -> str:
    if value is None:
        return "null"
    for kind, noun in ((bool, "a boolean"), (int, "an integer"), (float, "a number with a fraction"), (str, "text")):
        if isinstance(value, kind):
            return noun
    return "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else type(value).__name__


# --- outputs ---------------------------------------------------------------------------------------------------------


def encode_outputs(outputs: Any, count: int) -> list[bytes]:
    """Return what ``predict`` gave as one JSON text an output.

    Args:
        outputs: a sequence, or a numpy array (or a tensor or series with ``tolist``) with the batch as its first axis.
        count: how many there must be.

    Raises:
        OutputError: another number, or something that has no JSON form.
    """
    if isinstance(outputs, np.ndarray):
        if outputs.ndim == 0:
            raise OutputError(f"predict returned a single number; expected a list of {count} outputs")
        _check_count(len(outputs), count)
        plain = outputs.dtype.kind in "biu" or (outputs.dtype.kind == "f" and bool(np.isfinite(outputs).all()))
        outputs = outputs.tolist()
        if plain:
            return [_encode(item) for item in outputs]
    elif not isinstance(outputs, Sequence) or isinstance(outputs, (str, bytes, bytearray, memoryview)):
        to_list = getattr(outputs, "tolist", None)
        if to_list is None or isinstance(outputs, memoryview):
            raise OutputError(f"predict returned {type(outputs).__name__}; expected a list of {count} outputs")
        outputs = to_list()
        if not isinstance(outputs, list):
            raise OutputError(f"predict returned a single value; expected a list of {count} outputs")
    _check_count(len(outputs), count)
    if set(map(type, outputs)) == {str}:  # labels: the same few texts over and over
        texts = {output: output_text(output) for output in set(outputs)}
        return [texts[output] for output in outputs]
    return [output_text(output) for output in outputs]


def output_text(value: Any) -> bytes:
    """Return one output as JSON text (UTF-8).

    Text (``str``, or ``bytes`` in UTF-8) that is itself JSON is taken as it is; other text becomes a JSON string.
    Numbers, arrays, lists and mappings become JSON; a float that is not finite becomes ``"NaN"``, ``"Infinity"`` or
    ``"-Infinity"``. Text inside a list or a mapping always becomes a JSON string.

    Raises:
        OutputError: the value has no JSON form.
    """
    kind = type(value)
    try:
        if isinstance(value, str):
            return _spliced(str(value))
        if kind is int or kind is bool or value is None or (kind is float and math.isfinite(value)):
            return _encode(value)
        if kind is list and _PLAIN.issuperset(map(type, value)):
            text = _encode(value)
            if b"null" not in text:  # msgspec writes a float that is not finite as null
                return text
        if isinstance(value, (bytes, bytearray, memoryview)):
            return _spliced(str(value, "utf-8"))
        return json.dumps(_plain(value, 0), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except OverflowError:  # an integer of more than 64 bits
        return json.dumps(_plain(value, 0), separators=(",", ":")).encode()
    except (UnicodeError, ValueError) as error:
        raise OutputError(f"an output cannot be written as JSON: {error}") from error


def _spliced(text: str) -> bytes:
    data = text.encode()
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return _encode(text)
    return data


def _plain(value: Any, depth: int) -> Any:
    """Return ``value`` built from nothing but what JSON knows."""
    if depth > _MAX_DEPTH:
        raise OutputError(f"an output is nested more than {_MAX_DEPTH} levels deep")
    if value is None or isinstance(value, (bool, np.bool_)):
        return None if value is None else bool(value)
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return number if math.isfinite(number) else "NaN" if math.isnan(number) else f"{'-' * (number < 0)}Infinity"
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return str(value, "utf-8")
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), depth + 1)
    raise OutputError(f"predict returned an output of type {type(value).__name__}, which has no JSON form")


def _key(key: Any) -> str:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return str(int(key))
    raise OutputError(f"a mapping in an output has a key of type {type(key).__name__}; only text and integers will do")


def _check_count(got: int, count: int) -> None:
    if got != count:
        raise OutputError(f"predict returned {got} outputs for {count} inputs")
