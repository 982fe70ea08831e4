"""Processes are killed, versions misbehave and the registry goes away: serving goes on."""

from __future__ import annotations

import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from clipperfs.errors import NotFound
from tests.e2e.daemon_rig import Client, Load, Rig, is_alive, wait_for


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def test_killed_replica_of_two_costs_no_query_and_comes_back(rig: Rig) -> None:
    rig.publish("1", replicas=2)
    with rig.running() as daemon, Load(rig) as load:
        wait_for(lambda: rig.versions()["1"]["replicas_ready"] == 2)  # one is enough for the daemon to be ready
        [first, _] = rig.replica_pids("1")
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: first not in rig.replica_pids("1") and rig.versions()["1"]["replicas_ready"] == 2)
        assert "clipperfs_replica_restarts_total 1.0" in daemon.metrics()
    assert load.failures == []


def test_killed_only_replica_is_explained_then_comes_back(rig: Rig) -> None:
    rig.publish("1")
    with rig.running():
        [pid] = rig.replica_pids("1")
        os.kill(pid, signal.SIGSTOP)  # so that it cannot have answered meanwhile
        os.kill(pid, signal.SIGKILL)
        explanations = set()

        def answers() -> bool:
            reply = rig.ask()
            explanations.add(reply.get("default_explanation"))
            return not reply["default"]

        wait_for(lambda: pid not in rig.replica_pids("1"))
        wait_for(answers)
        assert "Model m has no live replica: version 1 crashed and is being restarted" in explanations


def test_killed_frontend_comes_back_on_its_port_and_refuses_nobody(rig: Rig) -> None:
    rig.publish("1")
    with rig.running() as daemon:
        port = daemon.port
        [frontend] = daemon.status()["frontends"]
        os.kill(frontend["pid"], signal.SIGKILL)
        with Client(port) as client:  # its connection waits in the queue of the socket that the controller holds
            assert client.ask({"input": [1.0, 2.0]})["version"] == "1"
        assert daemon.port == port
        assert daemon.status()["frontends"][0]["pid"] != frontend["pid"]


@pytest.mark.parametrize(("frontends", "reconnect"), [(1, True), (2, False)])
def test_killed_frontend_under_load_cuts_its_connections_once_and_refuses_nobody(
    rig: Rig, frontends: int, reconnect: bool
) -> None:
    rig.publish("1")
    with rig.running(frontends=frontends) as daemon, Load(rig, connections=6, reconnect=reconnect) as load:
        victim = daemon.status()["frontends"][-1]["pid"]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: daemon.status()["frontends"][-1]["pid"] not in (None, victim))
        wait_for(lambda: daemon.status()["frontends"][-1]["state"] == "ready")
    assert len(load.failures) <= 6
    assert all(one.startswith(("RemoteDisconnected", "ConnectionReset", "BrokenPipe")) for one in load.failures)


def test_model_that_crashes_does_not_hurt_its_neighbour(rig: Rig) -> None:
    rig.publish("1")
    rig.registry.publish("n", "1", rig.code_folder("n1"))
    rig.registry.policy("n", {"allow_code": True})
    rig.registry.activate("n", "1")
    rig.registry.app_register("b", input_type="doubles", default_output="none", slo_us=300_000, link="n")
    with rig.running() as daemon, Load(rig) as load, Client(daemon.port) as client:
        for _ in range(3):
            assert client.ask({"input": [666.0, 1.0]}, "b")["default"] is True
    assert load.failures == []


def test_killed_frontend_of_two_leaves_the_other_answering(rig: Rig) -> None:
    rig.publish("1")
    with rig.running(frontends=2) as daemon:
        pids = [one["pid"] for one in daemon.status()["frontends"]]
        os.kill(pids[0], signal.SIGKILL)
        for _ in range(20):
            assert rig.ask()["version"] == "1"
        wait_for(lambda: [one["state"] for one in daemon.status()["frontends"]] == ["ready", "ready"])


def test_killed_controller_leaves_no_orphan_and_a_new_one_starts(rig: Rig) -> None:
    rig.publish("1", code=True, replicas=2)
    with rig.running() as daemon:
        pid = daemon.status()["daemon"]["pid"]
        family = children(pid)
        assert len(family) >= 3
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(is_alive(child) for child in family), timeout_s=5)
        wait_for(lambda: not daemon.is_running())
    with rig.running():
        assert rig.ask()["version"] == "1"


