"""Ray Serve: HAProxy in front, replicas as Ray actors behind, dynamic request batching in the replica.

Its HTTP port is on loopback. Ray's own services and its replicas' ports listen on all interfaces, and cannot be told
otherwise: run this where nobody else can reach the machine.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.peer import as_json
from benchmarks.peers.process import ServedPeer
from benchmarks.server import free_port


class RayServe(ServedPeer):
    """HTTP with a JSON object of its own."""

    name = "ray"
    settings = "1 replica behind HAProxy, throughput optimised, batches to 64 within 1 ms, access log off"
    package = "ray"
    path = "/"
    served = ("ray_server.py",)

    _sessions = ""
    """A folder with a short name: Ray puts unix sockets deep below it, whose paths may have 107 bytes."""

    def launch(self, model: str, folder: Path) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """Run the program that holds the settings: it starts a Ray of its own."""
        direct = free_port()
        self._sessions = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        return [self.environment.bin / "python", folder / "ray_server.py"], {
            "BENCH_SESSIONS": self._sessions,
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # for one replica
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{self._sessions}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{self._sessions}/admin.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": self._sessions,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{self._sessions}/server-state",
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{self._sessions}/metrics.sock",
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(direct),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(direct + 20),
            "PYTHONPATH": str(folder),  # replicas import the model from there
        }

    def stop(self) -> None:
        """End every process, and remove Ray's files."""
        super().stop()
        if self._sessions:
            shutil.rmtree(self._sessions, ignore_errors=True)
            self._sessions = ""

    def body(self, features: Sequence[float]) -> bytes:
        """Return one request."""
        return as_json({"input": list(features)})

    def answer(self, reply: bytes) -> int:
        """Return the output."""
        return int(json.loads(reply)["output"])
