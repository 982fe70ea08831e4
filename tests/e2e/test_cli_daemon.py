"""The command line and a real daemon: start, ask, switch, watch, reload, see faults, stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clipperfs.registry import Registry

MODEL_YAML = "wrapper: noop\ninput_type: doubles\nsample: [[1.0]]\n"


class Host:
    """A registry with one model and one application, and a command line that names it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.environment = {**os.environ, "CLIPPERFS_REGISTRY": str(place / "registry")}
        self.environment["CLIPPERFS_CACHE_DIR"] = str(place / "cache")
        self.registry = Registry.init(place / "registry", cache_dir=place / "cache")
        self.publish("1", activate=True)
        self.registry.app_register("reader", input_type="doubles", default_output="-1", slo_us=2_000_000, link="digits")

    def run(self, *arguments: str, exits: int = 0, timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "clipperfs.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self.environment,
            cwd=self.place,
        )
        assert done.returncode == exits, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str, exits: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", exits=exits).stdout)

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "clipperfs.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=self.place,
        )

    def publish(self, version: str, *, activate: bool = False) -> None:
        folder = self.place / f"source-{version}"
        folder.mkdir()
        (folder / "model.yaml").write_text(MODEL_YAML)
        (folder / "weights").write_text(version)
        self.registry.publish("digits", version, folder, activate=activate)

    def start(self, *arguments: str) -> Any:
        return self.json("start", "--port", "0", "--admin-port", "0", *arguments)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    one = Host(tmp_path)
    yield one
    one.run("stop", "--drain", "1s")


