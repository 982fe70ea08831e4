"""A frontend process and its stand-in controller: what the tests of the predict path and its benchmark drive."""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from clipperfs.serverd import control
from clipperfs.serverd.routing import AppRoute, ModelRoute, RoutingTable, VersionRoute

from clipperfs import wire
from clipperfs.replica.process import ReplicaProcess, spawn
from clipperfs.replica.spec import ReplicaSpec, new_identity


@dataclass(frozen=True)
class Reply:
    """An HTTP reply."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def ask(rig: Rig, method: str, path: str, body: bytes | None = None) -> Reply:
    """Ask the frontend on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", rig.port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def predict(rig: Rig, body: Any, path: str = "/app/predict") -> Reply:
    """Ask for a prediction."""
    return ask(rig, "POST", path, json.dumps(body).encode())


def wait_for(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come about"
        time.sleep(0.01)


PEER = Path(__file__).with_name("wire_peer.py")


ROOT = Path(__file__).parents[2]
FROM_SOURCES = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
import tests.interpreted
runpy.run_module("clipperfs.serverd.frontend", run_name="__main__")
"""


class Rig:
    """Plays the controller for one frontend, synchronously. Use as a context manager."""

    def __init__(
        self, *options: str, index: int = 0, runtime: str | None = None, port: int = 0, interpreted: bool = False
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cfs-", dir="/tmp")
        self.runtime = runtime or self._folder.name
        self.index = index
        ours, theirs = socket.socketpair()
        self.channel = ours
        command = [sys.executable, "-P", "-m", "clipperfs.serverd.frontend"]
        if interpreted:
            command = [sys.executable, "-c", FROM_SOURCES]
        command += ["--control-fd", str(theirs.fileno()), "--parent-pid", str(os.getpid()), "--index", str(index)]
        command += ["--runtime", self.runtime, "--port", str(port), *options]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], close_fds=True)
        theirs.close()
        self._reader = control.FrameReader()
        self._waiting: list[control.Message] = []
        self.epoch = 0
        self.released: list[str] = []
        self.messages: list[control.Message] = []
        self.children: list[subprocess.Popen[bytes]] = []
        self.replicas: list[ReplicaProcess] = []
        self.ways: tuple[str, ...] = ()
        """What every peer is told beside its behaviour: ``lane``, or nothing."""
        self._context = zmq.Context()
        self._router: Any = None
        self.port: int = self.expect(control.READY)["port"]

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *exc: object) -> None:
        self.channel.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
        for child in self.children:
            child.kill()
            child.wait(5)
        for replica in self.replicas:
            replica.kill_group()
            replica.wait(5)
        if self._router is not None:
            self._router.close(0)
        self._context.destroy(0)
        self._folder.cleanup()

    # -- the control channel

    def send(self, kind: str, **fields: Any) -> None:
        """Send the frontend a message."""
        self.channel.sendall(control.pack_message(kind, **fields))

    def receive(self, timeout_s: float = 5.0) -> control.Message | None:
        """Return the frontend's next message, or None when none comes in time or the channel ended."""
        deadline = time.monotonic() + timeout_s
        while not self._waiting:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self.channel], [], [], left_s)[0]:
                return None
            data = self.channel.recv(1 << 16)
            if not data:
                return None
            self._waiting += self._reader.feed(data)
        message = self._waiting.pop(0)
        self.messages.append(message)
        if message["t"] == control.APPLIED:
            self.released += message["released"]
        return message

    def expect(self, kind: str, timeout_s: float = 10.0) -> control.Message:
        """Return the next message of a kind; what comes before it is kept in ``messages``."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            message = self.receive(left_s)
            if message is not None and message["t"] == kind:
                return message
            if message is None:
                break
        raise AssertionError(f"no {kind} message came; before: {self.messages}")

    def wait_released(self, key: str, timeout_s: float = 5.0) -> None:
        """Wait until the frontend has said that a version is released."""
        deadline = time.monotonic() + timeout_s
        while key not in self.released:
            assert self.receive(deadline - time.monotonic()) is not None, f"{key} was not released"

    def route(self, apps: dict[str, AppRoute], models: dict[str, ModelRoute], accepting: bool = True) -> None:
        """Have the frontend follow a new table, and wait until it does."""
        self.epoch += 1
        table = RoutingTable(self.epoch, accepting, apps, models)
        self.send(control.TABLE, **table.to_plain())
        while self.expect(control.APPLIED)["epoch"] != self.epoch:
            pass

    def metrics(self) -> dict[str, Any]:
        """Return the frontend's counters."""
        self.send(control.METRICS, id=1)
        data: dict[str, Any] = self.expect(control.METRICS)["data"]
        return data

    # -- replicas

    @property
    def endpoint(self) -> str:
        """The frontend's endpoint for replicas."""
        return control.frontend_endpoint(self.runtime, self.index)

    def start_peer(self, *behaviour: str) -> str:
        """Start a ``wire_peer`` that behaves as told; return its identity once it is connected."""
        identity = new_identity()
        child = subprocess.Popen(
            [sys.executable, str(PEER), self.endpoint, identity, *behaviour, *self.ways], stdout=subprocess.PIPE
        )
        self.children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"connected\n"
        child.stdout.close()
        return identity

    def kill_peer(self, number: int = 0) -> None:
        """Kill a peer the hard way."""
        self.children[number].kill()
        self.children[number].wait(5)

    def start_replica(
        self, wrapper: str = "noop", input_type: Any = "doubles", allow_code: bool = False, **options: Any
    ) -> str:
        """Start a real replica process; return its identity once it is ready."""
        if self._router is None:
            self._router = self._context.socket(zmq.ROUTER)
            self._router.bind(control.controller_endpoint(self.runtime))
        endpoints = (control.controller_endpoint(self.runtime), self.endpoint)
        spec = ReplicaSpec(new_identity(), endpoints, self.runtime, "m", "1", wrapper, input_type, options, allow_code)
        self.replicas.append(spawn(spec, log_path=Path(self.runtime, "replica.log")))
        while self._router.poll(20_000):
            identity, *frames = self._router.recv_multipart()
            fields = wire.unpack_header(frames[0]) if frames[0] else []
            if fields[:2] == [wire.STATE, wire.READY] and identity == spec.identity_bytes:
                return str(spec.identity)
        raise AssertionError(Path(self.runtime, "replica.log").read_text())

    # -- the usual table

    def serve(
        self,
        *replicas: str,
        input_type: str = "doubles",
        slo_ms: float = 500,
        default_output: str = "-1",
        cache: bool = False,
        key: str = "k1",
        version: str = "1",
        **settings: Any,
    ) -> None:
        """Route application ``app`` to model ``m`` with one version."""
        route = VersionRoute(key, "d" * 64, input_type, tuple(replicas), **settings)
        model = ModelRoute(active=version, versions={version: route}, cache=cache)
        self.route({"app": AppRoute(input_type, int(slo_ms * 1000), default_output, "m")}, {"m": model})
