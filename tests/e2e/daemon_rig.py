"""A registry, a daemon on it, versions that answer with their own name, and clients that count what they are told."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from clipperfs.daemon import Daemon
from clipperfs.registry import Registry

WRAPPER = """
import os, signal, time

class Wrapper:
    bytes_as = "int8"

    def load(self, context):
        self.version = "v" + context.version
        self.flags = {flags!r}
        if os.path.exists(os.path.join(self.flags, "cannot-load")):
            raise RuntimeError("the drill says that this cannot load")
        if os.path.exists(os.path.join(self.flags, "dies-at-load")):
            os.kill(os.getpid(), signal.SIGKILL)
        while os.path.exists(os.path.join(self.flags, "waits-at-load")):
            time.sleep(0.02)

    def predict(self, inputs):
        outputs = []
        for row in inputs:
            if row[0] == 666.0:
                os.kill(os.getpid(), signal.SIGSEGV)
            if row[0] == 777.0:
                time.sleep(3600)
            if row[0] == 888.0:
                time.sleep(row[1])
            if row[0] == 999.0:
                raise ValueError("the drill says that this cannot be predicted")
            outputs.append(self.version)
        return outputs
"""
"""Answers with ``v`` and its version's name. 666 kills the process, 777 hangs it, 888 takes as many seconds as the next
number, 999 raises;
files in a folder of the test's make it fail at load."""


class Rig:
    """One registry with model ``m`` and application ``a``, and the daemon that serves it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.flags = place / "flags"
        self.flags.mkdir()
        self.registry = Registry.init(place / "registry", cache_dir=place / "cache", actor="ci@test")
        self.state_dir = place / "state"
        self.daemon = self.handle()

    def handle(self, **settings: Any) -> Daemon:
        """Return a handle with quick settings; nothing is started."""
        quick: dict[str, Any] = {"port": 0, "admin_port": None, "poll_s": 0.1, "drain_s": 5.0, "status_s": 0.5}
        return Daemon(self.registry, state_dir=self.state_dir, **{**quick, **settings})

    @contextlib.contextmanager
    def running(self, **settings: Any) -> Iterator[Daemon]:
        """Run the daemon for a block."""
        self.daemon = self.handle(**settings)
        self.daemon.start(30, detached=False)
        try:
            yield self.daemon
        finally:
            self.daemon.stop(0)

    def folder(self, version: str, yaml: str | None = None) -> Path:
        """Write a version that answers with its own name, without code."""
        path = self.place / "sources" / version
        path.mkdir(parents=True)
        yaml = yaml or f"wrapper: {{kind: noop, output: v{version}}}\ninput_type: doubles\nsample: [[1.0, 2.0]]\n"
        (path / "model.yaml").write_text(yaml)
        (path / "weights.bin").write_bytes(os.urandom(64))
        return path

    def code_folder(self, version: str) -> Path:
        """Write a version with a wrapper of its own, which can be made to misbehave."""
        path = self.folder(version, "wrapper: python\ninput_type: doubles\nsample: [[1.0, 2.0]]\n")
        (path / "wrapper.py").write_text(WRAPPER.format(flags=str(self.flags)))
        return path

    def publish(self, version: str, *, code: bool = False, activate: bool = True, **policy: Any) -> None:
        """Publish a version of model ``m``, and set its policy first; the first one registers application ``a``."""
        path = self.code_folder(version) if code else self.folder(version)
        self.registry.publish("m", version, path)
        if not self.registry.apps():
            self.registry.app_register("a", input_type="doubles", default_output="none", slo_us=2_000_000, link="m")
            policy = {"cache": "off", "allow_code": True, **policy}
        if policy:
            self.registry.policy("m", policy)
        if activate:
            self.registry.activate("m", version)

    def flag(self, name: str, on: bool = True) -> None:
        """Make versions with code misbehave at load, or no longer."""
        if on:
            (self.flags / name).touch()
        else:
            (self.flags / name).unlink()

    def ask(self, first: float = 1.0, second: float = 2.0, **more: Any) -> dict[str, Any]:
        """Ask application ``a`` once; return the reply with the answering version under ``version``."""
        with Client(self.daemon.port) as client:
            return client.ask({"input": [first, second], **more})

    def versions(self) -> dict[str, dict[str, Any]]:
        """Return what the status says of each held version of model ``m``."""
        return {one["version"]: one for one in self.daemon.status()["models"]["m"]["versions"]}

    def replica_pids(self, version: str) -> list[int]:
        """Return the processes of a version."""
        found: list[int] = self.versions()[version]["pids"]
        return found

    def serves(self, version: str) -> Callable[[], bool]:
        """Return a condition: the active version is this one."""
        return lambda: bool(self.daemon.status()["models"]["m"]["serving"] == version)


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def ask(self, body: dict[str, Any], app: str = "a") -> dict[str, Any]:
        """Return the reply to a prediction, with its status and the version that answered."""
        self._connection.request("POST", f"/{app}/predict", json.dumps(body), {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        reply: dict[str, Any] = json.loads(response.read())
        return {**reply, "status": response.status, "version": response.headers.get("Clipperfs-Version")}

    def get(self, path: str) -> tuple[int, bytes]:
        """Return the status and body of a page."""
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        return response.status, response.read()


class Load:
    """Clients that ask without a pause for as long as a block, and what they were told.

    Attributes:
        answers: how often each version answered.
        failures: everything that is not an answer of one version with its own output.
        turns: how often a connection heard an older version after a newer one.
    """

    def __init__(self, rig: Rig, *, connections: int = 4, batch: int = 1, reconnect: bool = False) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.turns = 0
        self._port = rig.daemon.port
        self._batch = batch
        self._reconnect = reconnect
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask_for_ever) for _ in range(connections)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        try:
            wait_for(lambda: sum(self.answers.values()) > 20)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                before = sum(self.answers.values())
                wait_for(lambda: sum(self.answers.values()) > before + 20)
        finally:
            self._end()

    def _end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask_for_ever(self) -> None:
        latest = ""
        while not self._stop.is_set():
            with Client(self._port) as client:
                while not self._stop.is_set():
                    latest = self._ask(client, latest)
                    if self._reconnect:
                        break

    def _ask(self, client: Client, latest: str) -> str:
        try:
            if self._batch == 1:
                reply = client.ask({"input": [1.0, 2.0]})
                told, version = [reply], reply["version"]
            else:
                reply = client.ask({"input_batch": [[1.0, 2.0]] * self._batch})
                told, version = reply["batch_predictions"], reply["version"]
        except (OSError, http.client.HTTPException) as error:
            with self._lock:
                self.failures.append(f"{type(error).__name__}: {error}")
            client._connection.close()
            return latest
        outputs = {one.get("output") for one in told}
        with self._lock:
            if any(one.get("default", True) for one in told) or outputs != {f"v{version}"}:
                self.failures.append(f"version {version}: {told[0]}")
            else:
                self.answers[version] += 1
                self.turns += latest > version
        return version or latest


def wait_for(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    """Wait until a condition holds."""
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s, "it did not happen in time"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Say whether a process lives (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"
