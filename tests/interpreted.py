"""Lets the modules that are compiled run as they are written, in the process that imports this before ``clipperfs``.

So tests can put other objects in the place of theirs, and a search can see their branches. The daemons, replicas and
commands that tests start are processes of their own, and run what is installed: the compiled modules.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def compiled_modules() -> list[str]:
    """Return the names of the modules that setup.py compiles."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return settings["compiled"]["modules"].split()


class Sources:
    """Finds the sources of those modules; the import system would prefer what was compiled."""

    def __init__(self, names: list[str]) -> None:
        self._names = frozenset(names)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the specification of a module that is compiled otherwise; None for others."""
        if name not in self._names or not path:
            return None
        return spec_from_file_location(name, Path(path[0], name.rpartition(".")[2] + ".py"))


def find_stale() -> list[str]:
    """Return the modules whose sources have changed since they were compiled at this place."""
    try:
        digests = json.loads((ROOT / "build" / "compiled.json").read_text())
    except FileNotFoundError:
        return []
    folders = {"clipperfs.serverd": "serverd"}
    stale = []
    for name in compiled_modules():
        package, _, stem = name.rpartition(".")
        folder = ROOT / folders.get(package, package.replace(".", "/"))
        if list(folder.glob(f"{stem}.*.so")):
            digest = hashlib.sha256((folder / f"{stem}.py").read_bytes()).hexdigest()
            stale += [name] if digests.get(name) != digest else []
    return stale


def use_sources() -> None:
    """Have this process import the sources from now on."""
    sys.meta_path.insert(0, Sources(compiled_modules()))


use_sources()
