"""The metrics of a running daemon: they parse, cover each stage and never fall; ``top`` shows them and outlives it."""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.request
from pathlib import Path

from clipperfs.serverd.shared_page import KEEP_S
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.daemon_rig import Client, Rig, wait_for
from tests.integration.terminal import run_in_terminal

ASKED = 40


def shown(port: int) -> str:
    """Return what the query port shows, which may be half a second old."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        return str(reply.read().decode())


def read(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], tuple[str, float]]:
    """Return the type of the family and the value of each sample."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): (family.type, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def is_count(kind: str, name: str) -> bool:
    return kind == "counter" or (kind == "histogram" and not name.endswith("_created"))


def test_counters_of_two_frontends_add_up_and_outlive_them(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.publish("1")
    with rig.running(frontends=2) as daemon:
        for _ in range(ASKED):  # each on a connection of its own, so that the kernel spreads them
            assert rig.ask()["status"] == 200
        with Client(daemon.port) as client:
            assert client.ask({"input": ["no number"]})["status"] == 400
        before = read(shown(daemon.port))
        version = (("model", "m"), ("version", "1"))
        assert before["clipperfs_queries_total", (("app", "a"),)][1] == ASKED
        assert before["clipperfs_bad_requests_total", (("app", "a"),)][1] == 1
        stages = ("version_query", "queue", "predict", "query")
        for stage in (f"clipperfs_{one}_seconds" for one in stages):
            labels = (("app", "a"),) if stage == "clipperfs_query_seconds" else version
            kind, count = before[f"{stage}_count", labels]
            assert (kind, count) == ("histogram", ASKED), stage
            assert before[f"{stage}_sum", labels][1] > 0, stage
        assert before["clipperfs_batch_size_count", version][1] == ASKED
        assert before["clipperfs_batch_seconds_count", version][1] == ASKED

        for one in daemon.status()["frontends"]:
            os.kill(one["pid"], signal.SIGKILL)
            pid = one["pid"]
            wait_for(lambda: pid not in [each["pid"] for each in daemon.status()["frontends"]])  # noqa: B023
            wait_for(lambda: all(each["state"] == "ready" for each in daemon.status()["frontends"]))
            after = read(daemon.metrics())
            for key, (kind, value) in before.items():
                assert not is_count(kind, key[0]) or after[key][1] >= value, f"{key} fell"
            before = after
        assert before["clipperfs_frontend_restarts_total", ()][1] == 2
        assert rig.ask()["status"] == 200
        assert read(daemon.metrics())["clipperfs_queries_total", (("app", "a"),)][1] == ASKED + 1


def test_page_on_the_query_port_is_shared_for_a_moment_and_the_admin_socket_is_told_at_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.publish("1")
    with rig.running(frontends=2) as daemon:
        began_s, requests = time.monotonic(), []
        for _ in range(40):  # each is a request, so that no two pages made for one each would be the same
            requests.append(read(shown(daemon.port))["clipperfs_http_requests_total", ()][1])
        made = 1 + (time.monotonic() - began_s) / KEEP_S
        assert requests == sorted(requests)
        assert len(set(requests)) <= made < 20
        assert "clipperfs_http_requests_total 40.0" in daemon.metrics()


def test_top_outlives_a_restart_of_the_daemon_and_ends_at_q(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.publish("1")
    command = [
        sys.executable,
        "-m",
        "clipperfs.cli",
        "--registry",
        str(tmp_path / "registry"),
        "top",
        "--every",
        "100ms",
    ]
    command += ["--state-dir", str(rig.state_dir)]
    with rig.running():
        top = run_in_terminal(command, rows=12, columns=60)
        terminal = top.__enter__()
        terminal.read_until(b"requests a second")
    try:
        terminal.read_until(b"waiting for the daemon")
        with rig.running():
            rig.ask()
            shown = terminal.read_until(b"requests a second")
            assert b"Traceback" not in shown
            terminal.press(b"q")
            assert terminal.process.wait(10) == 0
    finally:
        top.__exit__(*sys.exc_info())
