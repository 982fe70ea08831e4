"""Compiles the predict path while the package is built. Everything else about the packaging is in setup.cfg.

The modules that setup.cfg lists under ``[compiled]`` are ordinary Python with types. mypyc makes C of them, which takes
half the processor time a query. Where that does not work (no compiler, another interpreter) they run as they are.
``CLIPPERFS_COMPILED=no`` leaves it out, ``CLIPPERFS_COMPILED=must`` ends the build when it fails.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import sys
import tempfile
import traceback
from hashlib import sha256
from pathlib import Path
from typing import Any

from setuptools import setup

BUILDS = {"bdist_wheel", "editable_wheel", "build", "build_ext", "install", "develop"}
"""Commands that need the extensions. Others only ask for metadata, and should not wait for a compiler."""
ROOT = Path(__file__).resolve().parent
PACKAGES = ("serverd", "wrappers", "hooks")
"""Folders that stand beside the package's own, and belong into it."""


def compiled_modules() -> list[str]:
    """Return the names of the modules that are to be compiled."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return settings["compiled"]["modules"].split()


def make_extensions() -> list[Any]:
    """Return what setuptools is to compile; nothing where that cannot work."""
    wish = os.environ.get("CLIPPERFS_COMPILED", "yes")
    if wish not in ("yes", "no", "must"):
        sys.exit(f"CLIPPERFS_COMPILED must be yes, no or must, not {wish!r}")
    if "editable_wheel" in sys.argv:
        remove_compiled()
    if wish == "no" or BUILDS.isdisjoint(sys.argv) or sys.implementation.name != "cpython":
        return []
    try:
        from mypyc.build import mypycify
    except ImportError:  # setup.py was called by hand, outside a build environment
        if wish == "must":
            raise
        return []
    with tempfile.TemporaryDirectory() as folder:
        make_tree(Path(folder))
        named = {name: name.replace(".", "/") + ".py" for name in compiled_modules()}
        # What is imported is not there while the package is built; `make lint` has checked the types with it.
        options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent", "--cache-dir=/dev/null"]
        try:
            with contextlib.chdir(folder):  # a traceback names files as they are named here
                extensions: list[Any] = mypycify(
                    [*options, *named.values()],
                    group_name="clipperfs",
                    opt_level="2",
                    debug_level="0",
                    target_dir=str(ROOT / "build"),
                )
        except (Exception, SystemExit):  # the second is what mypyc ends with
            if wish == "must":
                raise
            traceback.print_exc()
            return []
        digests = {name: sha256(Path(folder, file).read_bytes()).hexdigest() for name, file in named.items()}
    (ROOT / "build" / "compiled.json").write_text(json.dumps(digests, indent=1))  # tests do not run beside others
    for extension in extensions:
        extension.optional = wish != "must"
    return extensions


def remove_compiled() -> None:
    """Remove what was compiled in place: it would be imported before the sources, of whatever time it is."""
    for old in [*ROOT.glob("*.so"), *(old for name in ("clipperfs", *PACKAGES) for old in (ROOT / name).rglob("*.so"))]:
        old.unlink()


def make_tree(folder: Path) -> None:
    """Put the package together as it is installed, for mypy goes by folders."""
    (folder / "clipperfs").mkdir()
    for path in [*(ROOT / "clipperfs").iterdir(), *map(ROOT.joinpath, PACKAGES)]:
        (folder / "clipperfs" / path.name).symlink_to(path)


setup(ext_modules=make_extensions())