def until(is_so: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    give_up_s = time.monotonic() + timeout_s
    while not (found := is_so()):
        assert time.monotonic() < give_up_s, f"waited in vain for {what}"
        time.sleep(0.05)
    return found


def test_daemon_lives_through_the_verbs(host: Host) -> None:
    word = host.start()
    assert (word["state"], word["failed"]) == ("ready", [])
    status = host.json("status")
    assert (status["degraded"], status["models"]["digits"]["serving"]) == (False, "1")
    assert "answers" in host.run("status").stdout

    again = host.run("start", "--json", exits=4)
    assert json.loads(again.stderr)["pid"] == word["pid"]

    reply = host.json("predict", "reader", "[1, 2]")  # finds the daemon's port by the registry
    assert (reply["default"], reply["version"]) == (False, "1")
    assert host.run("predict", "reader", "[1, 2]", "--port", str(word["port"])).stdout == "0\n"
    assert len(host.json("predict", "reader", "[[1], [2]]", "--batch")["batch_predictions"]) == 2
    assert "doubles" in host.run("predict", "reader", '"x"', exits=2).stderr
    assert json.loads(host.run("predict", "nobody", "[1]", "--json", exits=3).stderr)["app"] == "nobody"

    host.publish("2")
    outcome = host.json("activate", "digits", "2", "--wait", "1", "--timeout", "30s")
    assert len(outcome["serving"]) == 1
    assert host.json("predict", "reader", "[1]")["version"] == "2"
    host.run("rollback", "digits", "--wait", "1", "--timeout", "30s")
    assert host.json("predict", "reader", "[1]")["version"] == "1"

    assert "switched" in host.run("logs").stdout
    assert len(host.run("logs", "-n", "2").stdout.splitlines()) == 2
    assert host.json("stop") == {"stopped": True}
    assert host.json("stop") == {"stopped": False}
    host.run("status", exits=3)
    assert json.loads(host.run("predict", "reader", "[1]", "--port", str(word["port"]), "--json", exits=3).stderr)


def test_reload_switches_a_daemon_that_does_not_watch(host: Host) -> None:
    host.start("--no-watch")
    host.publish("2")
    host.run("activate", "digits", "2")
    assert host.run("activate", "digits", "2", "--wait", "1", "--timeout", "500ms", exits=7).stdout == ""
    report = host.json("reload", "digits")
    assert report["failed"] == []
    assert report["changes"]
    assert host.json("predict", "reader", "[1]")["version"] == "2"
    assert host.run("reload").stdout == "nothing changed\n"
    assert json.loads(host.run("reload", "nobody", "--json", exits=3).stderr)["error"] == "NotFound"


def test_watch_streams_events_until_it_is_interrupted(host: Host) -> None:
    host.start("--no-watch")
    with host.popen("watch", "--json") as watching:
        assert watching.stdout is not None
        until(lambda: host.json("status")["registry"]["following"], "the daemon to follow")
        host.publish("2")
        host.run("activate", "digits", "2", "--wait", "1")
        for line in watching.stdout:
            event = json.loads(line)
            if event["event"] == "switched":
                break
        assert (event["model"], event["version"]) == ("digits", "2")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 130
    assert host.json("status")["registry"]["following"] is True


def test_following_the_log_ends_with_an_interrupt(host: Host) -> None:
    host.start()
    with host.popen("logs", "-f", "-n", "0") as following:
        assert following.stdout is not None
        time.sleep(0.5)
        host.publish("2")
        host.run("activate", "digits", "2", "--wait", "1")
        assert any("switched" in line for line in following.stdout)
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 130


def test_restart_replaces_the_daemon_and_every_verb_finds_the_new_one(host: Host) -> None:
    assert host.run("restart", "--json", exits=3).stdout == ""
    first = host.start("--frontends", "2")
    word = host.json("restart")
    assert (word["port"], word["admin_port"]) == (first["port"], first["admin_port"])
    assert word["pid"] != first["pid"]
    status = host.json("status")
    assert (status["daemon"]["pid"], len(status["frontends"])) == (word["pid"], 2)
    assert host.json("predict", "reader", "[1]")["version"] == "1"
    assert host.json("reload")["failed"] == []
    assert "handed over" in host.run("logs").stdout
    assert host.json("restart", "--frontends", "1")["port"] == first["port"]
    assert json.loads(host.run("start", "--json", exits=4).stderr)["port"] == first["port"]


def test_restart_that_is_interrupted_leaves_the_old_daemon(host: Host) -> None:
    first = host.start()
    with host.popen("restart") as restarting:
        until(lambda: "handing over" in host.run("logs").stdout, "the hand-over to begin")
        restarting.send_signal(signal.SIGINT)
        code = restarting.wait(30)
    if code != 0:  # the machine may have been so quick that it had ended
        assert code == 130
        until(lambda: "not handed over" in host.run("logs").stdout, "the new daemon to end")
        assert host.json("status")["daemon"]["pid"] == first["pid"]
    assert host.json("predict", "reader", "[1]")["version"] == "1"


def test_foreground_daemon_ends_on_term_with_0(host: Host) -> None:
    with host.popen("start", "--foreground", "--port", "0", "--admin-port", "0") as daemon:
        until(lambda: _is_ready(host), "the daemon to be ready")
        assert host.json("status")["daemon"]["pid"] == daemon.pid
        daemon.terminate()
        assert daemon.wait(30) == 0


def _is_ready(host: Host) -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "clipperfs.cli", "status", "--json"],
        capture_output=True,
        text=True,
        timeout=30,
        env=host.environment,
    )
    return done.returncode == 0 and bool(json.loads(done.stdout)["daemon"]["ready"])


def test_version_that_fails_only_here_makes_the_daemon_degraded(host: Host) -> None:
    host.start()
    host.publish("2")
    target = host.place / "registry" / "models" / "digits" / "versions" / "2" / "weights"
    host.run("activate", "digits", "2", "--wait", "1")
    host.run("stop")
    target.chmod(0o600)
    target.write_text("X")
    host.environment["CLIPPERFS_CACHE_DIR"] = str(host.place / "fresh cache")
    word = host.start()
    assert [failure["version"] for failure in word["failed"]] == ["2"]
    document = host.json("status", exits=8)
    assert document["degraded"] is True
    assert "2" in host.run("status", exits=8).stdout
    assert host.json("reload", exits=1)["failed"]
    timed_out = json.loads(host.run("rollback", "digits", "--wait", "2", "--timeout", "3s", "--json", exits=7).stderr)
    assert len(timed_out["serving"]) == 1
    assert host.json("predict", "reader", "[1]")["version"] == "1"


def test_port_in_use_fails_at_once_and_names_it(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        began = time.monotonic()
        document = json.loads(host.run("start", "--port", port, "--json", exits=1).stderr)
        assert port in document["message"]
        assert time.monotonic() - began < 10


def test_start_without_a_registry_is_not_found(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clipperfs.cli", "start", "--registry", str(tmp_path / "none"), "--json", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, json.loads(done.stderr)["error"]) == (3, "NotFound")
