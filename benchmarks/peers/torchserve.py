"""TorchServe: a Java frontend on netty, Python workers behind, batching between. Needs Java 17."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.environments import clean_environment
from benchmarks.peers.peer import NotRun, as_json
from benchmarks.peers.process import ServedPeer
from benchmarks.server import free_port
from benchmarks.tools import ToolMissing, require_tool

CONFIG = """
inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
grpc_inference_port={grpc}
grpc_management_port={grpc_management}
disable_token_authorization=true
async_logging=true
job_queue_size=1000
model_store={folder}/store
load_models={model}.mar
models={{"{model}": {{"1.0": {{"defaultVersion": true, "marName": "{model}.mar", "minWorkers": 1, "maxWorkers": 1, \
"batchSize": 64, "maxBatchDelay": 1, "responseTimeout": 60}}}}}}
"""


class TorchServe(ServedPeer):
    """HTTP with a JSON object of its own."""

    name = "torchserve"
    settings = "1 worker, batches to 64 within 1 ms, asynchronous logging, a queue of 1,000"
    package = "torchserve"
    path = "/predictions/{model}"
    served = ("torchserve_handler.py",)
    needs_gb = 12  # torch from PyPI brings CUDA's libraries with it

    def install(self) -> None:
        """See that there is Java, and install the pinned packages."""
        try:
            require_tool("java")
        except ToolMissing as error:
            raise NotRun(str(error)) from error
        super().install()

    def launch(self, model: str, folder: Path) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """Pack the model as an archive, and write the configuration."""
        (folder / "store").mkdir()
        archive: list[str | Path] = [self.environment.bin / "torch-model-archiver"]
        archive += ["--model-name", model, "--version", "1.0", "--handler", folder / "torchserve_handler.py"]
        archive += ["--extra-files", f"{folder / 'answers.py'},{folder / 'weights.npy'}"]
        subprocess.run(
            [*archive, "--export-path", folder / "store"],
            env=clean_environment(),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=True,
        )
        ports = {name: free_port() for name in ("management", "metrics", "grpc", "grpc_management")}
        (folder / "config.properties").write_text(CONFIG.format(port=self.port, model=model, folder=folder, **ports))
        command: list[str | Path] = [self.environment.bin / "torchserve", "--start", "--foreground"]
        command += ["--ts-config", folder / "config.properties", "--model-store", folder / "store"]
        return command, {"LOG_LOCATION": str(folder / "logs"), "METRICS_LOCATION": str(folder / "logs")}

    def body(self, features: Sequence[float]) -> bytes:
        """Return one request."""
        return as_json({"input": list(features)})

    def answer(self, reply: bytes) -> int:
        """Return the output."""
        return int(json.loads(reply)["output"])
