"""A daemon's spares and turns with real models: who becomes what, what stays behind, who waits for whom."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from clipperfs.serverd.turns import turns_at_once

from clipperfs.errors import TimedOut
from tests.e2e.daemon_rig import Rig, is_alive, wait_for

HELD_WRAPPER = """
import os, time

class Wrapper:
    bytes_as = "int8"

    def load(self, context):
        while os.path.exists({flag!r}):
            time.sleep(0.02)

    def predict(self, inputs):
        return ["v1"] * len(inputs)
"""
LONG_S = 60.0
"""A process that runs behind others may take long to start on a machine that is full."""


def spares(rig: Rig) -> list[int]:
    found: list[int] = rig.daemon.status()["daemon"]["spares"]
    return found


def await_spare(rig: Rig) -> int:
    """Return the one spare, once it waits."""
    wait_for(lambda: [Path(f"/proc/{pid}/comm").read_text() for pid in spares(rig)] == ["clipperfs-spare\n"], LONG_S)
    [pid] = spares(rig)
    return pid


def held_models(rig: Rig, count: int) -> list[str]:
    """Publish models whose load lasts for as long as there is the flag ``hold``, without keeping a core busy."""
    names = [f"slow{number}" for number in range(count)]
    for name in names:
        path = rig.folder(name, "wrapper: python\ninput_type: doubles\nsample: [[1.0]]\n")
        (path / "wrapper.py").write_text(HELD_WRAPPER.format(flag=str(rig.flags / "hold")))
        rig.registry.policy(name, {"allow_code": True})
        rig.registry.publish(name, "1", path, activate=True)
    rig.flag("hold")
    return names


def start(rig: Rig) -> None:
    """Start the daemon; it gets ready later."""
    rig.daemon = rig.handle()
    with contextlib.suppress(TimedOut):
        rig.daemon.start(0.5, detached=False)
    wait_for(lambda: rig.daemon.is_running(), LONG_S)


def loading(rig: Rig) -> tuple[int, int]:
    """Return how many replicas load now, and how many wait for their turn."""
    held = [one for model in rig.daemon.status()["models"].values() for one in model["versions"]]
    loads = [one for one in held if one["state"] == "loading"]
    return sum(len(one["pids"]) for one in loads), sum(one["replicas_waiting"] for one in loads)


def test_new_version_is_loaded_by_the_spare_and_another_one_is_made(rig: Rig) -> None:
    rig.publish("1")
    with rig.running():
        pid = await_spare(rig)
        assert pid not in rig.replica_pids("1")
        rig.publish("2", code=True)
        wait_for(rig.serves("2"), LONG_S)
        assert rig.replica_pids("2") == [pid]
        assert rig.ask()["output"] == "v2"
        assert (rig.state_dir / "logs" / "m@2.log").exists()
        assert "/versions/" in os.readlink(f"/proc/{pid}/cwd")
        assert await_spare(rig) != pid
        assert 'clipperfs_replicas_ready{model="m",version="2"} 1.0' in rig.daemon.metrics()


def test_crashed_replica_that_was_a_spare_comes_back(rig: Rig) -> None:
    rig.publish("1")
    with rig.running():
        pid = await_spare(rig)
        rig.publish("2")
        wait_for(rig.serves("2"), LONG_S)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: rig.versions()["2"]["replicas_ready"] == 1 and rig.replica_pids("2") != [pid], LONG_S)
        wait_for(lambda: rig.ask()["version"] == "2", LONG_S)  # the table is on its way


def test_stopped_daemon_leaves_no_spare(rig: Rig) -> None:
    rig.publish("1")
    with rig.running():
        pid = await_spare(rig)
    assert not is_alive(pid)


def test_killed_daemon_leaves_no_spare(rig: Rig) -> None:
    rig.publish("1")
    with rig.running() as daemon:
        pid = await_spare(rig)
        os.kill(daemon.status()["daemon"]["pid"], signal.SIGKILL)
        wait_for(lambda: not is_alive(pid))


def test_daemon_without_a_model_that_is_on_has_no_spare(rig: Rig) -> None:
    rig.publish("1")
    with rig.running():
        pid = await_spare(rig)
        rig.registry.policy("m", {"replicas": 0})
        wait_for(lambda: not spares(rig))
        assert not is_alive(pid)


def test_many_models_at_start_load_a_few_at_a_time_and_those_that_wait_are_seen(rig: Rig) -> None:
    bound = turns_at_once(len(os.sched_getaffinity(0)))
    names = held_models(rig, bound + 2)
    start(rig)
    wait_for(lambda: loading(rig) == (bound, 2), LONG_S)
    assert "waiting model=slow" in (rig.state_dir / "daemon.log").read_text()
    rig.flag("hold", on=False)
    wait_for(lambda: all(rig.daemon.status()["models"][name]["serving"] == "1" for name in names), LONG_S)
    assert loading(rig) == (0, 0)


def test_crashed_only_replica_comes_back_though_slow_loads_take_all_turns(rig: Rig) -> None:
    bound = turns_at_once(len(os.sched_getaffinity(0)))
    rig.publish("1")
    with rig.running(watch=False) as daemon:
        held_models(rig, bound + 1)
        daemon.follow()
        wait_for(lambda: loading(rig) == (bound, 1), LONG_S)
        [pid] = rig.replica_pids("1")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: rig.versions()["1"]["replicas_ready"] == 1 and rig.replica_pids("1") != [pid], LONG_S)
        wait_for(lambda: loading(rig) == (bound, 1), LONG_S)  # it may itself have counted a moment ago
