"""clipperfs: a model registry that is only files, and serving daemons that need nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from clipperfs.client import Client
    from clipperfs.daemon import Daemon
    from clipperfs.registry import Registry

__all__ = ["Client", "Daemon", "Registry", "__version__"]

_ROOMS = {"Client": "clipperfs.client", "Daemon": "clipperfs.daemon", "Registry": "clipperfs.registry"}


def __getattr__(name: str) -> Any:
    """Import the public classes when they are first asked for: ``import clipperfs`` itself stays quick."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'clipperfs' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ROOMS[name]), name)
