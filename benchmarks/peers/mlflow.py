"""MLflow: a ``pyfunc`` model behind its scoring server, FastAPI on uvicorn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.peer import as_json
from benchmarks.peers.process import ServedPeer


class MLflow(ServedPeer):
    """HTTP with MLflow's JSON for arrays."""

    name = "mlflow"
    settings = "scoring server, a worker a core, uvicorn with uvloop and httptools; it has no batching"
    package = "mlflow"
    path = "/invocations"
    served = ("mlflow_model.py",)

    def launch(self, model: str, folder: Path) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """Save the model and serve it, in one program of MLflow's environment."""
        return [self.environment.bin / "python", folder / "mlflow_model.py"], {}

    def body(self, features: Sequence[float]) -> bytes:
        """Return one request of one row."""
        return as_json({"inputs": [list(features)]})

    def answer(self, reply: bytes) -> int:
        """Return the one prediction."""
        return int(json.loads(reply)["predictions"][0])
