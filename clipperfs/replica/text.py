"""Lists of numbers as JSON text to packed elements or to a batch, without a Python object for each. Pure.

Both ends of the wrapper protocol read with this, so that an input is the same wherever it is read. It is taken only
where nothing can be read in two ways, and gives up at the slightest doubt: then the usual way of the query interface
decides, so that what is accepted, and what is said of what is not, never depends on it. Needs the extra ``fast``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from clipperfs.replica.batch import check_lengths, cut_body
from clipperfs.wire import TEXT_CODES, Body, WireError
from clipperfs.wrapper import DTYPES, Inputs

ZEROS: Final = 8192
_DOUBLES: Final = np.dtype("<f8")
_UNREADABLE: Final = (KeyError, TypeError, ValueError, RuntimeError)
"""What simdjson raises because of a text."""
_LEAST_BYTES: Final = 2
"""An element of a list takes a digit and a comma at least."""


def can_read_text(input_type: str) -> bool:
    """Return whether texts of an input type can be read here. Imports nothing."""
    return input_type in TEXT_CODES and find_spec("simdjson") is not None


def is_plain(body: Body) -> bool:
    """Return whether a body can be nothing else than ``{"input": [numbers]}``, or else nothing that is accepted.

    One list, one key: no other field, no nesting, no key twice, no text; nothing before it, so no byte order mark,
    which simdjson would skip. Looked for and not counted: to look for one byte is twenty times as quick.
    """
    first = body.find(b'"')
    return (
        body[:1] == b"{"
        and body[first : first + 7] == b'"input"'
        and body.find(b'"', first + 7) < 0
        and (opening := body.find(b"[")) >= 0
        and body.find(b"[", opening + 1) < 0
    )


class NumberReader:
    """Reads the plain bodies of one input type. Not for use by two threads at once."""

    __slots__ = ("_dtype", "_is_cast", "_parse", "_zeros")

    def __init__(self, input_type: str) -> None:
        """Raises ImportError where simdjson is not installed."""
        import simdjson

        self._parse: Callable[[Any], Any] = simdjson.Parser().parse
        self._dtype = DTYPES[input_type]
        self._is_cast = input_type == "floats"
        self._zeros = np.zeros(ZEROS, "<f4")

    def pack(self, body: Body) -> bytes | None:
        """Return the packed input of a body, exactly what the usual way gives, or None: ask the usual way."""
        if not is_plain(body):
            return None
        found = self._doubles(body)
        if found is None or not self._is_cast:
            return None if found is None else bytes(found)
        with np.errstate(over="ignore", invalid="ignore"):
            packed = np.frombuffer(found, _DOUBLES).astype("<f4")
            # Zero times a number is zero unless it was too large for a float: then the usual way says so.
            is_sound = (
                packed.dot(self._zeros[: len(packed)]) == 0.0 if len(packed) <= ZEROS else np.isfinite(packed).all()
            )
        return packed.tobytes() if is_sound else None

    def read(self, count: int, lengths: int | list[int], elements: int, body: Any) -> tuple[Inputs, list[int]]:
        """Return the batch of the texts that can be read, and the places of the others, in order.

        Args:
            count: number of texts.
            lengths: bytes of every text, or of each. Each must be plain (``is_plain``).
            elements: how many each list must have; 0: any number but none.
            body: the texts one after the other.

        Returns:
            What ``unpack_batch`` returns for the same numbers packed. Empty when no text can be read.

        Raises:
            WireError: the numbers contradict each other or the body.
        """
        if check_lengths(count, lengths) != len(body):
            raise WireError(f"texts in a body of {len(body)} bytes that have not as many")
        if not isinstance(elements, int) or elements < 0:
            raise WireError(f"lists of {elements!r} elements")
        return self._read_texts(cut_body(memoryview(body), count, lengths), elements)

    def _read_texts(self, texts: list[Any], elements: int) -> tuple[Inputs, list[int]]:
        """Read texts into the rows of one array; where they may differ, those unlike the first into arrays apart."""
        may_differ = elements == 0
        rows: Any = None
        places: list[int] = []
        apart: dict[int, Any] = {}
        parse, from_buffer = self._parse, np.frombuffer  # this loop is most of what a query costs a replica
        with np.errstate(over="ignore", invalid="ignore"):
            for place, text in enumerate(texts):
                try:
                    row = from_buffer(parse(text)["input"].as_buffer(of_type="d"), _DOUBLES)
                except _UNREADABLE:
                    continue
                count = len(row)
                if not count:
                    continue
                if rows is None:
                    elements = elements or count
                    least = _LEAST_BYTES * elements  # memory for those that may have as many only
                    rows = np.empty((sum(1 for other in texts if len(other) > least), elements), self._dtype)
                if count == elements:
                    rows[len(places)] = row
                    places.append(place)
                elif may_differ:
                    apart[place] = row.astype(self._dtype)
        if rows is None:
            return np.empty((0, elements), self._dtype), list(range(len(texts)))
        rows = rows[: len(places)]
        if self._is_cast and not np.isfinite(rows).all():  # one was too large for a float
            sound = np.isfinite(rows).all(axis=1)
            rows = rows[sound]
            places = [places[index] for index in np.flatnonzero(sound)]
        rows.flags.writeable = False
        if not apart:
            return rows, _others(places, len(texts))
        return _merge(dict(zip(places, rows, strict=True)), apart, len(texts))

    def _doubles(self, text: Any) -> Any:
        """Return the list's numbers as a buffer of float64, or None. It must be gone before the next text is read."""
        try:
            return self._parse(text)["input"].as_buffer(of_type="d")
        except _UNREADABLE:
            return None


def _merge(alike: dict[int, Any], apart: dict[int, Any], count: int) -> tuple[Inputs, list[int]]:
    """Return arrays of different lengths as a batch, in the order of their places."""
    found = alike | {place: array for place, array in apart.items() if np.isfinite(array).all()}
    places = sorted(found)
    arrays = [found[place] for place in places]
    batch = np.stack(arrays) if len(set(map(len, arrays))) == 1 else arrays
    for array in [batch] if isinstance(batch, np.ndarray) else batch:
        array.flags.writeable = False
    return batch, _others(places, count)


def _others(places: list[int], count: int) -> list[int]:
    if len(places) == count:
        return []
    known = set(places)
    return [place for place in range(count) if place not in known]
