"""A replica that was a spare is like one that was started for its version, and no spare outlives who keeps it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from clipperfs.serverd import spares as spares_module
from clipperfs.serverd.control import controller_endpoint
from clipperfs.serverd.easing import NICE, may_lower_nice
from clipperfs.serverd.statedir import make_runtime_dir
from clipperfs.serverd.supervisor import Replica, Supervisor

from clipperfs.daemon_files import runtime_dir
from clipperfs.errors import LoadFailed
from clipperfs.replica.process import spawn
from clipperfs.replica.spare import Spare, start_spare
from clipperfs.replica.spec import ReplicaSpec, new_identity

WRAPPER = """
import os

class Wrapper:
    bytes_as = "int8"

    def load(self, context):
        print("loaded by", os.getpid(), flush=True)

    def predict(self, inputs):
        return [os.environ["OMP_NUM_THREADS"]] * len(inputs)
"""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have spares made at once, and not counted as stale because the folders of tests change."""
    monkeypatch.setattr(spares_module, "CALM_S", 0.0)


@pytest.fixture
def sockets(tmp_path: Path) -> str:
    """Return a folder for sockets."""
    path = runtime_dir(tmp_path)
    make_runtime_dir(path)
    return str(path)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """Return the folder of a version with code."""
    path = tmp_path / "version"
    path.mkdir()
    (path / "wrapper.py").write_text(WRAPPER)
    return path


def new_spec(sockets: str, version: Path, **fields: Any) -> ReplicaSpec:
    endpoints = (controller_endpoint(sockets),)
    return ReplicaSpec(
        new_identity(), endpoints, str(version), "m", "1", "python", "doubles", allow_code=True, **fields
    )


def run(sockets: str, body: Callable[[Supervisor], Awaitable[None]], *, spares: int = 1) -> list[Replica]:
    """Run a supervisor with warm spares while ``body`` does; return the replicas whose end was told."""
    exits: list[Replica] = []

    async def main() -> None:
        supervisor = Supervisor(sockets, exits.append)
        try:
            supervisor.keep_spares(spares)
            await until(lambda: len(supervisor.spares) == spares and are_warm(supervisor))
            await body(supervisor)
        finally:
            await supervisor.close(2)
        assert supervisor.spares.pids == []

    asyncio.run(main())
    return exits


def are_warm(supervisor: Supervisor) -> bool:
    return all(name_of(pid) == "clipperfs-spare" for pid in supervisor.spares.pids)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def environment_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().rstrip(b"\0").split(b"\0")
    return dict(pair.decode().partition("=")[::2] for pair in pairs)


