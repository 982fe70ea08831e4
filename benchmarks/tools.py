"""The programs that the benchmarks drive (wrk, nginx): found, or installed from Debian, or asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

PACKAGES = {"wrk": "wrk", "nginx": "nginx-light"}
_PLACES = os.pathsep.join(["/usr/sbin", "/usr/local/sbin", "/sbin"])


class ToolMissing(Exception):
    """A program that a benchmark needs is not there and could not be installed."""


def find_tool(name: str) -> str | None:
    """Return the path of a program, or ``None``. Looks in the folders of system daemons too."""
    return shutil.which(name) or shutil.which(name, path=_PLACES)


def require_tool(name: str) -> str:
    """Return the path of a program, installing its Debian package when that is possible.

    Raises:
        ToolMissing: it is not there, and we are not root, have no apt-get, or the installation failed.
    """
    path = find_tool(name)
    if path is not None:
        return path
    package = PACKAGES[name]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ToolMissing(f"the benchmark needs {name}: install it first (Debian, Ubuntu: apt-get install {package})")
    print(f"installing {package} …", file=sys.stderr, flush=True)
    # RUNLEVEL=1: the package's service is installed, but not started.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ["apt-get", "-qq", "install", "--yes", "--no-install-recommends", package]
    for command in (["apt-get", "-qq", "update"], install):
        result = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
        )
        if result.returncode != 0:
            raise ToolMissing(f"{' '.join(command)} failed: {result.stderr.strip()[-300:]}")
    path = find_tool(name)
    if path is None:
        raise ToolMissing(f"{package} was installed, but {name} is not found")
    return path
