"""What the child that runs the hooks tells its parent: one JSON object a line. Pure.

{"event": "begin", "index": 2}                       the hook at this place starts, once the parent has said GO
{"event": "loading", "subject": "candidate"}         a wrapper starts: the hook's clock stands still …
{"event": "loaded", "subject": "candidate"}          … until it is there, or has failed
{"event": "verdict", "index": 2, "verdict": {…}}     what the hook said
{"event": "end"}                                     all hooks have run; the child waits to be killed
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from clipperfs.documents import Verdict
from clipperfs.documents.base import parse_json, validation_summary
from clipperfs.errors import InvalidDocument
from clipperfs.limits import LIMITS

MAX_LINE_BYTES: Final = 512 * 1024
MAX_MEASURES_BYTES: Final = 64 * 1024
MAX_OUTPUT_BYTES: Final = 64 * 1024
"""How much of what a hook printed is kept: the end of it."""

GO: Final = b"\n"
"""The parent's only word. It has then read what was printed before, so that what comes next is this hook's."""

SUBJECTS: Final = ("candidate", "active")
_MAX_DEPTH = 16


class ProtocolError(Exception):
    """The child said something that is not part of the protocol."""


def write_line(event: str, **fields: Any) -> bytes:
    """Return one line."""
    return json.dumps({"event": event, **fields}).encode() + b"\n"


def read_line(line: bytes) -> dict[str, Any]:
    """Return the fields of one line. Raises ProtocolError."""
    try:
        tree = parse_json(line, limit_bytes=MAX_LINE_BYTES)
    except InvalidDocument as error:
        raise ProtocolError(str(error)) from error
    if not isinstance(tree, dict) or not isinstance(tree.get("event"), str):
        raise ProtocolError("not an object with an event")
    return tree


def read_verdict(tree: object, hook: str) -> Verdict:
    """Return the verdict in a line, under the name of the hook that was asked. Raises ProtocolError."""
    if not isinstance(tree, dict):
        raise ProtocolError("a verdict that is not an object")
    try:
        return Verdict.model_validate({**tree, "hook": hook})
    except ValidationError as error:
        raise ProtocolError(f"an invalid verdict: {validation_summary(error)}") from error


def bounded_verdict(verdict: Verdict, hook: str) -> dict[str, Any]:
    """Return what a hook returned as a tree that fits into a line: texts cut, measures made plain JSON."""
    measures = plain(dict(verdict.measures))
    size_bytes = len(json.dumps(measures))
    if size_bytes > MAX_MEASURES_BYTES:
        measures = {"dropped": f"the measures were {size_bytes} bytes long; the limit is {MAX_MEASURES_BYTES}"}
    return {
        "hook": hook,
        "outcome": verdict.outcome,
        "reason": cut(verdict.reason),
        "next_step": None if verdict.next_step is None else cut(verdict.next_step),
        "measures": measures,
    }


def printable(text: str) -> str:
    """Return ``text`` without what could steer a terminal or break UTF-8: control characters, lone surrogates."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)


def printed_text(output: bytes) -> str:
    """Return what was printed as text of at most ``MAX_OUTPUT_BYTES``, its end when there is more."""
    text = printable(output.decode("utf-8", "replace")).encode()
    return text[-MAX_OUTPUT_BYTES:].decode("utf-8", "ignore").strip()


def cut(text: str) -> str:
    """Return ``text`` in printable characters, within the limit for reasons."""
    valid = printable(text)
    return valid if len(valid) <= LIMITS.reason_chars else valid[: LIMITS.reason_chars - 1] + "…"


def plain(value: Any, depth: int = 0) -> Any:
    """Return ``value`` as strict JSON: numpy values as numbers and lists, NaN as text, the unknown as its repr."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {plain(str(key)): plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, np.ndarray):
            return plain(value.tolist(), depth)
        if isinstance(value, list | tuple | set | frozenset):
            return [plain(item, depth + 1) for item in value]
    return repr(value)[:200]
