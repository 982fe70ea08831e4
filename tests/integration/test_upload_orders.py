"""Random orders of arrival, slow writers, temporary names: nothing is loaded before the copy is whole."""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from clipperfs.serverd.adopter import Adopter
from clipperfs.serverd.events import Events

from clipperfs import Registry, layout
from clipperfs.adopt import Assessment
from clipperfs.checking import runner
from clipperfs.checking.request import CheckRequest
from clipperfs.documents import ModelRecord, Policy, RegistryDocument, Verdict, canonical_bytes
from clipperfs.source import write_manifest
from clipperfs.store import Store
from clipperfs.store.local import LocalStore
from clipperfs.store.memory import MemoryStore
from tests.integration.uploads import (
    POLL_S,
    QUIET_S,
    LocalTarget,
    Mode,
    ObjectTarget,
    Step,
    Target,
    plan,
)
from tests.scale import scaled

VERSION = "v"
FOLDER = f"models/m/versions/{VERSION}"
ORDERS = scaled(25, 1000)


class Meanwhile:
    """A store between whose calls the tool goes on copying."""

    def __init__(self, store: Store, go_on: Any) -> None:
        self._store = store
        self._go_on = go_on

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in ("read", "open", "stat", "list", "walk", "create"):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self._go_on()
            answer = found(*arguments, **options)
            return iter([*answer]) if name in ("list", "walk") else answer

        return call


class Site:
    """A registry into which one version is being copied, and a daemon's adopter with a clock that the test moves."""

    def __init__(
        self, place: Path, kind: str, seed: str, policy: str, monkeypatch: pytest.MonkeyPatch, settle_s: float = POLL_S
    ) -> None:
        self.chance = random.Random(seed)
        self.now_s = 1000.0
        self.loads: list[dict[str, bytes]] = []
        monkeypatch.setattr(runner, "run_hooks", self.load)
        self.source = place / "source"
        (self.source / "sub").mkdir(parents=True)
        for name in ("a.bin", "sub/b.bin", "c.txt")[: self.chance.randint(1, 3)]:
            (self.source / name).write_bytes(self.chance.randbytes(self.chance.randint(2, 4000)))
        (self.source / "model.yaml").write_text("wrapper: noop\n")
        if self.chance.random() < 0.3:
            (self.source / "empty").touch()
        self.store: Store = LocalStore(place / "registry") if kind == "local" else MemoryStore(str(place))
        document = RegistryDocument(registry_id="r" * 16, created="-", created_by="-", store_class="x")
        self.store.create(layout.REGISTRY, canonical_bytes(document))
        self.registry = Registry(place / "unused", cache_dir=place / "cache", actor="serverd@test")
        self.registry.workspace.store = self.store
        self.registry.policy("m", {"activation": "on-publish", "adopt": policy, "quiet_s": QUIET_S})
        self.target: Target = (
            ObjectTarget(self.store, FOLDER)
            if isinstance(self.store, MemoryStore)
            else LocalTarget(place / "registry" / FOLDER)
        )
        self.adopter = Adopter(self.registry, Events(), settle_s=settle_s, clock=lambda: self.now_s)

    def load(self, request: CheckRequest) -> list[Verdict]:
        """Stand for the hooks, which load what they are given: note its bytes."""
        path = request.candidate.path
        self.loads.append(
            {one.relative_to(path).as_posix(): one.read_bytes() for one in path.rglob("*") if one.is_file()}
        )
        return [Verdict(hook=hook.name, outcome="passed") for hook in request.hooks]

    def poll(self) -> None:
        head = self.registry.head("m")
        records: dict[str, ModelRecord] = {"m": head.record} if head is not None else {}
        self.adopter.settle_soon(records, None)

    def ops(self) -> list[str]:
        return [record.op for record in reversed(self.registry.history("m"))]

    def copy(self, steps: list[Step], *, during: bool) -> list[str]:
        """Let the tool copy, and the daemon poll at its own times; return what happened, for messages.

        Args:
            during: whether the tool goes on between the storage calls of a poll, too.
        """
        told: list[str] = []
        waiting = [*steps]
        due_s = self.now_s + waiting[0].pause_s
        poll_s = self.now_s

        def step() -> None:
            nonlocal due_s
            now = waiting.pop(0)
            now.act(self.target)
            told.append(f"{self.now_s - 1000:.1f} {now.what}")
            due_s = self.now_s + waiting[0].pause_s if waiting else float("inf")

        def go_on() -> None:
            if waiting and self.chance.random() < 0.1:
                step()

        if during:
            self.registry.workspace.store = Meanwhile(self.store, go_on)
        while waiting:
            if due_s <= poll_s:
                self.now_s = max(self.now_s, due_s)
                step()
            else:
                self.now_s = poll_s
                self.poll()
                told.append(f"{self.now_s - 1000:.1f} poll: {len(self.loads)} loads")
                poll_s += POLL_S * self.chance.uniform(0.3, 1.2)
                self.check(told)
        for _ in range(12):
            self.now_s += POLL_S
            self.poll()
            self.check(told)
        return told

    def check(self, told: list[str]) -> None:
        """What was loaded has the final bytes, and so has what was adopted."""
        for loaded in self.loads:
            assert loaded == self.final(), "\n".join(["loaded too early:", *told])
        if "adopt" in self.ops():
            manifest = self.registry.show_version("m", VERSION).manifest
            assert manifest is not None
            assert {one.path for one in manifest.files} == set(self.final()), "\n".join(["adopted too early:", *told])

    def final(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.source).as_posix(): path.read_bytes()
            for path in self.source.rglob("*")
            if path.is_file() and path.name != "manifest.json"
        }


