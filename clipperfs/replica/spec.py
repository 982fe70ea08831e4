"""What a replica process is told when it starts, and how it words a failure. No I/O."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipperfs.errors import ClipperfsError
from clipperfs.wire import MAX_REASON_CHARS

if TYPE_CHECKING:
    from clipperfs.documents.author import InputType

SPARE_IS_WARM = b"w"
"""What a spare sends when it has imported everything and waits."""

_EXTRAS = {
    "sklearn": "sklearn",
    "skops": "sklearn",
    "joblib": "sklearn",
    "onnxruntime": "onnx",
    "cloudpickle": "closure",
}
"""Which extra of clipperfs brings a module that a built-in wrapper imports."""


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """One replica: who it is, whom it talks to, and what it loads."""

    identity: str
    """Its ZeroMQ routing id in hexadecimal, from :func:`new_identity`."""
    endpoints: tuple[str, ...]
    """Addresses of its peers' ROUTER sockets; the first is the controlling peer, which is told STATE."""
    path: str
    """The version's files: a private, verified, read-only copy. The process starts there."""
    model: str
    version: str
    wrapper_kind: str
    """A name in the entry-point group ``clipperfs.wrappers``."""
    input_type: InputType
    options: Mapping[str, Any] = field(default_factory=dict)
    allow_code: bool = False
    threads: int = 1
    """How many threads the numeric libraries (OpenMP, OpenBLAS, MKL) may use."""

    @property
    def identity_bytes(self) -> bytes:
        """Return the routing id as ZeroMQ has it."""
        return bytes.fromhex(self.identity)

    def to_bytes(self) -> bytes:
        """Return the spec as JSON."""
        return json.dumps(asdict(self), default=str).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> ReplicaSpec:
        """Return the spec that :meth:`to_bytes` wrote."""
        tree = json.loads(data)
        tree["endpoints"] = tuple(tree["endpoints"])
        return cls(**tree)


def new_identity() -> str:
    """Return a fresh identity: 16 random bytes in hexadecimal.

    The first byte is never zero, because ZeroMQ keeps those routing ids for itself.
    """
    return (bytes([os.urandom(1)[0] | 0x80]) + os.urandom(15)).hex()


def failure_reason(error: BaseException) -> str:
    """Return what a STATE failed or a FAULT says about ``error``: one line, and a second with a hint if there is one.

    An exception that is not clipperfs' own is named with its message and the place in the wrapper where it was raised.
    """
    cause = error.__cause__ if isinstance(error, ClipperfsError) else error
    hint = error.hint if isinstance(error, ClipperfsError) else None
    if hint is None and isinstance(cause, ModuleNotFoundError) and cause.name:
        top = cause.name.partition(".")[0]
        hint = f"pip install 'clipperfs[{_EXTRAS[top]}]'" if top in _EXTRAS else f"install {top} beside clipperfs"
    message = error.message if isinstance(error, ClipperfsError) else _describe(error)
    message = " ".join(message.split())[: MAX_REASON_CHARS // 2]
    return f"{message}\n{' '.join(hint.split())[:1000]}" if hint else message


def split_reason(reason: str) -> tuple[str, str | None]:
    """Return the message and the hint of a reason."""
    message, _, hint = reason.partition("\n")
    return message, hint or None


def _describe(error: BaseException) -> str:
    name = type(error).__name__
    text = f"{name}: {error}" if str(error) else name
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return text
    last = frames[-1]
    line = f": {last.line}" if last.line else ""
    return f"{text} [{Path(last.filename).name}:{last.lineno} in {last.name}{line}]"
