"""MLServer: uvicorn and FastAPI in front, a pool of inference workers behind, adaptive batching between."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.peer import as_json
from benchmarks.peers.process import ServedPeer
from benchmarks.server import free_port


class MLServer(ServedPeer):
    """HTTP, the v2 inference protocol with JSON."""

    name = "mlserver"
    settings = "1 parallel worker (its default), adaptive batching to 64 within 1 ms, debug off, httptools, v2 JSON"
    package = "mlserver"
    path = "/v2/models/{model}/infer"
    served = ("mlserver_model.py",)

    def launch(self, model: str, folder: Path) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """Write the two files of settings."""
        server = {
            "host": "127.0.0.1",
            "http_port": self.port,
            "grpc_port": free_port(),
            "metrics_port": free_port(),
            "debug": False,
            "parallel_workers": 1,
        }
        (folder / "settings.json").write_text(json.dumps(server))
        settings = {
            "name": model,
            "implementation": "mlserver_model.Served",
            "max_batch_size": 64,
            "max_batch_time": 0.001,
        }
        (folder / "model-settings.json").write_text(json.dumps(settings))
        return [self.environment.bin / "mlserver", "start", folder], {}

    def body(self, features: Sequence[float]) -> bytes:
        """Return one v2 request."""
        tensor = {"name": "input", "shape": [1, len(features)], "datatype": "FP32", "data": list(features)}
        return as_json({"inputs": [tensor]})

    def answer(self, reply: bytes) -> int:
        """Return the one element of the one output."""
        return int(json.loads(reply)["outputs"][0]["data"][0])
