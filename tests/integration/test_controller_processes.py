"""Frontends and replicas that give no sign of life are noticed and replaced, also when nobody asks them anything."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from clipperfs.serverd import frontends as frontends_module
from clipperfs.serverd import supervisor as supervisor_module
from clipperfs.serverd.control import controller_endpoint
from clipperfs.serverd.events import Events
from clipperfs.serverd.frontends import FrontendPool
from clipperfs.serverd.routing import RoutingTable
from clipperfs.serverd.statedir import make_runtime_dir
from clipperfs.serverd.supervisor import Replica, Supervisor

from clipperfs.daemon_files import runtime_dir
from clipperfs.errors import DaemonStartFailed, InvalidSetting, LoadFailed, ReplicaLost, TimedOut
from clipperfs.replica.spec import ReplicaSpec, new_identity


@pytest.fixture
def sockets(tmp_path: Path) -> str:
    """Return a folder for sockets."""
    path = runtime_dir(tmp_path)
    make_runtime_dir(path)
    return str(path)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def new_pool(sockets: str, *, port: int = 0, host: str = "127.0.0.1", count: int = 1) -> FrontendPool:
    """Return a pool on the running loop."""

    def spawn(work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work, name=name)

    async def answer(what: str) -> tuple[int, str, bytes, float]:
        return 200, "text/plain", what.encode(), 0.0

    return FrontendPool(
        count=count,
        host=host,
        port=port,
        runtime_dir=sockets,
        events=Events(),
        on_change=lambda: None,
        on_replica=lambda kind, identity, message: None,
        answer=answer,
        spawn_task=spawn,
    )


def with_pool(sockets: str, body: Callable[[FrontendPool], Awaitable[None]], **settings: Any) -> None:
    """Run a started pool while ``body`` does."""

    async def main() -> None:
        pool = new_pool(sockets, **settings)
        pool.bind()
        try:
            pool.start()
            pool.publish(RoutingTable(epoch=1, accepting=True))
            await until(lambda: pool.are_ready and pool.has_applied(1))
            await body(pool)
        finally:
            pool.kill()

    asyncio.run(main())


def test_frontend_that_hangs_is_killed_and_started_again(sockets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontends_module, "PULSE_S", 0.1)
    monkeypatch.setattr(frontends_module, "SILENCE_S", 0.5)

    async def body(pool: FrontendPool) -> None:
        pulse = asyncio.create_task(pool.watch_pulse())
        await asyncio.sleep(0.3)
        [before] = pool.describe()
        os.kill(before["pid"], signal.SIGSTOP)
        await until(lambda: pool.describe()[0]["pid"] not in (None, before["pid"]) and pool.are_ready)
        assert pool.restarts == 1
        pulse.cancel()

    with_pool(sockets, body)


def test_frontend_started_again_gets_the_table_of_the_moment(sockets: str) -> None:
    async def body(pool: FrontendPool) -> None:
        pool.publish(RoutingTable(epoch=7, accepting=True))
        os.kill(pool.describe()[0]["pid"], signal.SIGKILL)
        await until(lambda: pool.restarts == 1 and pool.are_ready and pool.has_applied(7))
        assert pool.is_released("left-before-it-was-born", 7)
        assert not pool.is_released("leaves-later", 8)

    with_pool(sockets, body)


def test_frontend_that_lived_for_a_while_is_started_again_at_once_each_time(
    sockets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontends_module, "BACKOFF_FIRST_S", 60.0)

    async def kill(pool: FrontendPool, count: int) -> None:
        life = pool._frontends[0].life
        await until(lambda: life.was_worth_its_start(time.monotonic()))
        os.kill(pool.describe()[0]["pid"], signal.SIGKILL)
        await until(lambda: pool.restarts == count and pool.are_ready)

    async def body(pool: FrontendPool) -> None:
        for count in range(1, 4):
            await kill(pool, count)

    with_pool(sockets, body)


def test_frontend_that_dies_young_again_waits(sockets: str) -> None:
    async def kill(pool: FrontendPool, count: int) -> None:
        await until(lambda: pool.describe()[0]["pid"] is not None)
        os.kill(pool.describe()[0]["pid"], signal.SIGKILL)
        await until(lambda: pool.restarts == count)

    async def body(pool: FrontendPool) -> None:
        for count in range(1, 4):
            await kill(pool, count)
        assert len(pool._deaths_s) >= 2  # the first may have been ready for long enough
        await until(lambda: pool.are_ready)

    with_pool(sockets, body)


def test_drained_frontends_end_and_their_port_is_free(sockets: str) -> None:
    async def body(pool: FrontendPool) -> None:
        await pool.drain(5)
        assert [one["pid"] for one in pool.describe()] == [None, None]
        with socket.socket() as other:
            other.bind(("127.0.0.1", pool.port))

    with_pool(sockets, body, count=2)


@pytest.mark.parametrize("count", [1, 2])
def test_port_that_frontends_of_another_daemon_share_is_in_use(sockets: str, count: int) -> None:
    async def body(pool: FrontendPool) -> None:
        with pytest.raises(DaemonStartFailed, match="in use"):
            new_pool(sockets, port=pool.port, count=count).bind()

    with_pool(sockets, body, count=2)


def test_host_that_is_not_ours_is_named(sockets: str) -> None:
    async def main() -> None:
        with pytest.raises(InvalidSetting, match=r"192\.0\.2\.1"):
            new_pool(sockets, host="192.0.2.1").bind()

    asyncio.run(main())


def new_spec(sockets: str, place: Path, **options: Any) -> ReplicaSpec:
    """Return a replica of the ``noop`` wrapper."""
    return ReplicaSpec(
        identity=new_identity(),
        endpoints=(controller_endpoint(sockets),),
        path=str(place),
        model="m",
        version="1",
        wrapper_kind="noop",
        input_type="doubles",
        options=options,
    )


def with_replica(
    sockets: str, place: Path, body: Callable[[Supervisor, Replica], Awaitable[None]], **options: Any
) -> list[Replica]:
    """Run a replica while ``body`` does; return those whose end was told."""
    exits: list[Replica] = []

    async def main() -> None:
        supervisor = Supervisor(sockets, exits.append)
        try:
            replica = supervisor.launch("key", new_spec(sockets, place, **options), place / "log", 0.2)
            await body(supervisor, replica)
        finally:
            await supervisor.close(2)
        assert len(supervisor) == 0

    asyncio.run(main())
    return exits


def test_replica_answers_its_warm_up_and_stops_when_told(sockets: str, tmp_path: Path) -> None:
    async def body(supervisor: Supervisor, replica: Replica) -> None:
        await supervisor.await_loaded(replica, 10)
        assert await supervisor.predict(replica, [[1.0], [2.0]], 5) == [0, 0]
        [(rows, seconds)] = replica.warm_up
        assert rows == 2
        assert 0.02 <= seconds < 5
        supervisor.stop(replica)
        assert "exited with code 0" in await replica.ended
        assert replica.killing is not None
        assert replica.killing.cancelled()  # it would hold the replica until it is due

    [ended] = with_replica(sockets, tmp_path, body, delay_ms=20)
    assert ended.is_leaving


def test_idle_replica_that_gives_no_sign_of_life_is_killed(
    sockets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "PULSE_S", 0.1)
    monkeypatch.setattr(supervisor_module, "STACKS_S", 0.1)

    async def body(supervisor: Supervisor, replica: Replica) -> None:
        pulse = asyncio.create_task(supervisor.watch_pulse())
        await supervisor.await_loaded(replica, 10)
        replica.is_ready = True
        await asyncio.sleep(0.5)
        assert not replica.ended.done()
        os.kill(replica.process.pid, signal.SIGSTOP)
        async with asyncio.timeout(5):
            assert "no sign of life" in await replica.ended
        pulse.cancel()

    [ended] = with_replica(sockets, tmp_path, body)
    assert not ended.is_leaving


def test_replica_that_loads_for_too_long_is_stopped_and_its_stack_is_logged(sockets: str, tmp_path: Path) -> None:
    async def body(supervisor: Supervisor, replica: Replica) -> None:
        # The process needs a moment before a signal makes it write its stacks.
        await asyncio.sleep(0.5)
        with pytest.raises(TimedOut, match=r"0\.3 s"):
            await supervisor.await_loaded(replica, 0.3)
        await replica.ended

    with_replica(sockets, tmp_path, body, load_s=60)
    assert "in load" in (tmp_path / "log").read_text()


def test_replica_that_cannot_load_says_why(sockets: str, tmp_path: Path) -> None:
    async def body(supervisor: Supervisor, replica: Replica) -> None:
        with pytest.raises(LoadFailed, match="no option 'nonsense'"):
            await supervisor.await_loaded(replica, 10)

    with_replica(sockets, tmp_path, body, nonsense=1)


def test_replica_that_dies_in_a_batch_is_lost_at_once(sockets: str, tmp_path: Path) -> None:
    async def body(supervisor: Supervisor, replica: Replica) -> None:
        await supervisor.await_loaded(replica, 10)
        asking = asyncio.create_task(supervisor.predict(replica, [[1.0]], 30))
        await asyncio.sleep(0.1)
        os.kill(replica.process.pid, signal.SIGKILL)
        with pytest.raises(ReplicaLost, match="SIGKILL"):
            await asking

    with_replica(sockets, tmp_path, body, delay_ms=20_000)


def test_batch_that_takes_too_long_in_the_warm_up_stops_the_replica(sockets: str, tmp_path: Path) -> None:
    async def body(supervisor: Supervisor, replica: Replica) -> None:
        await supervisor.await_loaded(replica, 10)
        with pytest.raises(TimedOut, match=r"0\.2 s"):
            await supervisor.predict(replica, [[1.0]], 0.2)
        assert "did not answer" in await replica.ended

    with_replica(sockets, tmp_path, body, delay_ms=20_000)
