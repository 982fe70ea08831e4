"""clipperfs as one of the peers: the same models, out of a registry, served by its daemon."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers.peer import NotRun, as_json
from benchmarks.peers.process import HERE
from benchmarks.peers.served.answers import FEATURES, write_weights
from benchmarks.serving import add_model, daemon_pid, run_daemon
from clipperfs import Registry
from clipperfs.errors import ClipperfsError


class Clipperfs:
    """HTTP with clipperfs's JSON. An answer that is the application's default output is no answer."""

    name = "clipperfs"
    settings = "as it comes: python wrapper, default frontends, 1 replica, prediction cache off, SLO 500 ms"

    def __init__(self) -> None:
        """Nothing is started yet."""
        self._model = ""
        self._pid = self._port = 0
        self._running = contextlib.ExitStack()

    def install(self) -> None:
        """Do nothing: it is this checkout."""

    def version(self) -> str:
        """Return the release of the checkout."""
        return f"clipperfs {version('clipperfs')}"

    def start(self, model: str, folder: Path) -> None:
        """Publish the model and start a daemon."""
        registry = Registry.init(str(folder / "registry"), cache_dir=folder / "cache")
        add_model(registry, model, version_files(model, folder / "files"), cache="off", allow_code=True)
        try:
            daemon = self._running.enter_context(run_daemon(registry, folder / "state"))
        except ClipperfsError as error:
            raise NotRun(f"its daemon did not start: {error}") from error
        self._model, self._port, self._pid = model, daemon.port, daemon_pid(daemon)

    def stop(self) -> None:
        """Stop the daemon, with its frontends and replicas."""
        self._running.close()

    @property
    def url(self) -> str:
        """The application's address."""
        return f"http://127.0.0.1:{self._port}/{self._model}/predict"

    @property
    def root_pid(self) -> int:
        """The controller."""
        return self._pid

    def body(self, features: Sequence[float]) -> bytes:
        """Return one query."""
        return as_json({"input": list(features)})

    def answer(self, reply: bytes) -> int:
        """Return the output, unless it is the default."""
        document = json.loads(reply)
        if document["default"]:
            raise ValueError(f"the application's default output, no prediction: {reply!r}")
        return int(document["output"])


def version_files(model: str, folder: Path) -> Path:
    """Write a version of a model: the file that all servers run, its weights, and a wrapper that calls it."""
    folder.mkdir()
    shutil.copy(HERE / "served" / "answers.py", folder)
    shutil.copy(HERE / "served" / "clipperfs_wrapper.py", folder / "wrapper.py")
    write_weights(folder)
    settings = {"wrapper": "python", "input_type": "floats", "sample": [[0.0] * FEATURES[model]]}
    (folder / "model.yaml").write_text(json.dumps(settings))
    return folder
