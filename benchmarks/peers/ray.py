"""Ray Serve: a proxy in front, replicas as Ray actors behind, dynamic request batching in the replica."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.peer import as_json
from benchmarks.peers.process import ServedPeer


class RayServe(ServedPeer):
    """HTTP with a JSON object of its own."""

    name = "ray"
    settings = "1 replica, RAY_SERVE_THROUGHPUT_OPTIMIZED, batches to 64 within 1 ms, access log off"
    package = "ray"
    path = "/"
    served = ("ray_server.py",)

    def launch(self, model: str, folder: Path) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """Run the program that holds the settings: it starts a Ray of its own."""
        return [self.environment.bin / "python", folder / "ray_server.py"], {
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "PYTHONPATH": str(folder),  # replicas import the model from there
        }

    def body(self, features: Sequence[float]) -> bytes:
        """Return one request."""
        return as_json({"input": list(features)})

    def answer(self, reply: bytes) -> int:
        """Return the output."""
        return int(json.loads(reply)["output"])
