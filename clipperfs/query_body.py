"""What a client sends for an input: JSON, or the bytes of an array or a file as they are. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from clipperfs.errors import InvalidInput

JSON_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json"}
RAW_HEADERS: Final = {"Content-Type": "application/octet-stream", "Accept": "application/json"}
RAW_DTYPES: Final[Mapping[str, str]] = {
    "<i4": "int32", "<f4": "float32", "<f8": "float64", "|u1": "uint8", "|i1": "int8",
}  # fmt: skip
"""How the daemon calls the types of arrays that it may take as they are, by numpy's name for each."""

Body = tuple[bytes, Mapping[str, str]]
"""A body, and the headers that say what it is."""


def raw_dtype(array: Any, dimensions: int) -> str | None:
    """Return what the daemon calls the type of a numpy array of so many dimensions, or None where it is no such array.

    numpy is not imported. A masked array is none: what it hides must not be sent.
    """
    if type(array).__name__ not in ("ndarray", "memmap") or array.ndim != dimensions or not array.size:
        return None
    return RAW_DTYPES.get(array.dtype.str)


def raw_body(
    data: bytes, version: str | None, key: str | None, dtype: str = "uint8", shape: Sequence[int] = ()
) -> Body | None:
    """Return bytes that are sent as they are, or None when a header cannot hold the version or the key.

    The elements' type has an application of another one refuse them.
    """
    if not (_is_plain(version) and _is_plain(key)):
        return None
    named = {
        "Clipperfs-Dtype": dtype,
        "Clipperfs-Shape": ",".join(map(str, shape)) or None,
        "Clipperfs-Version": version,
        "Clipperfs-Key": key,
    }
    return data, {**RAW_HEADERS, **{name: text for name, text in named.items() if text is not None}}


def json_body(value: Any, batch: Iterable[Any] | None, version: str | None, key: str | None) -> Body:
    """Return a query as JSON. Raises InvalidInput."""
    query: dict[str, Any] = {"input": value} if batch is None else {"input_batch": list(batch)}
    if version is not None:
        query["version"] = version
    if key is not None:
        query["key"] = key
    try:
        body = json.dumps(query, default=_as_json, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the input cannot be sent as JSON: {error}") from error
    return body, JSON_HEADERS


def _is_plain(text: str | None) -> bool:
    """Say whether a text arrives as it is when it is a header."""
    return text is None or (text.isascii() and text.isprintable() and text == text.strip() and text != "")


def _as_json(value: Any) -> Any:
    """Return what a numpy array or scalar, or ``bytes``, is in JSON; numpy itself is not imported."""
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
