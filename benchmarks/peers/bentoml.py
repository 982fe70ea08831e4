"""BentoML: a Starlette service with adaptive batching, one process a core."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.peer import as_json
from benchmarks.peers.process import ServedPeer


class BentoML(ServedPeer):
    """HTTP with a JSON object of its own."""

    name = "bentoml"
    settings = "a worker a core, adaptive batching to 64, access log off, uvicorn with uvloop and httptools"
    package = "bentoml"
    path = "/predict"
    served = ("bentoml_service.py",)

    def launch(self, model: str, folder: Path) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """Serve the service's file."""
        command: list[str | Path] = [self.environment.bin / "bentoml", "serve", "bentoml_service:Served"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--working-dir", folder]
        return command, {"BENTOML_HOME": str(folder / "bentoml")}

    def body(self, features: Sequence[float]) -> bytes:
        """Return one request: a batch of one, as a batchable method takes it."""
        return as_json({"inputs": [list(features)]})

    def answer(self, reply: bytes) -> int:
        """Return the one output of the batch of one."""
        return int(json.loads(reply)[0])
