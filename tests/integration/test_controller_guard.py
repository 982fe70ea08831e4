"""The daemon's judge of rollouts: stops at once, remembers it, and has it recorded when the registry lets it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from clipperfs.serverd import guard as guard_module
from clipperfs.serverd.counters import VersionCounter
from clipperfs.serverd.desired import Desired, desired_state
from clipperfs.serverd.events import Events
from clipperfs.serverd.guard import BRAKES_FILE, Guard, read_brakes
from clipperfs.serverd.statedir import StateDir

from clipperfs import Registry
from clipperfs.checking import runner
from clipperfs.documents import ModelRecord, Verdict
from clipperfs.errors import StorageDenied
from tests.integration.conftest import write_version


class Fleet:
    """What the guard asks of the fleet."""

    def __init__(self) -> None:
        self.desired = Desired()
        self.candidate = SimpleNamespace(phase="ready", was_ready=True, reason=None)

    def find(self, model: str, load: str) -> Any:
        return self.candidate

    def answering(self, model: str) -> Any:
        return SimpleNamespace(version="1")


class Site:
    """A registry with a canary of version 2, and a daemon's guard whose frontends count what the test says."""

    def __init__(self, registry: Registry, state: StateDir, executor: ThreadPoolExecutor) -> None:
        self.registry = registry
        self.state = state
        self.told: list[dict[str, Any]] = []
        self.counters = {"1": VersionCounter(), "2": VersionCounter()}
        self.fleet = Fleet()
        self.wants = 0
        events = Events()
        events.add(lambda line: self.told.append(json.loads(line)))
        self.guard = Guard(
            Registry(registry.url, cache_dir=registry.cache.root, actor="serverd@here"),
            state,
            events,
            executor,
            self.fleet,  # type: ignore[arg-type]
            records=self.records,
            collect=self.collect,
            routed=lambda model: True,
            on_brake=self.want,
            brakes=read_brakes(state),
        )
        self.want()

    def records(self) -> dict[str, ModelRecord]:
        head = self.registry.head("m")
        assert head is not None
        return {"m": head.record}

    def want(self) -> None:
        brakes = {model: brake.seq for model, brake in self.guard.brakes.items()} if hasattr(self, "guard") else {}
        self.fleet.desired = desired_state(self.records().values(), [], brakes=brakes)
        self.wants += 1

    async def collect(self) -> list[dict[str, Any]]:
        versions = [{"model": "m", "version": name, **one.snapshot()} for name, one in self.counters.items()]
        return [{"pid": 7, "versions": versions}]

    def fail(self, count: int) -> None:
        self.counters["2"].queries += count
        self.counters["2"].errors += count

    def ops(self) -> list[str]:
        return [record.op for record in self.registry.history("m")]

    def events(self) -> list[str]:
        return [one["event"] for one in self.told]


