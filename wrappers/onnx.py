"""``onnx``: a model in ONNX format, run by onnxruntime on the CPU."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from clipperfs.errors import LoadFailed
from clipperfs.wrapper import BytesAs, Inputs, LoadContext

from .onnx_weights import weight_files
from .version_file import check_options, find_file

_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


class Onnx:
    """Predicts with ``model.onnx`` (option ``file``), which has one input whose first axis is the batch.

    Options: ``output``: the name of the output to answer with (default: the first one), or a list of names, in which
    case every answer is a mapping of name to value. Inputs are converted to the element type and shape that the model
    declares. One thread; replicas are how a version is scaled.
    """

    bytes_as: ClassVar[BytesAs] = "uint8"

    def load(self, context: LoadContext) -> None:
        """Make an inference session. Raises LoadFailed, ModuleNotFoundError and what onnxruntime raises."""
        check_options(context, "onnx", {"file", "output"})
        path = find_file(context, "onnx", ["model.onnx"])
        _check_weights(path, context.path)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(f"{item.name}" for item in inputs)
            raise LoadFailed(f"onnx: the model has {len(inputs)} inputs ({names}); this wrapper feeds one", hint=_OWN)
        [declared] = inputs
        if declared.type not in _DTYPES:
            raise LoadFailed(f"onnx: the input {declared.name!r} is a {declared.type}", hint=_OWN)
        self._session = session
        self._input_name: str = declared.name
        self._dtype = np.dtype(_DTYPES[declared.type])
        self._shape: list[Any] = list(declared.shape)
        if self._shape and isinstance(self._shape[0], int) and self._shape[0] != 1:
            raise LoadFailed(
                f"onnx: the batch axis of input {declared.name!r} is fixed at {self._shape[0]}",
                hint="export the model with a dynamic batch axis",
            )
        self._one_by_one = bool(self._shape) and self._shape[0] == 1
        self._outputs, self._as_mapping = _chosen_outputs(session, context.options.get("output"))

    def predict(self, inputs: Inputs) -> Any:
        """Return the chosen output, with the batch as its first axis, or a mapping for each input."""
        batch = self._batch(inputs)
        if self._one_by_one:
            answers = [self._run(batch[at : at + 1]) for at in range(len(batch))]
            columns = [[value[0] for value in column] for column in zip(*answers, strict=True)]
        else:
            columns = self._run(batch)
        if not self._as_mapping:
            return columns[0]
        return [dict(zip(self._outputs, row, strict=True)) for row in zip(*columns, strict=True)]

    def _run(self, batch: np.ndarray[Any, Any]) -> list[Any]:
        outputs: list[Any] = self._session.run(self._outputs, {self._input_name: batch})
        return outputs

    def _batch(self, inputs: Inputs) -> np.ndarray[Any, Any]:
        """Return the inputs as one array of the declared type and shape. Raises ValueError when they do not fit."""
        if isinstance(inputs, np.ndarray):
            array = inputs
        elif isinstance(inputs[0], str):
            array = np.array(inputs, dtype=np.object_).reshape(-1, 1)
        else:
            lengths = sorted({len(item) for item in inputs})
            raise ValueError(f"the inputs of a batch have lengths {lengths}; this model needs one length")
        if (array.dtype == np.object_) != (self._dtype == np.object_):
            raise ValueError(f"the model takes {_element(self._dtype)}, not {_element(array.dtype)}")
        count, width = array.shape
        axes = [axis if isinstance(axis, int) else None for axis in self._shape[1:]]
        if axes != [None] and axes != [width]:
            array = array.reshape(count, *_filled(axes, width))
        return array.astype(self._dtype, copy=False)


_OWN = "bring a wrapper.py of your own (wrapper: python)"


def _element(dtype: np.dtype[Any]) -> str:
    return "texts" if dtype == np.object_ else str(dtype)


def _filled(axes: list[int | None], width: int) -> list[int]:
    """Return the axes of one input of ``width`` elements, at most one of them open. Raises ValueError."""
    fixed = int(np.prod([axis for axis in axes if axis is not None], dtype=np.int64))
    open_axes = axes.count(None)
    if open_axes > 1 or (width != fixed if open_axes == 0 else fixed == 0 or width % fixed):
        shape = " × ".join("?" if axis is None else str(axis) for axis in axes) or "1"
        raise ValueError(f"an input of {width} elements does not fit the model's {shape}")
    return [width // fixed if axis is None else axis for axis in axes]


def _chosen_outputs(session: Any, chosen: Any) -> tuple[list[str], bool]:
    names = [item.name for item in session.get_outputs()]
    if chosen is None:
        return names[:1], False
    wanted = chosen if isinstance(chosen, list) else [chosen]
    for name in wanted:
        if name not in names:
            raise LoadFailed(f"onnx: the model has no output {name!r}", hint=f"its outputs: {', '.join(names)}")
    if not wanted:
        raise LoadFailed("onnx: option output names no output", hint=f"the model's outputs: {', '.join(names)}")
    return wanted, isinstance(chosen, list)


def _check_weights(path: Path, root: Path) -> None:
    """Raise LoadFailed when the model keeps weights in a file that is not part of the version."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # weights may be gigabytes; they are skipped
        locations = weight_files(memoryview(mapped))
    except ValueError as error:
        raise LoadFailed(f"onnx: {path.name} is not an ONNX model: {error}") from error
    for location in sorted(locations):
        target = (path.parent / location).resolve()
        if Path(location).is_absolute() or not target.is_relative_to(root.resolve()):
            raise LoadFailed(
                f"onnx: {path.name} keeps weights in {location!r}, which is outside the version",
                hint="save it with its weights inside, or in a file beside it",
            )
        if not target.is_file():
            raise LoadFailed(
                f"onnx: {path.name} keeps weights in {location!r}, which the version does not hold",
                hint="publish the weights file together with the model",
            )
