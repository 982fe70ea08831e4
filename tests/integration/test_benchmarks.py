"""The references of the benchmarks answer what they should, and the load generator counts it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.batching import Plan, Synthetic, run_batching
from benchmarks.load import measure
from benchmarks.machine import memory_bytes
from benchmarks.open_loop import offer, plan_load
from benchmarks.server import post, run_echo, run_nginx
from benchmarks.switch import read_replies, run_clients
from benchmarks.switches import RATE, read_seen, run_steady_clients
from benchmarks.tools import ToolMissing, find_tool, require_tool
from clipperfs.bench import LoadPlan, Sample, run_load
from tests.integration.frontend_rig import Rig

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


def test_steady_clients_keep_to_their_rate_until_they_are_interrupted(tmp_path: Path) -> None:
    with run_echo() as target, run_steady_clients(target, tmp_path / "replies.npz"):
        time.sleep(1.5)
    found = read_seen(tmp_path / "replies.npz")
    assert 100 < len(found.due_s) <= 2 * RATE
    assert bool((found.end_s[1:] >= found.end_s[:-1]).all())
    assert bool((found.latency_s > 0).all())
    assert found.lost == 0


def test_open_loop_in_its_own_processes_brings_every_answer_back() -> None:
    with Rig() as rig:
        rig.serve(rig.start_peer(), slo_ms=2000)
        plans = [plan_load(rig.port, "app", rate, 0.5, warm_up_s=0.1, connections=4) for rate in (100.0, 200.0)]
        before_s = time.perf_counter()
        few, many = offer(*plans)
        [lost] = offer(plan_load(rig.port, "nobody", 100.0, 0.3, warm_up_s=0.0, connections=4))
    assert (len(few.latency_s), len(many.latency_s)) == (50, 100)
    assert (few.failed, few.losses, few.share_good(2.0)) == (0, (), 1.0)
    assert before_s < few.due_s[0] < few.due_s[-1] < time.perf_counter()
    assert lost.failures == {"status 404": 30}


def test_open_loop_on_a_port_that_nobody_has_is_an_error() -> None:
    with socket.socket() as taken, pytest.raises(RuntimeError, match="the load generator failed"):
        taken.bind(("127.0.0.1", 0))
        offer(plan_load(taken.getsockname()[1], "app", 10.0, 0.1))


def test_memory_of_a_process_is_read_and_of_one_that_is_gone_is_nothing() -> None:
    with run_echo() as target:
        shared, own = memory_bytes(target.root_pid), memory_bytes(target.root_pid, "Pss")
    assert 1_000_000 < own <= shared
    assert memory_bytes(target.root_pid) == 0


def test_missing_tool_without_apt_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.tools.find_tool", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ToolMissing, match="apt-get install nginx-light"):
        require_tool("nginx")


def test_batching_measures_every_way_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[LoadPlan] = []

    def run_and_note(plan: LoadPlan) -> Sample:
        plans.append(plan)
        return run_load(plan)

    monkeypatch.setattr("benchmarks.batching.run_load", run_and_note)
    model = Synthetic("tiny", 200, 4, (4,), base_ms=2)
    plan = Plan(rounds=1, seconds=0.3, warm_up_s=0.1, tail_rounds=2, tail_seconds=0.2, overload=0.2, models=(model,))
    [row] = run_batching(tmp_path, replace(plan, connections=20))["rows"]
    assert [way["way"] for way in row["ways"]] == ["fixed 4", "adaptive", "adaptive, delayed", "no batches"]
    assert row["best"] == "fixed 4"
    assert all(way["goodput"]["median"] > 0 for way in row["ways"])
    calm = row["calm"]
    assert 0 < calm["within_slo"]["low"] <= calm["within_slo"]["median"] <= 1
    gaps = [tuple(one.due_times()) for one in plans if one.seconds == 0.2]
    assert len(set(gaps)) == len(gaps) == 2
    assert {one.rate for one in plans[-2:]} == {calm["rate"]}


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
    assert "predict, stages, batching, switch, switches, restart, publish, poll, eviction, verify" in result.stderr
