"""A replica process and its peers: the sockets that a controller and frontends have."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zmq

from clipperfs import wire
from clipperfs.replica.process import ReplicaProcess, spawn
from clipperfs.replica.spec import ReplicaSpec, new_identity


class Peers:
    """ROUTER sockets as a controller and its frontends have them, and the replica that connects to them."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.context = zmq.Context()
        self.sockets = []
        self.endpoints = [f"ipc://{folder}/p{index}" for index in range(count)]
        for endpoint in self.endpoints:
            socket = self.context.socket(zmq.ROUTER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(endpoint)
            self.sockets.append(socket)
        self.replicas: list[ReplicaProcess] = []

    def start(self, kind: str = "noop", options: dict[str, Any] | None = None, **fields: Any) -> ReplicaProcess:
        spec = ReplicaSpec(
            new_identity(), tuple(self.endpoints), str(self.folder), "m", "1", kind, "doubles", options or {}, **fields
        )
        process = spawn(spec, log_path=self.folder / "log")
        self.replicas.append(process)
        return process

    def send(self, index: int, *frames: bytes) -> None:
        self.sockets[index].send_multipart([self.replicas[0].spec.identity_bytes, *frames])

    def predict(self, index: int, batch: int, values: int = 1) -> None:
        self.send(index, wire.pack_header(wire.PREDICT, batch, 2, values, 1), b"\0" * 8 * values)

    def receive(self, index: int = 0) -> tuple[list[Any], list[bytes]]:
        """Return the next message that is not a probe: its header's fields, and its other frames."""
        while True:
            assert self.sockets[index].poll(10_000), "no message"
            identity, *frames = self.sockets[index].recv_multipart()
            assert identity == self.replicas[0].spec.identity_bytes
            if frames != [b""]:
                return wire.unpack_header(frames[0]), frames[1:]

    def until_ready(self) -> None:
        while True:
            fields, _ = self.receive()
            assert fields[0] in (wire.HELLO, wire.STATE)
            if fields[:2] == [wire.STATE, wire.READY]:
                return


@contextlib.contextmanager
def peers_in_rooms() -> Iterator[Callable[[int], Peers]]:
    """Give what makes so many peers; end all that was made and started."""
    made: list[Peers] = []
    # pytest's own folders are too deep for a socket's path
    short = Path(os.environ["XDG_RUNTIME_DIR"]) / f"t{os.getpid()}-{time.monotonic_ns() % 10**9}"
    short.mkdir(mode=0o700)

    def make(count: int) -> Peers:
        made.append(Peers(short, count))
        return made[-1]

    yield make
    for item in made:
        for process in item.replicas:
            process.close()
        item.context.destroy(0)
