"""A short cut for long lists of numbers: from JSON text to packed elements without a Python object for each.

It is taken only where nothing can be read in two ways, and gives up at the slightest doubt: then the usual way decides,
so that what is accepted, and what is said of what is not, never depends on it. Needs the extra ``fast`` (pysimdjson).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from clipperfs.wire import Body

QUICK_BYTES: Final = 1024
"""Shorter bodies are not worth it: below some 100 numbers the usual way is as quick (measured)."""
ZEROS: Final = 8192


def quick_packer(input_type: str) -> Callable[[Body], bytes | None] | None:
    """Return what packs the body ``{"input": [numbers]}`` of an input type, or None where there is no short cut.

    The function returns the packed input, exactly what the usual way gives, or None: ask the usual way.
    """
    if input_type not in ("floats", "doubles"):
        return None
    try:
        import numpy as np
        import simdjson
    except ImportError:
        return None
    zeros = np.zeros(ZEROS, "<f4")
    parse: Callable[[Body], Any] = simdjson.Parser().parse

    def doubles(body: Body) -> Any:
        # One list, one key: no other field, no nesting, no key twice, no text. simdjson would skip a byte order mark.
        # Looked for and not counted: to look for one byte is twenty times as quick.
        opening = body.find(b"[")
        quote = body.find(b'"', body.find(b'"') + 1)
        if body[0] != 0x7B or opening < 0 or body.find(b"[", opening + 1) >= 0 or body.find(b'"', quote + 1) >= 0:
            return None
        try:
            return parse(body)["input"].as_buffer(of_type="d")
        except (KeyError, TypeError, ValueError, RuntimeError):
            return None

    def pack_doubles(body: Body) -> bytes | None:
        found = doubles(body)
        return None if found is None else bytes(found)

    def pack_floats(body: Body) -> bytes | None:
        found = doubles(body)
        if found is None:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            packed = np.frombuffer(found, "<f8").astype("<f4")
            # Zero times a number is zero unless it was too large for a float: then the usual way says so.
            is_sound = packed.dot(zeros[: len(packed)]) == 0.0 if len(packed) <= ZEROS else np.isfinite(packed).all()
        return packed.tobytes() if is_sound else None

    return pack_floats if input_type == "floats" else pack_doubles
