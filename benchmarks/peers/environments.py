"""One virtual environment a neighbour, outside the checkout, with every package pinned.

An environment is called after its neighbour and the content of its pins, and marked when it is complete: the second
run installs nothing, and changed pins make a new one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import venv
from pathlib import Path

from benchmarks.peers.peer import NotRun
from benchmarks.tools import ToolMissing, run_installer

PINS = Path(__file__).with_name("requirements")
PINNED_FOR = (3, 11)
"""The Python that the pins were resolved for; pip fails on some of them with another."""
INSTALL_TIMEOUT_S = 1800


def default_place() -> Path:
    """Return where environments are kept unless told otherwise: in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "clipperfs-bench-peers"


class Environment:
    """The environment of one neighbour."""

    def __init__(self, name: str, place: Path, *, needs_gb: float = 2) -> None:
        """Describe it; nothing is made yet. ``needs_gb`` is what must be free on the disk to install it."""
        self.name = name
        self.needs_gb = needs_gb
        self.pins = PINS / f"{name}.txt"
        mark = hashlib.sha256(f"{sys.version_info[:2]} {self.pins.read_text()}".encode()).hexdigest()[:12]
        self.folder = place.absolute() / f"{name}-{mark}"

    @property
    def bin(self) -> Path:
        """The folder of its programs."""
        return self.folder / "bin"

    @property
    def packages(self) -> Path:
        """The folder of its packages."""
        return self.folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"

    def ensure(self) -> None:
        """Make the environment and install the pins, unless that was done before.

        Raises:
            NotRun: too little disk, or pip failed.
        """
        complete = self.folder / ".complete"
        if complete.exists():
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        free_gb = shutil.disk_usage(self.folder.parent).free / 1e9
        if free_gb < self.needs_gb:
            raise NotRun(f"its environment needs {self.needs_gb:.0f} GB of disk, {free_gb:.0f} GB are free")
        print(f"installing {self.name} …", file=sys.stderr, flush=True)
        venv.create(self.folder, clear=True, with_pip=True, symlinks=True)
        pip: list[str | Path] = ["nice", "-n", "10", self.bin / "python", "-m", "pip", "--disable-pip-version-check"]
        install = [*pip, "--no-input", "install", "--quiet", "--requirement", self.pins]
        try:
            result = run_installer("pip", install, clean_environment(), INSTALL_TIMEOUT_S)
        except ToolMissing as error:
            raise NotRun(str(error)) from error
        if result.returncode != 0:
            errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or [result.stderr]
            raise NotRun(f"pip failed: {errors[-1].strip()[-200:]}")
        complete.touch()

    def version_of(self, package: str) -> str:
        """Return the pinned release of a package, with its name."""
        for line in self.pins.read_text().splitlines():
            name, _, version = line.partition("==")
            if name.partition("[")[0] == package:
                return f"{package} {version}"
        raise KeyError(f"{self.pins.name} does not pin {package}")


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what belongs to its own Python."""
    return {
        name: text
        for name, text in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP", "PYTHONWARNINGS")
    }
