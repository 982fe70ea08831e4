"""``closure``: a Python function saved with cloudpickle."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar

from clipperfs.errors import LoadFailed
from clipperfs.wrapper import BytesAs, Inputs, LoadContext

from .version_file import check_options, find_file, require_code

FILE = "closure.pkl"


class Closure:
    """Calls ``closure.pkl`` (option ``file``), a callable that takes the batch and returns its outputs.

    The model's policy must allow code, because unpickling runs it.
    """

    bytes_as: ClassVar[BytesAs] = "int8"

    def load(self, context: LoadContext) -> None:
        """Unpickle the callable. Raises LoadFailed, ModuleNotFoundError and what unpickling raises."""
        check_options(context, "closure", {"file"})
        path = find_file(context, "closure", [FILE])
        require_code(context, path.name)
        import cloudpickle

        with path.open("rb") as file:
            function = cloudpickle.load(file)
        if not callable(function):
            raise LoadFailed(
                f"closure: {path.name} holds an object of type {type(function).__name__}, which cannot be called",
                hint="save a function with clipperfs.wrappers.closure.save",
            )
        self._function: Callable[[Inputs], Sequence[Any]] = function

    def predict(self, inputs: Inputs) -> Sequence[Any]:
        """Call it."""
        return self._function(inputs)


def save(function: Callable[[Any], Any], path: str | Path) -> Path:
    """Save ``function`` so that the wrapper ``closure`` can serve it; return the file.

    Whatever the function refers to in its own module goes along; the modules it imports must be installed where it is
    served, in the same Python version.

    Args:
        function: takes a batch (``docs/wrappers.md``), returns one output for each input in the same order.
        path: a folder (the file is then ``closure.pkl`` in it), made if need be; or a file that ends with ``.pkl``.

    Raises:
        TypeError: it cannot be called, or refers to something that cannot be pickled (a lock, an open file).
    """
    import cloudpickle

    if not callable(function):
        raise TypeError(f"a closure is a callable, not {type(function).__name__}")
    path = Path(path)
    file = path if path.suffix == ".pkl" else path / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    module = sys.modules.get(function.__module__) if isinstance(function, FunctionType) else None
    by_value = module is not None and module.__name__ != "__main__"
    if by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        data = cloudpickle.dumps(function)
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)
    file.write_bytes(data)
    return file
