"""Triton: the C++ server out of the ``nvidia-pytriton`` wheel, with its Python backend, on the processor alone."""

from __future__ import annotations

import ctypes.util
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.peer import NotRun, as_json
from benchmarks.peers.process import ServedPeer
from benchmarks.peers.served.answers import FEATURES
from benchmarks.server import free_port
from benchmarks.tools import ToolMissing, require

_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
LIBRARY = f"libpython{_PYTHON}.so.1.0"
CONFIG = """
name: "{model}"
backend: "python"
max_batch_size: 64
input [ {{ name: "INPUT" data_type: TYPE_FP32 dims: [ {features} ] }} ]
output [ {{ name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] }} ]
dynamic_batching {{ }}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""
"""Dynamic batching without a delay: a batch is whatever has gathered while the one before was computed."""


class Triton(ServedPeer):
    """HTTP, the v2 inference protocol with JSON."""

    name = "triton"
    settings = "Python backend, 1 instance, dynamic batching to 64 without delay, HTTP v2 JSON"
    package = "nvidia-pytriton"
    path = "/v2/models/{model}/infer"
    served = ("triton_model.py",)

    def install(self) -> None:
        """See that the backend's stub will find the shared library of this Python, and install the wheel."""
        try:
            require(LIBRARY, f"libpython{_PYTHON}", find_libpython)
        except ToolMissing as error:
            raise NotRun(f"{error}; a Python that was built with --enable-shared has it too") from error
        super().install()
        if not self._stub.exists():
            raise NotRun(f"the wheel has no stub of the Python backend for Python {_PYTHON}")

    def version(self) -> str:
        """Return the wheel's release."""
        return f"{super().version()} (Triton inside)"

    @property
    def _root(self) -> Path:
        return self.environment.packages / "pytriton" / "tritonserver"

    @property
    def _stub(self) -> Path:
        return self._root / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"

    def launch(self, model: str, folder: Path) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """Write a model repository of one model, and a backend that has the stub for this Python."""
        home = folder / "models" / model
        (home / "1").mkdir(parents=True)
        (home / "config.pbtxt").write_text(CONFIG.format(model=model, features=FEATURES[model]))
        (folder / "triton_model.py").rename(home / "1" / "model.py")
        for name in ("answers.py", "weights.npy"):
            shutil.copy(folder / name, home / "1" / name)
        # The backend looks for the stub beside itself only, so it gets a folder where both are.
        backend = folder / "backends" / "python"
        shutil.copytree(self._root / "backends" / "python", backend, copy_function=os.symlink)
        (backend / "triton_python_backend_stub").symlink_to(self._stub)
        libraries = [str(self._root / "external_libs"), sysconfig.get_config_var("LIBDIR")]
        command: list[str | Path] = [
            self._root / "bin" / "tritonserver",
            f"--model-repository={folder / 'models'}",
            f"--backend-directory={folder / 'backends'}",
            f"--cache-directory={self._root / 'caches'}",
            "--http-address=127.0.0.1",
            f"--http-port={self.port}",
            "--allow-grpc=false",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={free_port()}",
        ]
        return command, {
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "PYTHONPATH": str(self.environment.packages),  # the stub embeds Python and knows of no environment
        }

    def body(self, features: Sequence[float]) -> bytes:
        """Return one v2 request."""
        tensor = {"name": "INPUT", "shape": [1, len(features)], "datatype": "FP32", "data": list(features)}
        return as_json({"inputs": [tensor]})

    def answer(self, reply: bytes) -> int:
        """Return the one element of the one output."""
        return int(json.loads(reply)["outputs"][0]["data"][0])


def find_libpython() -> str | None:
    """Return where the shared library of this Python is: beside it, or where the system's loader looks."""
    own = Path(sysconfig.get_config_var("LIBDIR")) / LIBRARY
    return str(own) if own.exists() else ctypes.util.find_library(f"python{_PYTHON}")
