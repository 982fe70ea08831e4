"""LitServe: FastAPI processes in front, worker processes behind, a queue between."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.peer import as_json
from benchmarks.peers.process import ServedPeer


class LitServe(ServedPeer):
    """HTTP with a JSON object of its own."""

    name = "litserve"
    settings = "a worker and an API server a core, fast_queue (ZeroMQ), batches to 64 within 1 ms, access log off"
    package = "litserve"
    path = "/predict"
    served = ("litserve_server.py",)

    def launch(self, model: str, folder: Path) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """Run the program that holds the settings."""
        return [self.environment.bin / "python", folder / "litserve_server.py"], {}

    def body(self, features: Sequence[float]) -> bytes:
        """Return one request."""
        return as_json({"input": list(features)})

    def answer(self, reply: bytes) -> int:
        """Return the output."""
        return int(json.loads(reply)["output"])
