"""Plain copies on a real filesystem, adopted by one daemon and by several at once."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from clipperfs.serverd.adopter import TAKE_OVER_S, TOKEN_GRAIN_S, Adopter
from clipperfs.serverd.events import Events

from clipperfs import Registry
from clipperfs.documents import ModelRecord
from clipperfs.store import Entry
from clipperfs.testing.fault_store import FaultStore
from tests.integration.conftest import write_version

SETTLE_S = 2.0


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Site:
    """A registry into which versions are copied, and daemons' adopters on it."""

    def __init__(self, registry: Registry, place: Path) -> None:
        self.registry = registry
        self.place = place
        self.clock = Clock()
        self.told: list[dict[str, Any]] = []
        self.adopter = self.new_adopter("one")

    def new_adopter(self, name: str) -> Adopter:
        events = Events()
        events.add(lambda line: self.told.append(json.loads(line)))
        registry = Registry(self.registry.url, cache_dir=self.registry.cache.root, actor=f"serverd@{name}")
        return Adopter(registry, events, settle_s=SETTLE_S, clock=self.clock)

    def copy(self, version: str, *, marker: bool = True, yaml: str = "wrapper: noop\n") -> Path:
        source = write_version(self.place / "sources" / version, version.encode(), yaml)
        target = self.place / "registry" / "models" / "m" / "versions" / version
        shutil.copytree(source, target)
        if marker:
            (target / "READY").touch()
        return target

    def settle(self, adopter: Adopter | None = None, *, after_s: float = SETTLE_S) -> bool:
        self.clock.now_s += after_s
        return (adopter or self.adopter).settle_soon(self.records(), None)

    def records(self) -> dict[str, ModelRecord]:
        head = self.registry.head("m") if "m" in self.registry.models() else None
        return {"m": head.record} if head is not None else {}

    def ops(self) -> list[str]:
        head = self.registry.head("m")
        return [record.op for record in reversed(self.registry.history("m"))] if head else []


@pytest.fixture
def site(registry: Registry, tmp_path: Path) -> Iterator[Site]:
    # Events are told on a loop; nothing here waits for it.
    async def make() -> Site:
        return Site(registry, tmp_path)

    with asyncio.Runner() as runner:
        yield runner.run(make())


def in_loop(test: Callable[[Site], None]) -> Callable[[Site], None]:
    """Run a test's body on a loop, which its adopters' events need."""

    def run(site: Site) -> None:
        async def body() -> None:
            test(site)

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


@in_loop
def test_copy_with_a_marker_is_adopted_when_it_has_settled(site: Site) -> None:
    site.copy("1")
    assert site.settle() is False
    assert site.settle() is True
    assert site.ops() == ["adopt"]
    assert site.registry.history("m")[0].actor == "serverd@one"
    assert site.settle() is False


@in_loop
def test_copy_that_still_grows_is_not_adopted(site: Site) -> None:
    target = site.copy("1")
    for size in range(5):
        (target / "more.bin").write_bytes(b"x" * size)
        assert site.settle() is False
    assert site.settle() is True


@in_loop
def test_adopted_copy_becomes_active_where_the_policy_says_so(site: Site) -> None:
    site.registry.policy("m", {"activation": "on-publish"})
    site.copy("1")
    site.settle()
    site.settle()
    assert site.ops() == ["policy", "adopt", "activate"]
    assert site.records()["m"].state.active is not None


@in_loop
def test_two_daemons_at_once_adopt_a_copy_once(site: Site) -> None:
    site.registry.policy("m", {"activation": "on-publish"})
    site.copy("1")
    adopters = [site.adopter, site.new_adopter("two"), site.new_adopter("three")]
    for adopter in adopters:
        site.settle(adopter)
    site.clock.now_s += SETTLE_S
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda adopter: adopter.settle_soon(site.records(), None), adopters))
    assert site.ops().count("activate") == 1
    assert site.records()["m"].state.active is not None
    assert not any(adopter.refusals for adopter in adopters)
    assert site.registry.verify("m").ok


@in_loop
def test_daemon_that_died_between_adopting_and_activating_is_taken_over_from(site: Site) -> None:
    site.copy("1")
    site.settle()
    site.settle()
    site.registry.policy("m", {"activation": "on-publish"})
    other = site.new_adopter("two")
    assert site.settle(other) is False
    assert site.settle(other, after_s=TAKE_OVER_S) is True
    assert site.ops() == ["adopt", "policy", "activate"]


@in_loop
def test_rollback_of_an_adopted_copy_is_not_undone(site: Site) -> None:
    site.registry.policy("m", {"activation": "on-publish"})
    for version in ("1", "2"):
        site.copy(version)
        site.settle()
        site.settle()
    site.registry.rollback("m")
    assert site.settle(after_s=10 * TAKE_OVER_S) is False
    active = site.records()["m"].state.active
    assert active is not None and active.version == "1"


