"""The references of the benchmarks answer what they should, and the load generator counts it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.load import measure
from benchmarks.server import post, run_echo, run_nginx
from benchmarks.switch import read_replies, run_clients
from benchmarks.tools import ToolMissing, find_tool, require_tool

ROOT = Path(__file__).parents[2]


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "body.json"
    path.write_text('{"input": [1.0, 2.0]}')
    return path


def test_echo_answers_fourteen_bytes_and_ends_with_its_block() -> None:
    with run_echo() as target:
        reply, headers = post(target.url, b"[]")
        assert (len(reply), headers["Content-Length"]) == (14, "14")
        target.check(reply)
        pid = target.root_pid
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.skipif(find_tool("nginx") is None, reason="needs the program nginx")
def test_nginx_answers_the_same_body_as_the_echo(tmp_path: Path) -> None:
    with run_nginx(tmp_path / "nginx") as target:
        target.check(post(target.url, b"[]")[0])
        pids = target.pids()
        assert len(pids) >= 2  # a master and a worker
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.needs("wrk")
def test_load_measures_rate_latency_and_processor_time(body: Path) -> None:
    with run_echo() as target:
        found = measure(target, body, connections=4, duration_s=0.5)
    assert found.requests_per_s > 100
    assert 0 < found.p50_ms <= found.p99_ms
    assert 0 < found.cpu_us < 10_000
    assert found.failed == 0


@pytest.mark.needs("wrk")
def test_load_on_a_server_that_is_gone_is_an_error(body: Path) -> None:
    with run_echo() as target:
        pass
    with pytest.raises(RuntimeError, match="wrk measured nothing on echo"):
        measure(target, body, connections=1, duration_s=0.3)


def test_clients_keep_every_reply_of_a_server(body: Path, tmp_path: Path) -> None:
    with run_echo() as target, run_clients(target, body, tmp_path / "replies.npz"):
        time.sleep(0.3)
    found = read_replies(tmp_path / "replies.npz")
    assert len(found.end_s) > 50
    assert bool((found.latency_s > 0).all())
    assert bool((found.end_s[1:] >= found.end_s[:-1]).all())


def test_missing_tool_without_apt_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.tools.find_tool", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ToolMissing, match="apt-get install nginx-light"):
        require_tool("nginx")


def test_unknown_benchmark_is_refused_with_the_names_that_exist() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", "speed"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert "predict, switch, restart, publish, poll, eviction, verify" in result.stderr
