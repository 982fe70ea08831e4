"""When the registry is looked at: soon after a change, now and then in any case, and never on the loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clipperfs.serverd import watcher as watcher_module
from clipperfs.serverd.adopter import Adopter
from clipperfs.serverd.events import Events
from clipperfs.serverd.reader import Look, RegistryReader
from clipperfs.serverd.statedir import StateDir
from clipperfs.serverd.watcher import Watcher

from clipperfs import Registry
from clipperfs.errors import ClipperfsError, StorageUnavailable


class Bench:
    """A watcher on a registry, and what it handed over."""

    def __init__(self, registry: Registry, place: Path, poll_s: float) -> None:
        self.looks: list[Look] = []
        self.failures: list[ClipperfsError] = []
        self.executor = ThreadPoolExecutor(4)
        events = Events()
        (place / "state").mkdir()
        self.reader = RegistryReader(registry.workspace, StateDir(place / "state"), None)
        self.watcher = Watcher(
            self.reader,
            Adopter(registry, events, settle_s=60),
            self.executor,
            self.executor,
            events,
            models=None,
            poll_s=poll_s,
            sweep_s=3600,
            on_look=self.looks.append,
            on_failure=self.failures.append,
        )


def run(registry: Registry, place: Path, body: Callable[[Bench], Awaitable[None]], *, poll_s: float = 3600) -> Bench:
    """Run a watcher while ``body`` does."""

    async def main() -> Bench:
        bench = Bench(registry, place, poll_s)
        watching = asyncio.create_task(bench.watcher.run())
        try:
            async with asyncio.timeout(10):
                await body(bench)
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            bench.executor.shutdown(wait=False)
        return bench

    return asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_change_is_noticed_at_once_where_the_system_tells_of_it(registry: Registry, tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        bench.watcher.follow(True)
        registry.policy("m", {"replicas": 2})
        await until(lambda: bench.looks and "m" in bench.looks[-1].models)
        for replicas in (3, 4, 5):
            await asyncio.to_thread(registry.policy, "m", {"replicas": replicas})
            await until(lambda: bench.looks[-1].models["m"].state.policy.replicas == replicas)  # noqa: B023

    assert run(registry, tmp_path, body).failures == []


def test_poll_finds_what_the_system_does_not_tell_of(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "_observe", lambda self, look: None)

    async def body(bench: Bench) -> None:
        bench.watcher.follow(True)
        await until(lambda: bench.looks)
        registry.policy("m", {"replicas": 2})
        await until(lambda: "m" in bench.looks[-1].models)

    run(registry, tmp_path, body, poll_s=0.05)


def test_nothing_is_looked_at_unless_followed_or_asked(registry: Registry, tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await asyncio.sleep(0.2)
        assert bench.looks == []
        await bench.watcher.look(full=True)
        assert len(bench.looks) == 1

    run(registry, tmp_path, body, poll_s=0.01)


def test_storage_that_hangs_is_given_up_on_and_does_not_hold_up_the_loop(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "LOOK_LIMIT_S", 0.1)
    gate = threading.Event()
    real = RegistryReader.look

    def hang(self: RegistryReader, *, full: bool) -> Look:
        gate.wait(10)
        return real(self, full=full)

    monkeypatch.setattr(RegistryReader, "look", hang)

    async def body(bench: Bench) -> None:
        started_s = time.monotonic()
        with pytest.raises(StorageUnavailable, match="does not answer within"):
            await bench.watcher.look()
        with pytest.raises(StorageUnavailable, match="still does not answer"):
            await bench.watcher.look()
        assert time.monotonic() - started_s < 2
        gate.set()
        while True:
            try:
                await bench.watcher.look()
                break
            except StorageUnavailable:
                await asyncio.sleep(0.01)
        assert len(bench.looks) == 1

    assert len(run(registry, tmp_path, body).failures) >= 2
