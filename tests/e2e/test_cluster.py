"""Two daemons on one registry, one of which has too little memory for a version: who serves what is said of both."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipperfs.daemon import Daemon
from tests.e2e.daemon_rig import Client, Rig, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

NEEDS_BYTES = 3 << 30
HAS_BYTES = 2 << 30
LARGE = f"""
class Wrapper:
    def load(self, context):
        self.version = "v" + context.version
        self.weights = bytearray({NEEDS_BYTES})  # never touched: it takes addresses, and no memory

    def predict(self, inputs):
        return [self.version for _ in inputs]
"""


def clipperfs(rig: Rig, *arguments: str, exits: int) -> tuple[dict[str, Any], str]:
    """Run a command; return its document, where it printed one, and what it said on stderr."""
    command = [sys.executable, "-m", "clipperfs.cli", "--registry", rig.registry.url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == exits, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return (json.loads(done.stdout) if done.stdout.startswith("{") else {}), done.stderr


def answer(port: int) -> str:
    with Client(port) as client:
        return str(client.ask({"input": [1.0, 2.0]})["output"])


def test_wait_names_the_daemon_that_refused_and_the_rest_goes_on(rig: Rig, tmp_path: Path) -> None:
    rig.publish("1")
    other = Daemon(
        rig.registry, state_dir=tmp_path / "b", cache_dir=tmp_path / "cache-b", port=0, admin_port=None,
        poll_s=0.1, drain_s=5.0, status_s=0.5, name="host-b",
    )  # fmt: skip
    with rig.running(name="host-a") as first:
        other.start(30, detached=False)
        try:
            pid = other.status()["daemon"]["pid"]
            resource.prlimit(pid, resource.RLIMIT_AS, (HAS_BYTES, HAS_BYTES))  # its replicas inherit it
            wait_for(lambda: len(rig.registry.cluster().models) == 1 and not rig.registry.cluster().degraded)

            folder = rig.code_folder("2")
            (folder / "wrapper.py").write_text(LARGE)
            rig.registry.publish("m", "2", folder)
            _, said = clipperfs(rig, "activate", "m", "2", "--wait", "2", "--timeout", "60s", exits=8)
            assert "1 of 2 daemons serve record" in said
            assert "host-b refused version 2" in said and "MemoryError" in said
            assert "no other is on its way" in said
            assert "has applied record" in said or "has not loaded version 2" in said, "it told how far it was"
            assert (answer(first.port), answer(other.port)) == ("v2", "v1")

            report, _ = clipperfs(rig, "status", "--cluster", "--json", exits=8)
            [model] = report["models"]
            assert model["serving"] == ["host-a"] and "MemoryError" in model["refused"]["host-b"]
            seen = {one["replica"]: one["models"][0] for one in report["daemons"]}
            assert (seen["host-a"]["active"], seen["host-b"]["active"]) == ("2", "1")

            outcome, said = clipperfs(rig, "rollback", "m", "--wait", "2", "--json", exits=0)
            assert outcome["serving"] == ["host-a", "host-b"]
            assert (answer(first.port), answer(other.port)) == ("v1", "v1")
            clipperfs(rig, "status", "--cluster", exits=0)
        finally:
            other.stop(0)
        wait_for(lambda: [one.replica for one in rig.registry.cluster().daemons] == ["host-a"])
    assert [one.replica for one in rig.registry.cluster().daemons] == [], "a daemon that ends takes its status away"