def test_registry_that_disappears_while_serving_changes_nothing_also_across_a_restart(rig: Rig) -> None:
    rig.publish("1")
    away = rig.place / "away"
    with rig.running() as daemon, Load(rig) as load:
        os.rename(rig.place / "registry", away)
        wait_for(lambda: daemon.status()["registry"]["state"] == "unreachable")
        assert rig.ask()["version"] == "1"
        assert daemon.status()["degraded"]
        assert "clipperfs_registry_reachable 0.0" in daemon.metrics()
        with pytest.raises(NotFound, match="no registry"):
            daemon.reload()
    assert load.failures == []
    with rig.running() as daemon:
        assert rig.ask()["version"] == "1"
        assert daemon.status()["registry"]["state"] == "unreachable"
        os.rename(away, rig.place / "registry")
        wait_for(lambda: daemon.status()["registry"]["state"] == "reachable")
        rig.publish("2")
        wait_for(rig.serves("2"))


def test_emptied_registry_unloads_nothing(rig: Rig) -> None:
    rig.publish("1")
    with rig.running() as daemon:
        shutil.rmtree(rig.place / "registry" / "models")
        wait_for(lambda: daemon.reload() is not None and daemon.status()["registry"]["alarms"])
        assert "its log is gone" in daemon.status()["registry"]["alarms"]["model m"]
        assert rig.ask()["version"] == "1"
    with rig.running():
        assert rig.ask()["version"] == "1"


def test_log_that_moved_back_is_not_followed(rig: Rig) -> None:
    rig.publish("1")
    old = rig.place / "old"
    shutil.copytree(rig.place / "registry", old)
    rig.publish("2")
    with rig.running() as daemon:
        assert rig.ask()["version"] == "2"
        shutil.rmtree(rig.place / "registry" / "models")
        shutil.copytree(old / "models", rig.place / "registry" / "models")
        with pytest.raises(NotFound):
            daemon.reload("nowhere")
        assert "moved back" in daemon.status()["registry"]["alarms"]["model m"]
        assert rig.ask()["version"] == "2"


def test_hanging_replica_is_replaced_and_its_stack_is_in_the_log(rig: Rig) -> None:
    rig.publish("1", code=True, predict_timeout_s=0.3)
    with rig.running():
        [pid] = rig.replica_pids("1")
        reply = rig.ask(777.0)
        assert reply["default"] is True
        wait_for(lambda: not is_alive(pid))
        wait_for(lambda: rig.ask()["version"] == "1")
        log = (rig.state_dir / "logs" / "m@1.log").read_text()
        assert "in predict" in log


def test_crash_loop_is_given_up_and_the_warm_previous_version_answers(rig: Rig) -> None:
    rig.publish("1")
    rig.publish("2", code=True)
    with rig.running() as daemon:
        rig.flag("dies-at-load")
        for pid in rig.replica_pids("2"):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: daemon.status()["quarantined"])
        assert "within 60 s" in daemon.status()["quarantined"][0]["reason"]
        wait_for(rig.serves("1"))
        assert rig.ask()["version"] == "1"


def _is_gone(rig: Rig, pid: int) -> bool:
    return pid not in rig.replica_pids("1")


def test_replica_that_is_killed_again_and_again_while_it_works_is_no_crash_loop(rig: Rig) -> None:
    rig.publish("1")
    with rig.running() as daemon:
        for _ in range(6):
            wait_for(lambda: rig.ask()["version"] == "1")
            time.sleep(1.0)  # it lives longer than it took to start
            [pid] = rig.replica_pids("1")
            os.kill(pid, signal.SIGKILL)
            wait_for(partial(_is_gone, rig, pid))
        wait_for(lambda: rig.ask()["version"] == "1")
        assert daemon.status()["quarantined"] == []
        assert rig.versions()["1"]["deaths"] < 5


def test_poisonous_query_is_answered_with_the_default_and_the_replica_comes_back(rig: Rig) -> None:
    rig.publish("1", code=True)
    with rig.running():
        assert rig.ask(666.0)["default"] is True
        wait_for(lambda: rig.ask()["version"] == "1")


def test_full_disk_of_the_state_folder_does_not_stop_what_is_served(rig: Rig) -> None:
    rig.publish("1")
    with rig.running() as daemon:
        (rig.state_dir / ".heads.json.new").mkdir()  # stands for any failure to write there
        rig.publish("2")
        wait_for(rig.serves("2"))
        assert "heads.json" in daemon.status()["registry"]["alarms"]


def test_registry_that_hangs_is_reported_and_serving_goes_on(rig: Rig) -> None:
    rig.publish("1")
    fifo = rig.place / "registry" / "registry.json"
    with rig.running() as daemon:
        saved = fifo.read_bytes()
        fifo.unlink()
        os.mkfifo(fifo)
        wait_for(lambda: daemon.status()["registry"]["state"] == "unreachable")
        started_s = time.monotonic()
        assert rig.ask()["version"] == "1"
        assert time.monotonic() - started_s < 1
        fifo.unlink()
        fifo.write_bytes(saved)
        wait_for(lambda: daemon.status()["registry"]["state"] == "reachable")
