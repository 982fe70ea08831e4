"""``python``: the version brings its own wrapper class."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipperfs.errors import LoadFailed
from clipperfs.wrapper import BytesAs, Inputs, LoadContext

from .version_file import inside, require_code

ENTRYPOINT = "wrapper.py:Wrapper"


class Python:
    """Predicts with the class that the option ``entrypoint`` names, ``wrapper.py:Wrapper`` unless given.

    The class is made without arguments and has ``predict(inputs)``; ``load(context)`` and ``bytes_as`` are optional.
    Its folder and the version's are last on ``sys.path``, so its own modules can be imported but never hide an
    installed one. Further options are the class's own, in ``context.options``. The model's policy must allow code.
    """

    bytes_as: BytesAs = "int8"

    def load(self, context: LoadContext) -> None:
        """Import the file, make an instance and load it. Raises LoadFailed and whatever the version's code raises."""
        path, name = _entrypoint(context)
        require_code(context, path.name)
        module = _import_file(path, context.path)
        kind = getattr(module, name, None)
        if not callable(kind):
            what = "has no" if kind is None else "has something else called"
            raise LoadFailed(f"python: {path.name} {what} {name}", hint="option entrypoint: file.py:Class")
        wrapper = kind()
        if not callable(getattr(wrapper, "predict", None)):
            raise LoadFailed(f"python: {name} in {path.name} has no predict", hint="add predict(self, inputs)")
        self.bytes_as = getattr(wrapper, "bytes_as", "int8")
        if self.bytes_as not in ("int8", "uint8", "raw"):
            raise LoadFailed(f"python: bytes_as of {name} is {self.bytes_as!r}", hint="one of int8, uint8 or raw")
        if hasattr(wrapper, "load"):
            wrapper.load(context)
        self._wrapper = wrapper

    def predict(self, inputs: Inputs) -> Sequence[Any]:
        """Let the version's class predict."""
        outputs: Sequence[Any] = self._wrapper.predict(inputs)
        return outputs


def _entrypoint(context: LoadContext) -> tuple[Path, str]:
    value = context.options.get("entrypoint", ENTRYPOINT)
    file, colon, name = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not colon or not name.isidentifier() or not file.endswith(".py"):
        raise LoadFailed(f"python: option entrypoint is {value!r}", hint=f"it looks like {ENTRYPOINT}")
    path = inside(context, "python", "entrypoint", file)
    if not path.is_file():
        raise LoadFailed(
            f"python: version {context.version} of {context.model} has no {file}",
            hint="publish it with the version, or name another by the option entrypoint",
        )
    return path, name


def _import_file(path: Path, root: Path) -> Any:
    """Import a file of the version under a name that no other module has."""
    sys.dont_write_bytecode = True  # the copy is verified: it must not change
    for folder in (path.parent, root):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    name = f"clipperfs_version_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pickle and dataclasses look a class's module up there
    spec.loader.exec_module(module)
    return module
