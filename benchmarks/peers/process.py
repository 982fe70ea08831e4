"""A neighbour as processes: started under a keeper, waited for until it answers, ended with all it has started."""

from __future__ import annotations

import http.client
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import Environment, clean_environment
from benchmarks.peers.peer import NotRun
from benchmarks.peers.served.answers import FEATURES, write_weights
from benchmarks.server import free_port, post

HERE = Path(__file__).parent
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 30

QUIET = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""For every server: one numeric thread a process, as clipperfs gives its replicas, and no reports to anybody."""


class ServedPeer:
    """What all neighbours share; each says how it is launched and how it is asked."""

    name: str
    settings: str
    package: str
    """The package whose release is shown."""
    path: str
    """Where it takes predictions; ``{model}`` is the model's name."""
    served: tuple[str, ...] = ()
    """Files of ``served/`` that are copied beside the model."""
    needs_gb: float = 2

    def __init__(self, place: Path) -> None:
        """Keep the environment under ``place``. Nothing is installed or started yet."""
        self.environment = Environment(self.name, place, needs_gb=self.needs_gb)
        self.port = 0
        self._model = ""
        self._keeper: subprocess.Popen[bytes] | None = None

    def install(self) -> None:
        """Install the pinned packages."""
        self.environment.ensure()

    def version(self) -> str:
        """Return the release that is pinned."""
        return self.environment.version_of(self.package)

    def launch(self, model: str, folder: Path) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """Write what the server needs into ``folder``; return its command and additions to its environment.

        The command is to listen on ``self.port`` of loopback.
        """
        raise NotImplementedError

    def body(self, features: Sequence[float]) -> bytes:
        """Return a request's body for one input."""
        raise NotImplementedError

    def answer(self, reply: bytes) -> int:
        """Return the model's answer out of a reply's body."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Where the running server takes a POST of JSON."""
        return f"http://127.0.0.1:{self.port}{self.path.format(model=self._model)}"

    @property
    def root_pid(self) -> int:
        """The keeper: it sleeps, and all processes of the server are below it."""
        assert self._keeper is not None, f"{self.name} is not running"
        return self._keeper.pid

    def start(self, model: str, folder: Path) -> None:
        """Start the server and wait for its first answer."""
        for name in ("answers.py", *self.served):
            shutil.copy(HERE / "served" / name, folder / name)
        write_weights(folder)
        self.port, self._model = free_port(), model
        command, additions = self.launch(model, folder)
        environment = {
            **clean_environment(),
            **QUIET,
            "HOME": str(folder),
            "PATH": f"{self.environment.bin}:{clean_environment().get('PATH', '')}",
            "BENCH_MODEL": model,
            "BENCH_FOLDER": str(folder),
            "BENCH_PORT": str(self.port),
            **additions,
        }
        log = folder / "server.log"
        with log.open("wb") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, HERE / "keeper.py", *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt at the terminal reaches the benchmark alone, which then stops it
            )
        try:
            self._wait_for_answer(model)
        except NotRun as error:
            self.stop()
            raise NotRun(f"{error}; its log says: {_told(log)}") from None

    def stop(self) -> None:
        """End every process of the server."""
        if self._keeper is None:
            return
        self._keeper.terminate()
        try:
            self._keeper.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
            raise
        finally:
            self._keeper = None

    def _wait_for_answer(self, model: str) -> None:
        assert self._keeper is not None
        body = self.body([0.5] * FEATURES[model])
        deadline = time.monotonic() + START_TIMEOUT_S
        problem: Any = "no try was made"
        while time.monotonic() < deadline:
            try:
                self.answer(post(self.url, body, timeout_s=10)[0])
                return
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
                problem = error
            if self._keeper.poll() is not None:
                raise NotRun(f"it ended by itself with code {self._keeper.returncode}")
            time.sleep(0.2)
        raise NotRun(f"it gave no answer within {START_TIMEOUT_S} s ({problem})")


def _told(log: Path) -> str:
    """Return the last line of a log that tells of an error, or else the last of all."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() or "fail" in line.lower()]
    return (telling or lines or ["nothing"])[-1][-300:]