@in_loop
def test_refused_copy_is_not_tried_again_until_something_changes(site: Site) -> None:
    site.registry.policy("m", {"activation": "on-publish"})
    site.copy("1", yaml="wrapper: {kind: noop, no_such_option: 1}\n")
    site.settle()
    site.settle()
    assert site.adopter.refusals["m", "1"][0] == "loadable"
    refused = [event for event in site.told if event["event"] == "refused"]
    site.settle(after_s=TAKE_OVER_S)
    assert [event for event in site.told if event["event"] == "refused"] == refused
    site.adopter.retry()
    site.settle()
    assert len([event for event in site.told if event["event"] == "refused"]) == 2


@in_loop
def test_copy_with_a_link_or_a_bad_author_file_is_never_adopted(site: Site) -> None:
    (site.copy("1") / "link").symlink_to("/")
    site.copy("2", yaml="wraper: noop\n")
    site.settle()
    site.settle()
    site.settle()
    assert site.ops() == []
    assert "wraper" in site.adopter.refusals["m", "2"][1]
    assert len([event for event in site.told if event["event"] == "refused"]) == 1


@in_loop
def test_only_followed_models_are_adopted(site: Site) -> None:
    site.copy("1")
    for _ in range(3):
        site.clock.now_s += SETTLE_S
        site.adopter.settle_soon({}, ["other"])
    assert site.ops() == []


def test_settled_folder_is_not_listed_again_until_something_is_put_into_it(site: Site) -> None:
    site.copy("1")
    for _ in range(6):
        site.settle()
    store = FaultStore(site.registry.store)
    site.adopter._registry.workspace.store = store
    site.settle()
    assert ("list", "models/m/versions") not in store.calls
    site.copy("2")
    assert not site.settle()
    assert ("list", "models/m/versions") in store.calls
    assert site.settle()
    assert site.ops() == ["adopt", "adopt"]


def test_folder_that_has_just_changed_is_listed_again(site: Site) -> None:
    # Two changes within one tick of the filesystem's clock may leave the same token.
    site.copy("1")
    for _ in range(6):
        site.settle()
    site.registry.publish("m", "2", write_version(site.place / "sources" / "2", b"2", "wrapper: noop\n"))
    store = FaultStore(site.registry.store)
    site.adopter._registry.workspace.store = store
    for _ in range(3):
        store.calls.clear()
        site.settle(after_s=TOKEN_GRAIN_S / 4)
        assert ("list", "models/m/versions") in store.calls


def test_search_that_runs_out_of_time_goes_on_where_it_ended(site: Site) -> None:
    files = write_version(site.place / "sources" / "other", b"other", "wrapper: noop\n")
    for name in ("a", "b", "c"):
        site.registry.publish(name, "1", files)
    looked: list[str] = []

    class Slow(FaultStore):
        def stat(self, key: str) -> Entry | None:
            if key.endswith("/versions"):
                looked.append(key.split("/")[1])
                site.clock.now_s += 1.0
            return super().stat(key)

    site.adopter._registry.workspace.store = Slow(site.registry.store)
    for _ in range(3):
        site.adopter.settle_soon({}, None, turn_s=1.5)
    assert looked == ["a", "b", "c", "a", "b", "c"]


@in_loop
def test_copy_that_comes_during_a_rollout_waits_and_says_so(site: Site) -> None:
    site.registry.policy("m", {"activation": "on-publish"})
    site.copy("1")
    site.settle()
    site.settle()
    site.registry.publish("m", "2", write_version(site.place / "two", b"2"), activate=False)
    site.registry.rollback("m", to="1")
    site.registry.rollout("m", "2", percent=5)
    site.copy("3")
    for _ in range(4):
        site.settle()
    assert site.ops()[-2:] == ["rollout", "adopt"]
    assert site.adopter.refusals["m", "3"] == ("", "it waits for the rollout of version 2 to be promoted or aborted")
    site.registry.abort("m")
    site.settle()
    assert site.ops()[-2:] == ["abort", "activate"]
    assert site.adopter.refusals == {}


@in_loop
def test_copy_that_was_rolled_out_and_aborted_is_never_activated_by_a_daemon(site: Site) -> None:
    site.copy("1")
    site.settle()
    site.settle()
    site.registry.activate("m", "1")
    site.copy("2")
    site.settle()
    site.settle()
    site.registry.rollout("m", "2", percent=5)
    site.registry.abort("m", reason="it is bad")
    site.registry.policy("m", {"activation": "on-publish"})
    site.settle()
    site.settle(after_s=TAKE_OVER_S + 1)
    assert site.ops()[-2:] == ["abort", "policy"]