@pytest.fixture
def staged(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Return a registry with a canary of version 2 of model ``m`` beside version 1."""
    monkeypatch.setattr(runner, "run_hooks", lambda request: [Verdict(hook="loadable", outcome="passed")])
    for version in ("1", "2"):
        registry.publish("m", version, write_version(tmp_path / version, version.encode()))
    registry.activate("m", "1")
    registry.rollout("m", "2", percent=10)
    return registry


def with_guard(registry: Registry, place: Path, test: Callable[[Site], Awaitable[None]]) -> None:
    """Run a test's body on a loop with a guard."""

    async def body(executor: ThreadPoolExecutor) -> None:
        state = StateDir(place / "state")
        state.acquire()
        try:
            await test(Site(registry, state, executor))
        finally:
            state.release()

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(body(executor))


def test_crossed_limit_stops_and_aborts_once(staged: Registry, tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        site.fail(1000)
        await site.guard.look()
        assert site.guard.brakes == {}, "what was counted before the first look is not of this rollout"
        site.fail(100)
        await site.guard.look()
        assert site.ops()[0] == "abort"
        record = site.registry.history("m", limit=1)[0]
        assert (record.actor, record.evidence.version) == ("serverd@here", "2")
        assert record.reason == "automatic: version 2 as a canary: it failed 100 of 100 queries (100 %), limit 5 %"
        assert site.events() == ["rollout", "rollout stopped", "rollout aborted"]
        await site.guard.look()
        assert site.guard.brakes == {} and site.events()[-1] == "rollout ended"
        assert json.loads((site.state.path / BRAKES_FILE).read_bytes()) == {}
        assert site.ops().count("abort") == 1 and site.guard.faults() == []

    with_guard(staged, tmp_path, test)


def test_brake_without_the_right_to_write_holds_says_so_and_is_recorded_later(
    staged: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def denied(site: Site) -> None:
        def refuse(*given: Any, **more: Any) -> Any:
            raise StorageDenied("the log may not be written")

        monkeypatch.setattr(site.guard._registry, "abort", refuse)
        await site.guard.look()
        site.fail(100)
        await site.guard.look()
        await site.guard.look()
        assert site.ops()[0] == "rollout"
        assert site.fleet.desired.models["m"].rollout is None, "it is not wanted here any more"
        assert site.events().count("rollout not aborted") == 1
        [fault] = site.guard.faults()
        assert "stopped on this host only" in fault and "may not be written" in fault
        described = site.guard.describe("m")
        assert described is not None and described["state"] == "stopped"

    async def restarted(site: Site) -> None:
        site.want()
        assert site.fleet.desired.models["m"].rollout is None
        await site.guard.look()
        assert site.ops()[0] == "abort"
        await site.guard.look()
        assert site.guard.brakes == {}

    with_guard(staged, tmp_path, denied)
    with_guard(staged, tmp_path, restarted)


def test_new_rollout_of_the_same_version_is_not_held_back_by_an_old_brake(staged: Registry, tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        await site.guard.look()
        site.fail(100)
        await site.guard.look()
        site.registry.rollout("m", "2", percent=20)
        await site.guard.look()
        site.want()
        assert site.guard.brakes == {}
        rollout = site.fleet.desired.models["m"].rollout
        assert rollout is not None and rollout.percent == 20
        await site.guard.look()
        assert site.guard.brakes == {}, "counting begins anew"

    with_guard(staged, tmp_path, test)


def test_rollout_that_began_meanwhile_is_not_aborted_for_the_one_that_was_judged(
    staged: Registry, tmp_path: Path
) -> None:
    async def test(site: Site) -> None:
        await site.guard.look()
        known = site.records()
        site.guard._records = lambda: known
        site.registry.abort("m")
        site.registry.rollout("m", "2", percent=20)
        site.fail(100)
        await site.guard.look()
        assert site.ops()[:2] == ["rollout", "abort"]
        assert site.guard.brakes["m"].is_recorded, "somebody else did"

    with_guard(staged, tmp_path, test)


def test_candidate_that_was_given_up_is_aborted_and_one_that_never_loaded_is_not(
    staged: Registry, tmp_path: Path
) -> None:
    async def test(site: Site) -> None:
        site.fleet.candidate = SimpleNamespace(phase="failed", was_ready=False, reason="no such library")
        await site.guard.look()
        assert site.ops()[0] == "rollout"
        site.fleet.candidate = SimpleNamespace(phase="failed", was_ready=True, reason="it died 5 times within 60 s")
        await site.guard.look()
        assert "it was given up: it died 5 times" in str(site.registry.history("m", limit=1)[0].reason)

    with_guard(staged, tmp_path, test)


def test_daemon_beside_a_declared_writer_stops_but_does_not_write(
    staged: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(site: Site) -> None:
        workspace = site.guard._registry.workspace
        document = workspace.document()
        workspace._document = document.model_copy(update={"required_features": ["single-writer"]})
        await site.guard.look()
        site.fail(100)
        await site.guard.look()
        assert site.ops()[0] == "rollout" and "m" in site.guard.brakes
        assert "one declared writer" in site.guard.faults()[0]

    with_guard(staged, tmp_path, test)


def test_fault_of_the_guard_itself_ends_nothing(
    staged: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(site: Site) -> None:
        looks = 0

        async def look() -> None:
            nonlocal looks
            looks += 1
            raise KeyError("versions")

        monkeypatch.setattr(site.guard, "look", look)
        monkeypatch.setattr(guard_module, "LOOK_S", 0.001)
        monkeypatch.setattr(guard_module, "RECORD_AGAIN_S", 0.001)
        running = asyncio.ensure_future(site.guard.run())
        while looks < 3:
            await asyncio.sleep(0.001)
        assert not running.done()
        running.cancel()

    with_guard(staged, tmp_path, test)