POLICY: dict[Mode, str] = {
    "manifest": "manifest",
    "marker": "marker",
    "early marker": "marker",
    "quiescent": "quiescent",
}


@pytest.mark.proof
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", POLICY)
@pytest.mark.parametrize("kind", ["local", "memory"])
def test_no_order_of_arrival_is_loaded_too_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mode: Mode
) -> None:
    asyncio.run(_prove(tmp_path, monkeypatch, kind, mode, ORDERS))


@pytest.mark.parametrize("mode", POLICY)
@pytest.mark.parametrize("kind", ["local", "memory"])
def test_few_orders_of_arrival_are_not_loaded_too_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mode: Mode
) -> None:
    asyncio.run(_prove(tmp_path, monkeypatch, kind, mode, 1))


@pytest.mark.parametrize("mode", ["early marker", "quiescent"])
def test_daemon_that_does_not_wait_for_a_copy_to_settle_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    monkeypatch.setattr("clipperfs.serverd.adopter.judge_copy", _judge_hastily)
    with pytest.raises(AssertionError, match="too early"):
        asyncio.run(_prove(tmp_path, monkeypatch, "memory", mode, 20))


def _judge_hastily(there: Assessment, seen: object, policy: Policy, now_s: float, settle_s: float) -> str:
    """Adopt as soon as there is a marker, or anything at all: a planted fault."""
    return "adopt" if there.marker is not None or policy.adopt == "quiescent" else "wait"


@pytest.mark.parametrize(("mode", "stall_s"), [("early marker", POLL_S), ("quiescent", QUIET_S)])
def test_tool_that_stalls_for_longer_than_stated_is_adopted_half_and_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode, stall_s: float
) -> None:
    """The stated weakness (``registry_layout.md`` §8.5): a half is adopted, is one version for ever, and is shown."""

    async def body() -> None:
        site = Site(tmp_path, "local", "stall", POLICY[mode], monkeypatch)
        first, second = site.final()["model.yaml"], b"late"
        site.target.write("model.yaml", first)
        if mode == "early marker":
            site.target.write("READY", b"")
        site.poll()
        site.now_s += stall_s - 0.1
        site.poll()
        assert site.loads == []
        site.now_s += 0.1
        site.poll()
        assert site.loads == [{"model.yaml": first}]
        site.target.write("weights.bin", second)
        for _ in range(5):
            site.now_s += QUIET_S
            site.poll()
        assert site.loads == [{"model.yaml": first}]
        assert site.registry.show_version("m", VERSION).extra == ["weights.bin"]
        assert [finding.message for finding in site.registry.verify("m").findings] == [
            "weights.bin is not in the manifest"
        ]

    asyncio.run(body())


async def _prove(place: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mode: Mode, orders: int) -> None:
    steps = 0
    for number in range(orders):
        here = place / str(number)
        site = Site(here, kind, f"{kind} {mode} {number}", POLICY[mode], monkeypatch)
        if mode == "manifest":
            write_manifest(site.source, wrapper=None, actor="ci")
        files = {
            path.relative_to(site.source).as_posix(): path.read_bytes()
            for path in site.source.rglob("*")
            if path.is_file()
        }
        acts = plan(site.chance, files, mode, is_object_store=kind == "memory")
        steps += len(acts)
        told = site.copy(acts, during=mode in ("manifest", "marker"))
        assert len(site.loads) == 1 and site.ops() == ["policy", "adopt", "activate"], "\n".join(
            [str(site.ops()), *told]
        )
        shutil.rmtree(here)
    print(f"\n{kind}, {mode}: {orders} orders of {steps} steps, 0 loaded too early")