def session_nice(pid: int) -> int | None:
    path = Path(f"/proc/{pid}/autogroup")
    return int(path.read_text().split()[-1]) if path.exists() else None


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_replica_from_a_spare_has_its_folder_log_name_and_environment(
    sockets: str, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")

    async def body(supervisor: Supervisor) -> None:
        [pid] = supervisor.spares.pids
        assert len(supervisor) == 0  # a spare is no replica
        replica = supervisor.launch("key", new_spec(sockets, version), tmp_path / "m@1.log", 5)
        await supervisor.await_loaded(replica, 30)
        assert replica.process.pid == pid
        assert supervisor.spares.pids == []
        other = spawn(new_spec(sockets, version), log_path=tmp_path / "other.log")
        try:
            own, fresh = Path(f"/proc/{pid}"), Path(f"/proc/{other.pid}")
            assert environment_of(pid) == environment_of(other.pid)
            assert "AWS_SECRET_ACCESS_KEY" not in environment_of(pid)
            assert os.readlink(own / "cwd") == os.readlink(fresh / "cwd") == str(version)
            assert os.readlink(own / "fd/0") == "/dev/null"
            assert os.readlink(own / "fd/1") == os.readlink(own / "fd/2") == str(tmp_path / "m@1.log")
            assert name_of(pid) == name_of(other.pid)
            assert os.getsid(pid) == os.getpgid(pid) == pid
            assert own.joinpath("cmdline").read_bytes() == fresh.joinpath("cmdline").read_bytes()
        finally:
            other.close()
        assert (tmp_path / "m@1.log").read_text() == f"loaded by {pid}\n"
        assert await supervisor.predict(replica, [[1.0]], 5) == [1]

    run(sockets, body)


def test_spare_leaves_no_descriptor_behind(sockets: str, version: Path, tmp_path: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        ours = len(os.listdir("/proc/self/fd"))
        [first] = supervisor.spares.pids
        replica = supervisor.launch("key", new_spec(sockets, version), tmp_path / "log", 5)
        await supervisor.await_loaded(replica, 30)
        other = supervisor.launch("key", new_spec(sockets, version), tmp_path / "log", 5)
        await supervisor.await_loaded(other, 30)
        assert first == replica.process.pid != other.process.pid
        assert len(os.listdir(f"/proc/{first}/fd")) == len(os.listdir(f"/proc/{other.process.pid}/fd"))
        supervisor.stop(other)
        await other.ended
        supervisor.stop(replica)
        await replica.ended
        await until(lambda: len(os.listdir("/proc/self/fd")) < ours)  # the spare's end of the socket went, too

    run(sockets, body)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_spare_that_died_is_replaced_by_a_normal_start(
    sockets: str, version: Path, tmp_path: Path, number: signal.Signals
) -> None:
    async def body(supervisor: Supervisor) -> None:
        [pid] = supervisor.spares.pids
        os.kill(pid, number)
        while not is_gone(pid):  # the loop must not hear of it before the launch
            time.sleep(0.01)
        replica = supervisor.launch("key", new_spec(sockets, version), tmp_path / "log", 5)
        assert replica.process.pid != pid
        await supervisor.await_loaded(replica, 30)
        assert not replica.ended.done()

    run(sockets, body)


def test_spare_that_dies_is_noticed_and_made_anew(sockets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares_module, "AGAIN_LAST_S", 0.1)

    async def body(supervisor: Supervisor) -> None:
        [pid] = supervisor.spares.pids
        os.kill(pid, signal.SIGKILL)
        await until(lambda: supervisor.spares.pids not in ([], [pid]))

    assert run(sockets, body) == []


def test_spec_with_other_threads_gets_a_process_that_was_born_with_them(
    sockets: str, version: Path, tmp_path: Path
) -> None:
    async def body(supervisor: Supervisor) -> None:
        [pid] = supervisor.spares.pids
        replica = supervisor.launch("key", new_spec(sockets, version, threads=3), tmp_path / "log", 5)
        assert replica.process.pid != pid
        await supervisor.await_loaded(replica, 30)
        assert await supervisor.predict(replica, [[1.0]], 5) == [3]

    run(sockets, body)


def test_spare_that_is_not_warm_yet_is_used_all_the_same(sockets: str, version: Path, tmp_path: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        spare = start_spare()
        process = spare.become(new_spec(sockets, version), tmp_path / "log")
        assert process is not None
        await until(lambda: (tmp_path / "log").read_text() == f"loaded by {spare.pid}\n")
        process.close()

    run(sockets, body, spares=0)


def test_folder_that_is_gone_fails_the_load_and_ends_the_spare(sockets: str, version: Path, tmp_path: Path) -> None:
    async def body(supervisor: Supervisor) -> None:
        [pid] = supervisor.spares.pids
        with pytest.raises(LoadFailed, match="cannot be started"):
            supervisor.launch("key", new_spec(sockets, version / "gone"), tmp_path / "log", 5)
        assert is_gone(pid)

    run(sockets, body)


def test_death_of_a_replica_from_a_spare_is_told_with_its_last_words(
    sockets: str, version: Path, tmp_path: Path
) -> None:
    async def body(supervisor: Supervisor) -> None:
        replica = supervisor.launch("key", new_spec(sockets, version), tmp_path / "log", 5)
        await supervisor.await_loaded(replica, 30)
        os.kill(replica.process.pid, signal.SIGKILL)
        assert "SIGKILL" in await replica.ended
        assert replica.process.log_tail().startswith("loaded by")

    [ended] = run(sockets, body)
    assert not ended.is_leaving


def test_as_many_spares_are_kept_as_are_asked_for(sockets: str) -> None:
    async def body(supervisor: Supervisor) -> None:
        before = supervisor.spares.pids
        supervisor.keep_spares(1)
        assert supervisor.spares.pids == before[:1]
        assert is_gone(before[1])

    run(sockets, body, spares=2)


def test_spare_ends_with_who_keeps_it_even_when_that_is_killed() -> None:
    code = "import os, signal; from clipperfs.replica.spare import start_spare; print(start_spare().pid, flush=True)"
    keeper = subprocess.run(
        [sys.executable, "-c", f"{code}; os.kill(os.getpid(), signal.SIGKILL)"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert keeper.returncode == -signal.SIGKILL
    give_up_s = time.monotonic() + 10
    while not is_gone(int(keeper.stdout)):
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


def test_spare_whose_keeper_hangs_up_ends_by_itself() -> None:
    spare = start_spare()
    Spare.hear(spare)
    spare._end.close()
    assert spare._popen.wait(30) == 0


@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize("is_missed", [False, True])
def test_replica_lets_others_go_first_until_it_is_ready_and_has_less_of_a_full_host_unless_it_is_missed(
    sockets: str, version: Path, tmp_path: Path, is_missed: bool, spares: int
) -> None:
    async def body(supervisor: Supervisor) -> None:
        if spares:
            await until(lambda: os.getpriority(os.PRIO_PROCESS, supervisor.spares.pids[0]) == eased)
        replica = supervisor.launch("key", new_spec(sockets, version), tmp_path / "log", 5, is_missed=is_missed)
        pid = replica.process.pid
        assert os.sched_getscheduler(pid) == os.SCHED_BATCH
        assert os.getpriority(os.PRIO_PROCESS, pid) == (base if is_missed else eased)
        if os.geteuid() == 0:  # others may have to ask the kernel again
            assert session_nice(pid) in (None, 0 if is_missed else NICE)
        await supervisor.await_loaded(replica, 30)
        supervisor.restore(replica)
        await until(lambda: not replica.is_eased)
        for thread in map(int, os.listdir(f"/proc/{pid}/task")):
            assert os.sched_getscheduler(thread) == os.SCHED_OTHER
            assert os.getpriority(os.PRIO_PROCESS, thread) == base
        assert session_nice(pid) in (None, 0)

    base = os.getpriority(os.PRIO_PROCESS, 0)
    eased = base + NICE if may_lower_nice(base) else base
    run(sockets, body, spares=spares)


@pytest.mark.parametrize("is_missed", [False, True])
def test_spare_runs_on_free_cores_only_until_it_is_warm_or_taken(
    sockets: str, version: Path, tmp_path: Path, is_missed: bool
) -> None:
    async def body(supervisor: Supervisor) -> None:
        supervisor.keep_spares(1)
        await until(lambda: len(supervisor.spares))
        [pid] = supervisor.spares.pids
        assert not are_warm(supervisor)
        assert os.sched_getscheduler(pid) == (os.SCHED_IDLE if may_lower_nice(base) else os.SCHED_BATCH)
        replica = supervisor.launch("key", new_spec(sockets, version), tmp_path / "log", 5, is_missed=is_missed)
        assert replica.process.pid == pid, "a spare that is under way is ahead of a new process"
        assert os.sched_getscheduler(pid) == os.SCHED_BATCH
        assert os.getpriority(os.PRIO_PROCESS, pid) == (eased if not is_missed else base)
        await supervisor.await_loaded(replica, 30)
        supervisor.restore(replica)
        await until(lambda: not replica.is_eased)
        assert {os.sched_getscheduler(int(one)) for one in os.listdir(f"/proc/{pid}/task")} == {os.SCHED_OTHER}
        supervisor.keep_spares(1)
        await until(lambda: len(supervisor.spares) and are_warm(supervisor))
        await until(lambda: os.sched_getscheduler(supervisor.spares.pids[0]) == os.SCHED_BATCH)

    base = os.getpriority(os.PRIO_PROCESS, 0)
    eased = base + NICE if may_lower_nice(base) else base
    run(sockets, body, spares=0)
