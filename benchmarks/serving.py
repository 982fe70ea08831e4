"""clipperfs as a target: a registry in a temporary folder, its models, and a daemon that serves them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.server import Target, post
from clipperfs import Daemon, Registry

SLO_US = 500_000
"""Long enough that the reply is the model's: a default would be quick, and no prediction."""

LINEAR_WRAPPER = '''
"""784 features to 10 scores: one matrix product for a batch."""

import numpy as np


class Wrapper:
    bytes_as = "int8"

    def load(self, context):
        self.weights = np.load(context.path / "weights.npy")

    def predict(self, inputs):
        return (np.asarray(inputs) @ self.weights).argmax(axis=1).tolist()
'''


def noop_files(folder: Path, max_batch: int | None = None, **options: Any) -> Path:
    """Write a version that does nothing but answer. ``options`` are those of the wrapper ``noop``."""
    folder.mkdir(parents=True)
    (folder / "nothing.txt").write_text("There is no model here.\n")
    wrapper = {"kind": "noop", **options}
    settings = {"wrapper": wrapper, "input_type": "floats", "sample": [[0.0] * 10], "max_batch": max_batch}
    (folder / "model.yaml").write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    return folder


def linear_files(folder: Path) -> Path:
    """Write a version with a linear model of 784 features and 10 classes, loaded by its own wrapper on numpy."""
    import numpy as np

    folder.mkdir(parents=True)
    np.save(folder / "weights.npy", np.random.default_rng(7).standard_normal((784, 10), dtype=np.float32))
    (folder / "wrapper.py").write_text(LINEAR_WRAPPER)
    settings = {"wrapper": "python", "input_type": "floats", "sample": [[0.0] * 784]}
    (folder / "model.yaml").write_text(json.dumps(settings))
    return folder


def add_model(registry: Registry, name: str, files: Path, slo_us: int = SLO_US, **policy: Any) -> None:
    """Publish and activate version ``1`` of a model, and link an application of the same name to it."""
    if policy:
        registry.policy(name, policy)
    registry.publish(name, "1", files, activate=True)
    registry.app_register(name, input_type="floats", default_output="no answer", slo_us=slo_us, link=name)


@contextlib.contextmanager
def run_daemon(registry: Registry, folder: Path, **settings: Any) -> Iterator[Daemon]:
    """Serve ``registry`` on ports from the system, with the daemon's state in ``folder``."""
    daemon = Daemon(registry, port=0, admin_port=0, state_dir=folder, **settings)
    daemon.start(wait_s=60, detached=False)  # ends with the benchmark, however that ends
    try:
        yield daemon
    finally:
        daemon.stop(drain_s=5)


def clipperfs_target(daemon: Daemon, app: str, name: str) -> Target:
    """Return an application of a running daemon as a target: controller, frontends and replicas count as one."""
    url = f"http://127.0.0.1:{daemon.port}/{app}/predict"
    return Target(name, url, daemon_pid(daemon), expect_prediction)


def daemon_pid(daemon: Daemon) -> int:
    """Return the controller's process: all others are its descendants."""
    return int(daemon.status()["daemon"]["pid"])


def expect_prediction(body: bytes) -> None:
    """Check that a reply holds the model's output and not the default."""
    reply = json.loads(body)
    assert reply["default"] is False, reply
    assert "output" in reply, reply


def answers_defaulted(daemon: Daemon) -> float:
    """Return how many default outputs the daemon has given so far, from its own metrics."""
    return read_counter(daemon, "clipperfs_default_outputs_total")


def read_counter(daemon: Daemon, name: str) -> float:
    """Return a counter of the daemon's own metrics, added up over its labels."""
    text = daemon.metrics()  # not from the query port: there it may be half a second old
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((name + "{", name + " ")))


def warm_up(target: Target, body: bytes) -> None:
    """Send a few queries one by one, checking each reply."""
    for _ in range(20):
        target.check(post(target.url, body)[0])
