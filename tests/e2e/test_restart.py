"""A daemon is replaced while it serves: nobody notices, and whoever dies on the way, one goes on."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clipperfs.serverd import descriptors

from clipperfs import daemon_process
from clipperfs.daemon import Daemon
from clipperfs.daemon_files import is_locked, read_daemon, runtime_dir
from clipperfs.errors import ClipperfsError, DaemonNotRunning, DaemonStartFailed, InvalidSetting, TimedOut
from tests.e2e.daemon_rig import Client, Load, Rig, is_alive, wait_for
from tests.e2e.test_daemon import refuses


class Restart:
    """A restart on a thread of its own."""

    def __init__(self, daemon: Daemon, wait_s: float = 30.0, **settings: Any) -> None:
        self.word: dict[str, Any] = {}
        self.error: ClipperfsError | None = None
        self._daemon, self._wait_s, self._settings = daemon, wait_s, settings
        self._before = set(daemon_process.started)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.word = self._daemon.restart(self._wait_s, **self._settings)
        except ClipperfsError as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()

    def new_pid(self) -> int:
        """Return the process that is to take over, as soon as it has been given the sockets."""
        wait_for(lambda: set(daemon_process.started) - self._before)
        [pid] = set(daemon_process.started) - self._before
        wait_for(lambda: f"handing over pid={pid}" in self._daemon.log_path.read_text(), timeout_s=30)
        return pid


@pytest.fixture
def held_rig(rig: Rig) -> Iterator[Rig]:
    """Return a registry whose model does not get loaded a second time until its flag is taken away."""
    rig.publish("1", code=True)
    rig.daemon.start(30, detached=False)
    rig.flag("waits-at-load")
    yield rig


def folders(rig: Rig) -> list[str]:
    """Return what lies in the folder for sockets."""
    return sorted(path.name for path in runtime_dir(rig.state_dir).iterdir())


def pids_of(daemon: Daemon) -> list[int]:
    """Return every process of a daemon."""
    status = daemon.status()
    versions = [one for model in status["models"].values() for one in model["versions"]]
    return [
        status["daemon"]["pid"],
        *(one["pid"] for one in status["frontends"]),
        *(pid for one in versions for pid in one["pids"]),
    ]


@pytest.mark.parametrize("frontends", [1, 2])
def test_restart_under_load_fails_no_request_and_leaves_nothing_of_the_old_one(rig: Rig, frontends: int) -> None:
    rig.publish("1")
    path = rig.place / "registry" / "replicas" / "here.json"
    with rig.running(frontends=frontends, admin_port=0, name="here") as daemon:
        wait_for(path.exists)
        admin_port = daemon.status()["daemon"]["admin_port"]
        with Load(rig) as kept, Load(rig, reconnect=True) as fresh:
            for _ in range(2):
                before, port = pids_of(daemon), daemon.port
                word = daemon.restart(30)
                assert word["pid"] not in before
                assert (word["port"], daemon.port, word["admin_port"]) == (port, port, admin_port)
                assert daemon.status()["daemon"]["pid"] == word["pid"]
                assert daemon.reload("m") == {"changes": [], "failed": []}
                wait_for(lambda before=before: not any(is_alive(pid) for pid in before))  # type: ignore[misc]
        assert (kept.failures, fresh.failures) == ([], [])
        assert len(folders(rig)) == 3  # its own, and the two sockets that others look for
        with Client(admin_port) as client:
            assert client.get("/readyz")[0] == 200
        wait_for(lambda: f'"pid":{daemon.status()["daemon"]["pid"]}' in path.read_text().replace(" ", ""))
        last = pids_of(daemon)
    assert not path.exists()
    assert not any(is_alive(pid) for pid in last)
    assert not is_locked(rig.state_dir)
    assert not runtime_dir(rig.state_dir).exists()


def test_connections_that_are_kept_go_over_and_are_not_closed(rig: Rig) -> None:
    rig.publish("1")
    with rig.running() as daemon, Client(daemon.port) as client:
        assert client.ask({"input": [1.0, 2.0]})["version"] == "1"
        daemon.restart(30)
        wait_for(lambda: "daemon stopped" in daemon.log_path.read_text())
        client._connection.auto_open = 0  # a second connection would be an error
        assert client.ask({"input": [1.0, 2.0]})["version"] == "1"


def test_query_in_flight_is_answered_by_the_old_one(rig: Rig) -> None:
    rig.publish("1", code=True)
    with rig.running() as daemon:
        old = daemon.status()["daemon"]["pid"]
        replies: list[dict[str, Any]] = []
        restart = Restart(daemon)
        restart.new_pid()
        asking = threading.Thread(target=lambda: replies.append(rig.ask(888.0, 1.9)))
        asking.start()
        restart.join()
        assert restart.error is None
        asking.join()
        assert [(one["output"], one["default"]) for one in replies] == [("v1", False)]
        wait_for(lambda: not is_alive(old))
        assert rig.ask()["version"] == "1"


def test_frontends_more_and_fewer_lose_nobody(rig: Rig) -> None:
    rig.publish("1")
    with rig.running() as daemon, Load(rig, connections=6, reconnect=True) as load, Load(rig) as kept:
        for frontends in (3, 2, 1):
            daemon.restart(30, frontends=frontends)
            assert [one["state"] for one in daemon.status()["frontends"]] == ["ready"] * frontends
            before = sum(load.answers.values())
            wait_for(lambda before=before: sum(load.answers.values()) > before + 100)  # type: ignore[misc]
    assert (load.failures, kept.failures) == ([], [])


def test_settings_are_kept_and_those_given_are_replaced(rig: Rig) -> None:
    rig.publish("1")
    with rig.running(name="here", watch=False, max_body_bytes=4096) as daemon:
        port = daemon.port
        daemon.restart(30, max_body_bytes=8192, port=0)
        assert daemon.port != port
        wait_for(lambda: refuses(port))
        status = daemon.status()
        assert (status["daemon"]["name"], status["registry"]["following"]) == ("here", False)
        with Client(daemon.port) as client:
            assert client.ask({"input": [1.0] * 1000})["version"] == "1"
        daemon.follow(True)
        daemon.restart(30)
        assert daemon.status()["registry"]["following"] is True


def test_version_that_can_no_longer_be_loaded_leaves_the_old_one_serving(rig: Rig) -> None:
    rig.publish("1", code=True)
    with rig.running() as daemon, Load(rig) as load, Load(rig, reconnect=True) as fresh:
        before = daemon.status()["daemon"]["pid"]
        rig.flag("cannot-load")
        with pytest.raises(DaemonStartFailed, match=r"version 1 of model m.*the drill says") as caught:
            daemon.restart(30)
        assert f"pid {before}) goes on" in caught.value.message
        assert daemon.status()["daemon"]["pid"] == before
        rig.flag("cannot-load", False)
        assert daemon.restart(30)["pid"] != before
    assert (load.failures, fresh.failures) == ([], [])


@pytest.mark.parametrize("settings", [{"no_such": 1}, {"host": "192.0.2.1"}, {"poll_s": "soon"}])
def test_settings_that_cannot_be_used_leave_the_old_one_as_it_was(rig: Rig, settings: dict[str, Any]) -> None:
    rig.publish("1")
    with rig.running() as daemon:
        before = (daemon.status()["daemon"]["pid"], folders(rig))
        with pytest.raises(DaemonStartFailed, match="goes on"):
            daemon.restart(30, **settings)
        assert (daemon.status()["daemon"]["pid"], folders(rig)) == before
        assert rig.ask()["version"] == "1"


def test_port_in_use_is_named_and_the_old_one_goes_on(rig: Rig) -> None:
    rig.publish("1")
    with rig.running() as daemon, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DaemonStartFailed, match=f"{port}.*in use"):
            daemon.restart(30, port=port)
        assert rig.ask()["version"] == "1"


def test_killed_new_one_leaves_the_old_one_as_it_was(held_rig: Rig) -> None:
    daemon = held_rig.daemon
    with Load(held_rig) as kept, Load(held_rig, reconnect=True) as fresh:
        before = (daemon.status()["daemon"]["pid"], folders(held_rig))
        restart = Restart(daemon)
        new = restart.new_pid()
        own = runtime_dir(held_rig.state_dir) / "g2"
        wait_for(lambda: (own / "h0.sock").exists())  # its frontend is there, and must not answer yet
        answers = sum(fresh.answers.values())
        wait_for(lambda: sum(fresh.answers.values()) > answers + 200)
        os.kill(new, signal.SIGKILL)
        restart.join()
        assert isinstance(restart.error, DaemonStartFailed) and "goes on" in restart.error.message
        wait_for(lambda: (daemon.status()["daemon"]["pid"], folders(held_rig)) == before)
        held_rig.flag("waits-at-load", False)
        assert daemon.restart(30)["pid"] != before[0]
    assert (kept.failures, fresh.failures) == ([], [])


def test_successor_that_dies_with_the_place_in_its_hands_gives_it_back(rig: Rig) -> None:
    rig.publish("1")
    path = rig.place / "registry" / "replicas" / "here.json"
    with rig.running(name="here") as daemon, Load(rig) as load:
        before = (daemon.status()["daemon"]["pid"], folders(rig))
        top = runtime_dir(rig.state_dir)
        with descriptors.connect_to(top / "next.sock", 10) as end:
            for words, answer in ((["hello"], "offer"), (["folder", "loaded"], "yes"), (["ready"], "yes")):
                for word in words:
                    fields = {"protocol": 1, "folder": "g9", "failed": []}
                    descriptors.send_message(end, {"t": word, **fields})
                kinds = []
                while answer not in kinds:
                    found = descriptors.receive_message(end)
                    assert found is not None
                    kinds.append(found[0]["t"])
                    descriptors.close_all(found[1])
            (top / "admin.sock").unlink()  # as if it had put its own there
            (rig.state_dir / "daemon.json").unlink()
            path.unlink()
        wait_for(lambda: daemon.is_running() and (daemon.status()["daemon"]["pid"], folders(rig)) == before)
        wait_for(path.exists)
        rig.publish("2")
        wait_for(rig.serves("2"))
        assert daemon.restart(30)["pid"] != before[0]
    assert load.failures == []


def test_killed_old_one_is_succeeded_at_once(held_rig: Rig) -> None:
    daemon = held_rig.daemon
    port, before = daemon.port, pids_of(daemon)
    restart = Restart(daemon)
    new = restart.new_pid()
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: (found := read_daemon(held_rig.state_dir)) is not None and found.pid == new)
    assert is_locked(held_rig.state_dir)
    assert daemon.status()["daemon"]["ready"] is False
    held_rig.flag("waits-at-load", False)
    with Client(port) as client:  # it waits in the queue of the socket that the new one has
        assert client.ask({"input": [1.0, 2.0]})["version"] == "1"
    restart.join()
    assert restart.word["pid"] == new
    wait_for(lambda: not any(is_alive(pid) for pid in before))


def test_second_restart_meanwhile_is_refused(held_rig: Rig) -> None:
    first = Restart(held_rig.daemon)
    new = first.new_pid()
    with pytest.raises(DaemonStartFailed, match=rf"another restart is under way \(pid {new}\)"):
        held_rig.handle().restart(30)
    held_rig.flag("waits-at-load", False)
    first.join()
    assert held_rig.daemon.status()["daemon"]["pid"] == first.word["pid"] == new


def test_new_one_that_takes_too_long_is_ended(held_rig: Rig) -> None:
    daemon = held_rig.daemon
    before = (daemon.status()["daemon"]["pid"], folders(held_rig))
    with pytest.raises(TimedOut, match="goes on"):
        daemon.restart(3.0)
    assert set(daemon_process.started) == {before[0]}
    wait_for(lambda: (daemon.status()["daemon"]["pid"], folders(held_rig)) == before)


def test_stop_meanwhile_ends_both(held_rig: Rig) -> None:
    restart = Restart(held_rig.daemon)
    new = restart.new_pid()
    assert held_rig.handle().stop(1)
    assert not is_alive(new)
    assert not is_locked(held_rig.state_dir)
    assert not runtime_dir(held_rig.state_dir).exists()
    restart.join()
    assert isinstance(restart.error, DaemonStartFailed)


def test_stop_while_the_old_one_still_drains_ends_both(rig: Rig) -> None:
    rig.publish("1", code=True)
    rig.registry.app_register("b", input_type="doubles", default_output="none", slo_us=60_000_000, link="m")
    rig.daemon = rig.handle(drain_s=60.0)
    rig.daemon.start(30)
    old = rig.daemon.status()["daemon"]["pid"]
    with Client(rig.daemon.port) as client:
        client._connection.request("POST", "/b/predict", b'{"input": [888.0, 50.0]}')
        wait_for(lambda: 'clipperfs_in_flight_rows{model="m",version="1"} 1.0' in rig.daemon.metrics())
        rig.daemon.restart(30)
        assert is_alive(old)
        began_s = time.monotonic()
        rig.daemon.stop(0)
        assert time.monotonic() - began_s < 4.0
    assert not is_alive(old)
    assert not runtime_dir(rig.state_dir).exists()


def test_daemon_in_the_foreground_is_left_to_its_supervisor(rig: Rig) -> None:
    rig.publish("1")
    with rig.running(foreground=True) as daemon:
        with pytest.raises(DaemonStartFailed, match="foreground") as caught:
            daemon.restart(30)
        assert "systemctl restart" in str(caught.value.hint)


def test_without_a_daemon_restart_says_so(rig: Rig) -> None:
    with pytest.raises(DaemonNotRunning, match="clipperfs start"):
        rig.daemon.restart(10)
    with pytest.raises(InvalidSetting, match="keeps its registry"):
        rig.daemon.restart(10, state_dir="elsewhere")


def test_daemon_that_is_not_detached_ends_with_its_program_after_a_restart_too(rig: Rig, tmp_path: Path) -> None:
    rig.publish("1")
    handle = rig.handle()
    handle.start(30, detached=False)
    new = rig.handle().restart(30)["pid"]
    assert handle._lifeline is not None
    os.close(handle._lifeline)
    handle._lifeline = None
    wait_for(lambda: not is_alive(new))
    daemon_process.reap_ended()


def test_watching_goes_on_with_the_new_one(rig: Rig) -> None:
    rig.publish("1")
    with rig.running() as daemon:
        seen: list[dict[str, Any]] = []

        def watch() -> None:
            for event in daemon.watch(timeout_s=20):
                seen.append(event)
                if event["event"] == "switched" and event["version"] == "2":
                    return

        watching = threading.Thread(target=watch)
        watching.start()
        new = daemon.restart(30)["pid"]
        wait_for(lambda: any(event["event"] == "handed over" and event["pid"] == new for event in seen))
        watcher = daemon.status()["daemon"]["pid"]
        assert watcher == new
        rig.publish("2")
        watching.join(20)
        assert not watching.is_alive()
        assert any(event["event"] == "switched" for event in seen)
