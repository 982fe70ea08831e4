"""A neighbour as processes: started, compared with the model, loaded, and ended with all that it has started."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks.machine import process_tree
from benchmarks.peers import keeper
from benchmarks.peers.check import check_answers, inputs_of
from benchmarks.peers.environments import Environment
from benchmarks.peers.ours import Clipperfs
from benchmarks.peers.peer import NotRun, as_json
from benchmarks.peers.process import HERE, ServedPeer
from benchmarks.peers.run import Plan, run
from benchmarks.peers.served.answers import FEATURES, load, write_weights
from benchmarks.server import post

SERVER = """
import http.server, json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import answers

predict = answers.load(os.environ["BENCH_MODEL"], os.environ["BENCH_FOLDER"])
shift = int(sys.argv[1])

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        features = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = json.dumps((predict([features])[0] + shift) % 10).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments):
        pass

ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer(("127.0.0.1", int(os.environ["BENCH_PORT"])), Handler).serve_forever()
"""

CRASH = "raise SystemExit('error: no such thing')"


class Small(ServedPeer):
    """A server of a few lines, in this environment; answers ``shift`` too much."""

    name = "litserve"  # its pins are read, never installed
    settings = "none"
    package = "litserve"
    path = "/{model}"

    def __init__(self, place: Path, *, program: str = SERVER, shift: int = 0) -> None:
        super().__init__(place)
        self.program, self.shift = program, shift

    def install(self) -> None:
        pass

    def version(self) -> str:
        return "small 1"

    def launch(self, model: str, folder: Path) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        (folder / "server.py").write_text(self.program)
        return [sys.executable, folder / "server.py", str(self.shift)], {}

    def body(self, features: Sequence[float]) -> bytes:
        return as_json(list(features))

    def answer(self, reply: bytes) -> int:
        return int(json.loads(reply))


def started(peer: Small, folder: Path) -> None:
    folder.mkdir()
    write_weights(folder)
    peer.start("linear", folder)


def test_right_answers_pass_and_wrong_ones_are_told(tmp_path: Path) -> None:
    right, wrong = Small(tmp_path), Small(tmp_path, shift=1)
    try:
        started(right, tmp_path / "right")
        check_answers(right, "linear", tmp_path / "right")
        started(wrong, tmp_path / "wrong")
        with pytest.raises(NotRun, match="104 of 104 answers are not the model's own"):
            check_answers(wrong, "linear", tmp_path / "wrong")
        pids = process_tree(right.root_pid) + process_tree(wrong.root_pid)
        assert len(pids) == 4
    finally:
        right.stop()
        wrong.stop()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("model", FEATURES)
def test_clipperfs_serves_the_same_file_as_its_neighbours(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = shutil.copytree(HERE / "served", tmp_path / "served") / "answers.py"
    changed.write_text(changed.read_text().replace("NOOP_ANSWER = 0", "NOOP_ANSWER = 3").replace("argmax", "argmin"))
    monkeypatch.setattr("benchmarks.peers.ours.HERE", tmp_path)
    write_weights(tmp_path)
    inputs = inputs_of(model, 8)
    expected = runpy.run_path(str(changed))["load"](model, tmp_path)(inputs)
    peer = Clipperfs()
    (tmp_path / "home").mkdir()
    try:
        peer.start(model, tmp_path / "home")
        found = [peer.answer(post(peer.url, peer.body(features))[0]) for features in inputs]
    finally:
        peer.stop()
    assert found == expected
    assert found != load(model, tmp_path)(inputs)


@pytest.mark.needs("wrk")
def test_run_measures_who_answers_rightly_and_tells_why_others_did_not_run(tmp_path: Path) -> None:
    class Absent(Small):
        name = "triton"

        def install(self) -> None:
            raise NotRun("pip failed")

    class Crashing(Small):
        name = "ray"

    class Wrong(Small):
        name = "mlserver"

    peers = [Small(tmp_path), Absent(tmp_path), Crashing(tmp_path, program=CRASH), Wrong(tmp_path, shift=1)]
    plan = Plan(models=("linear",), connections=(2,), rounds=1, seconds=0.5, echo_s=0.5, warm_up_s=0.5)
    result = run(peers, plan, tmp_path / "run")
    [row] = result["rows"]
    assert (row["server"], row["connections"], row["failed"]) == ("litserve", 2, 0)
    assert 0 < row["ratio_to_echo"]["median"] < 1
    assert row["cpu_us"]["median"] > 10
    not_run = result["not_run"]
    assert not_run["triton"] == "installing: pip failed"
    assert not_run["ray"] == "linear: it ended by itself with code 1; its log says: error: no such thing"
    assert not_run["mlserver"].startswith("linear: 104 of 104 answers are not the model's own")
    assert len(not_run) == 3


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_keeper_ends_daemons_that_left_their_session_even_when_the_server_was_killed(end: signal.Signals) -> None:
    # The daemon's parent goes at once, and it ignores TERM: only its adoption by the keeper finds it.
    shell = "(setsid sh -c 'trap \"\" TERM; exec sleep 300' &) ; exec sleep 300"
    process = subprocess.Popen([sys.executable, keeper.__file__, "sh", "-c", shell])
    wait_until(lambda: len(process_tree(process.pid)) == 3)
    pids = process_tree(process.pid)
    if end == signal.SIGTERM:
        process.terminate()
    else:
        servers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(servers[0]), end)
    process.wait(10)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_environment_that_is_complete_is_not_installed_again(tmp_path: Path) -> None:
    environment = Environment("litserve", tmp_path)
    environment.folder.mkdir(parents=True)
    (environment.folder / ".complete").touch()
    environment.ensure()
    assert not environment.bin.exists()
