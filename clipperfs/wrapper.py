"""The wrapper contract: the code that loads one version of a model and predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a replica process starts twice as fast without pydantic
    from clipperfs.documents.author import InputType

Inputs: TypeAlias = "NDArray[Any] | Sequence[NDArray[Any]] | Sequence[str] | Sequence[bytes]"
"""A batch. Numeric and byte inputs of one length arrive as one C-contiguous array of shape (batch, length); of mixed
lengths as a list of 1-D arrays; strings as a list of ``str``. Indexing and iterating mean the same for all of them."""

DTYPES: dict[str, np.dtype[Any]] = {
    "ints": np.dtype("<i4"),
    "floats": np.dtype("<f4"),
    "doubles": np.dtype("<f8"),
    "bytes": np.dtype("i1"),
}
"""The element type of each numeric input type, little-endian on the wire. Source: Clipper, "Model containers"."""

BytesAs = Literal["int8", "uint8", "raw"]


@dataclass(frozen=True, slots=True)
class LoadContext:
    """What a wrapper is told about the version that it loads."""

    path: Path
    """The version's files: a private, verified, read-only copy."""
    model: str
    version: str
    input_type: InputType
    allow_code: bool
    """Whether the model's policy lets this version run code of its own (pickle, joblib, cloudpickle, wrapper.py)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What ``model.yaml`` gives beside ``kind``."""


@runtime_checkable
class Wrapper(Protocol):
    """One version of a model in one process.

    Guarantees: ``load`` is called once, before anything else; ``predict`` is never called concurrently on one instance.
    A wrapper is made without arguments, found through the entry-point group ``clipperfs.wrappers``, and imports its
    framework inside ``load``.
    """

    bytes_as: ClassVar[BytesAs]
    """How inputs of type ``bytes`` arrive: arrays of int8 (Clipper's way), of uint8, or ``bytes`` objects."""

    def load(self, context: LoadContext) -> None:
        """Load the version. Raise any exception to say that it cannot be loaded; LoadFailed carries a hint."""

    def predict(self, inputs: Inputs) -> Sequence[Any]:
        """Return one output for each input, in the same order.

        An output is ``str``, ``bytes`` (UTF-8 text), a number, a bool, ``None``, a numpy scalar or array, or lists and
        mappings of these. Raising, returning another count, or returning another type is an error of this batch, not
        of the process.
        """
