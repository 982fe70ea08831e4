"""The programs and libraries that benchmarks need of the system: found, or installed from Debian, or asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PACKAGES = {"wrk": "wrk", "nginx": "nginx-light", "java": "openjdk-17-jre-headless"}
INSTALL_TIMEOUT_S = 300
_PLACES = os.pathsep.join(["/usr/sbin", "/usr/local/sbin", "/sbin"])


class ToolMissing(Exception):
    """Something that a benchmark needs is not there and could not be installed."""


def find_tool(name: str) -> str | None:
    """Return the path of a program, or ``None``. Looks in the folders of system daemons too."""
    return shutil.which(name) or shutil.which(name, path=_PLACES)


def require_tool(name: str) -> str:
    """Return the path of a program, installing its Debian package when that is possible.

    Raises:
        ToolMissing: it is not there, and we are not root, have no apt-get, or the installation failed.
    """
    return require(name, PACKAGES[name], lambda: find_tool(name))


def require(name: str, package: str, find: Callable[[], str | None]) -> str:
    """Return where ``find`` finds a thing, installing its Debian package when it is missing and that is possible.

    Raises:
        ToolMissing: as for ``require_tool``.
    """
    path = find()
    if path is not None:
        return path
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ToolMissing(f"the benchmark needs {name}: install it first (Debian, Ubuntu: apt-get install {package})")
    print(f"installing {package} …", file=sys.stderr, flush=True)
    _apt_get("update")
    _apt_get("install", "--yes", "--no-install-recommends", package)
    path = find()
    if path is None:
        raise ToolMissing(f"{package} was installed, but {name} is not found")
    return path


def _apt_get(*arguments: str) -> None:
    command = ["apt-get", "-qq", *arguments]
    # RUNLEVEL=1: the package's service is installed, but not started.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    result = run_installer(" ".join(command), command, environment, INSTALL_TIMEOUT_S)
    if result.returncode != 0:
        raise ToolMissing(f"{' '.join(command)} failed: {result.stderr.strip()[-300:]}")


def run_installer(
    name: str, command: Sequence[str | Path], environment: Mapping[str, str], timeout_s: int
) -> subprocess.CompletedProcess[str]:
    """Run what installs something, without a terminal; return what it said. Raises ToolMissing when it hangs."""
    try:
        return subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ToolMissing(f"{name} took more than {timeout_s // 60} minutes") from None
