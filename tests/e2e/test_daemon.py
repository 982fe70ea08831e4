"""A daemon's life: start, second start, ports, reload, watch, events, drain, stop."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from clipperfs.admin import AdminClient
from clipperfs.daemon import Daemon
from clipperfs.daemon_files import is_locked, read_daemon, runtime_dir, start_ticks
from clipperfs.documents import ReplicaStatus, parse_document
from clipperfs.errors import (
    DaemonAlreadyRunning,
    DaemonNotRunning,
    DaemonStartFailed,
    InvalidInput,
    InvalidSetting,
    NotFound,
    TimedOut,
)
from tests.e2e.daemon_rig import Client, Rig, is_alive, wait_for


def test_started_daemon_answers_and_stop_ends_every_process(rig: Rig) -> None:
    rig.publish("1")
    heard: list[dict[str, Any]] = []
    word = rig.daemon.start(30, progress=heard.append)
    assert word["port"] == rig.daemon.port != 0
    assert word["failed"] == []
    assert rig.daemon.is_running()
    reply = rig.ask()
    assert (reply["output"], reply["default"], reply["version"]) == ("v1", False, "1")
    status = rig.daemon.status()
    pids = [word["pid"], *rig.replica_pids("1"), *(one["pid"] for one in status["frontends"])]
    assert not status["degraded"], status["reasons"]
    assert rig.daemon.stop() is True
    assert not any(is_alive(pid) for pid in pids)
    assert not rig.daemon.is_running()
    assert not is_locked(rig.state_dir)
    assert not runtime_dir(rig.state_dir).exists()
    assert rig.daemon.stop() is False


def test_context_manager_starts_and_stops(rig: Rig) -> None:
    rig.publish("1")
    with rig.handle() as daemon:
        pid = daemon.status()["daemon"]["pid"]
    assert not is_alive(pid)


def test_second_start_is_refused_and_names_the_first(rig: Rig) -> None:
    rig.publish("1")
    with rig.running() as daemon:
        with pytest.raises(DaemonAlreadyRunning) as caught:
            rig.handle().start(10)
        first = daemon.status()["daemon"]
        assert caught.value.fields["pid"] == first["pid"]
        assert caught.value.fields["port"] == first["port"]
        assert rig.ask()["version"] == "1"


@pytest.mark.parametrize("which", ["port", "admin_port"])
@pytest.mark.parametrize("frontends", [1, 2])
def test_port_in_use_fails_at_once_and_leaves_nothing(rig: Rig, which: str, frontends: int) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        started_s = time.monotonic()
        with pytest.raises(DaemonStartFailed, match=str(port)):
            rig.handle(**{which: port, "frontends": frontends}).start(10)
        assert time.monotonic() - started_s < 5
    assert not is_locked(rig.state_dir)


def test_address_without_a_registry_fails_the_start(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no registry"):
        Daemon(tmp_path / "nothing", port=0, admin_port=None, state_dir=tmp_path / "state").start(10)


def test_unknown_setting_fails_the_start_and_is_named(rig: Rig) -> None:
    with pytest.raises(InvalidSetting, match="no_such"):
        rig.handle(no_such=1).start(10)


def test_empty_registry_is_served_and_its_first_model_appears(rig: Rig) -> None:
    with rig.running():
        rig.publish("1")
        wait_for(lambda: "a" in rig.daemon.status()["apps"] and rig.ask()["version"] == "1")


def test_without_watching_nothing_is_followed_until_reload_and_watch(rig: Rig) -> None:
    rig.publish("1")
    with rig.running(watch=False) as daemon:
        rig.publish("2")
        time.sleep(0.4)
        assert daemon.status()["models"]["m"]["active"] == "1"
        assert daemon.status()["registry"]["following"] is False
        assert daemon.reload("m")["changes"] == [{"model": "m", "alias": None, "from": "1", "to": "2"}]
        assert rig.ask()["version"] == "2"  # the very next query: reload returns when every frontend has the new table
        assert daemon.reload()["changes"] == []
        rig.publish("3")
        time.sleep(0.4)
        assert daemon.status()["models"]["m"]["active"] == "2"
        events = daemon.watch(timeout_s=10)
        seen = []
        for event in events:
            seen.append(event["event"])
            if event["event"] == "switched":
                assert (event["model"], event["version"], event["previous"]) == ("m", "3", "2")
                break
        events.close()  # type: ignore[attr-defined]
        assert seen == ["loading", "ready", "switched"]
        with pytest.raises(NotFound, match="nowhere"):
            daemon.reload("nowhere")


def test_only_the_named_models_are_served(rig: Rig) -> None:
    rig.publish("1")
    rig.registry.publish("other", "1", rig.folder("9"), activate=True)
    with rig.running(models=["other"]) as daemon:
        assert set(daemon.status()["models"]) == {"other"}
        assert rig.ask()["default_explanation"] == "No connected models found for query"


def test_admin_port_shows_and_takes_no_commands(rig: Rig) -> None:
    rig.publish("1")
    with rig.running(admin_port=0) as daemon:
        document = read_daemon(rig.state_dir)
        assert document is not None and document.admin_port is not None
        with Client(document.admin_port) as client:
            status, body = client.get("/status")
            assert status == 200 and json.loads(body)["models"]["m"]["serving"] == "1"
            assert client.get("/livez")[0] == client.get("/readyz")[0] == 200
            status, body = client.get("/metrics")
            assert b"clipperfs_ready 1.0" in body
            assert client.get("/nothing")[0] == 404
        connection = http.client.HTTPConnection("127.0.0.1", document.admin_port, timeout=5)
        connection.request("POST", "/stop", b"{}")
        assert connection.getresponse().status == 403
        connection.close()
        assert daemon.is_running()
        with Client(daemon.port) as client:
            assert b'clipperfs_queries_total{app="a"}' in client.get("/metrics")[1]
            assert client.get("/readyz")[0] == 200


def test_admin_socket_is_closed_to_others_and_checks_what_it_is_sent(rig: Rig) -> None:
    with rig.running():
        document = read_daemon(rig.state_dir)
        assert document is not None
        path = Path(document.admin_socket)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        admin = AdminClient(path)
        with pytest.raises(InvalidInput):
            admin.post("/reload", {"model": 7})
        with pytest.raises(InvalidInput):
            admin.post("/watch", {"follow": "yes"})
        with pytest.raises(InvalidSetting):
            admin.post("/stop", {"drain_s": -1})
        with pytest.raises(NotFound):
            admin.get("/nothing")


def test_stop_finishes_the_query_in_flight_then_refuses(rig: Rig) -> None:
    rig.publish("1", code=True)
    with rig.running() as daemon:
        port = daemon.port
        replies: list[dict[str, Any]] = []
        asking = threading.Thread(target=lambda: replies.append(rig.ask(888.0, 0.7)))
        asking.start()
        wait_for(lambda: b'clipperfs_in_flight_rows{model="m",version="1"} 1.0' in metrics_of(daemon))
        pid = daemon.status()["daemon"]["pid"]
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: refuses(port))
        asking.join()
        assert [(one["output"], one["default"]) for one in replies] == [("v1", False)]
        wait_for(lambda: not is_alive(pid))
        daemon.stop()


def test_second_term_ends_the_drain(rig: Rig) -> None:
    rig.publish("1", code=True)
    with rig.running(drain_s=60) as daemon:

        def ask() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):  # it is cut off
                rig.ask(888.0, 1.9)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_for(lambda: b'clipperfs_in_flight_rows{model="m",version="1"} 1.0' in metrics_of(daemon))
        pid = daemon.status()["daemon"]["pid"]
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: daemon.status()["daemon"]["stopping"])
        started_s = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not is_alive(pid))
        assert time.monotonic() - started_s < 1.5
        asking.join()
        daemon.stop()


def test_daemon_in_the_foreground_logs_to_stderr_and_ends_on_term(rig: Rig) -> None:
    rig.publish("1")
    program = (
        "from clipperfs import Daemon\n"
        f"Daemon({rig.registry.url!r}, port=0, admin_port=None, state_dir={str(rig.state_dir)!r}).run()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: rig.daemon.is_running() and rig.daemon.status()["daemon"]["ready"])
        assert rig.daemon.status()["daemon"]["pid"] == process.pid
        assert rig.ask()["version"] == "1"
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "daemon ready" in log and "daemon stopped" in log


def test_daemon_that_is_not_detached_ends_with_its_program(rig: Rig) -> None:
    rig.publish("1")
    program = (
        "import os, sys\n"
        "from clipperfs import Daemon\n"
        f"daemon = Daemon({rig.registry.url!r}, port=0, admin_port=None, state_dir={str(rig.state_dir)!r})\n"
        "print(daemon.start(30, detached=False)['pid'], flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    wait_for(lambda: not is_alive(int(done.stdout)))


def test_detached_daemon_outlives_its_starter_and_another_handle_stops_it(rig: Rig) -> None:
    rig.publish("1")
    program = (
        "from clipperfs import Daemon\n"
        f"daemon = Daemon({rig.registry.url!r}, port=0, admin_port=None, state_dir={str(rig.state_dir)!r})\n"
        "daemon.start(30)\n"
    )
    subprocess.run([sys.executable, "-c", program], timeout=30, check=True)
    assert rig.daemon.is_running()
    assert rig.ask()["version"] == "1"
    assert rig.daemon.stop()


def test_start_that_takes_too_long_says_so_and_goes_on(rig: Rig) -> None:
    rig.publish("1")
    slow = "wrapper: {kind: noop, output: vslow, load_s: 0.8}\ninput_type: doubles\n"
    rig.registry.publish("m", "slow", rig.folder("slow", slow), activate=True)
    with pytest.raises(TimedOut, match="goes on starting"):
        rig.daemon.start(0.5)
    wait_for(lambda: rig.daemon.is_running() and rig.daemon.status()["daemon"]["ready"])
    assert rig.ask()["version"] == "slow"


def test_stop_never_signals_a_process_that_is_not_the_daemon(rig: Rig) -> None:
    rig.publish("1")
    rig.daemon.start(30)
    document = read_daemon(rig.state_dir)
    assert document is not None
    os.kill(document.pid, signal.SIGKILL)
    wait_for(lambda: not is_locked(rig.state_dir))
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        forged = json.loads((rig.state_dir / "daemon.json").read_bytes())
        forged |= {"pid": stranger.pid}
        (rig.state_dir / "daemon.json").write_text(json.dumps(forged))
        assert read_daemon(rig.state_dir) is None
        forged["started_ticks"] = start_ticks(stranger.pid)
        (rig.state_dir / "daemon.json").write_text(json.dumps(forged))
        assert rig.daemon.stop() is False
        assert stranger.poll() is None
        stranger.kill()


def test_without_a_daemon_questions_say_so(rig: Rig) -> None:
    for ask in (rig.daemon.status, rig.daemon.reload, rig.daemon.metrics, lambda: next(rig.daemon.watch())):
        with pytest.raises(DaemonNotRunning, match="clipperfs start"):
            ask()
    assert rig.daemon.stop() is False


def test_status_is_written_into_the_registry_and_taken_away(rig: Rig) -> None:
    rig.publish("1")
    with rig.running(name="here"):
        path = rig.place / "registry" / "replicas" / "here.json"
        wait_for(lambda: path.exists() and '"ready"' in path.read_text())
        status = parse_document(ReplicaStatus, path.read_bytes(), limit_bytes=1 << 20)
        assert status.models["m"].active == "1"
        assert status.models["m"].applied_seq == rig.registry.history("m")[0].seq
        assert status.expires_unix_s > time.time()
    assert not path.exists()


def metrics_of(daemon: Daemon) -> bytes:
    """Return a daemon's metrics."""
    return daemon.metrics().encode()


def refuses(port: int) -> bool:
    """Say whether nobody listens on a port any more."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False
