"""A fault at every storage call of every verb: old state or new, never between; running it again completes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.checking import runner
from clipperfs.checking.request import CheckRequest
from clipperfs.documents import Verdict
from clipperfs.errors import ClipperfsError, StorageError
from clipperfs.store import Store
from clipperfs.store.local import LocalStore
from clipperfs.store.memory import MemoryStore
from clipperfs.testing.fault_store import Crashed, Fault, FaultStore
from tests.integration.conftest import write_version

FAULTS: tuple[Fault, ...] = ("error", "crash", "crash-after", "lost")


@pytest.fixture(autouse=True)
def _hooks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let hooks answer without processes: the sweep is about storage calls, and there are hundreds of runs."""

    def answer(request: CheckRequest) -> list[Verdict]:
        return [Verdict(hook=hook.name, outcome="passed") for hook in request.hooks]

    monkeypatch.setattr(runner, "run_hooks", answer)


class World:
    """One registry on one store, and how to open it with a fault."""

    def __init__(self, place: Path, kind: str) -> None:
        self.place = place
        self.store: Store = LocalStore(place / "registry") if kind == "local" else MemoryStore(str(place))
        for version in ("1", "2", "3"):
            write_version(place / f"source-{version}", f"weights {version}".encode())

    def source(self, version: str) -> Path:
        return self.place / f"source-{version}"

    def open(self, at: int = 0, fault: Fault = "error") -> tuple[Registry, FaultStore]:
        registry = Registry(self.place / "unused", cache_dir=self.place / "cache", actor="tester")
        faulty = FaultStore(self.store, at=at, fault=fault)
        registry.workspace.store = faulty
        return registry, faulty

    def prepare(self) -> None:
        from clipperfs import layout
        from clipperfs.documents import RegistryDocument, canonical_bytes

        document = RegistryDocument(
            registry_id="r" * 16, created="2026-01-01T00:00:00Z", created_by="t", store_class="x"
        )
        self.store.create(layout.REGISTRY, canonical_bytes(document))
        registry, _ = self.open()
        registry.publish("m", "1", self.source("1"), activate=True)
        registry.publish("m", "2", self.source("2"))
        for path in sorted(self.source("3").rglob("*")):
            if path.is_file():
                self.store.upload(path, f"models/m/versions/3/{path.relative_to(self.source('3')).as_posix()}")
        registry.policy("m", {"grace_s": 0})


def publish_new(world: World, registry: Registry) -> None:
    registry.publish("m", "new", world.source("1"))


VERBS: dict[str, Callable[[World, Registry], object]] = {
    "publish": publish_new,
    "activate": lambda world, registry: registry.activate("m", "2"),
    "rollback": lambda world, registry: registry.rollback("m", to="2"),
    "seal": lambda world, registry: registry.seal("m", "3"),
    "alias": lambda world, registry: registry.alias("m", "stable", "2"),
    "policy": lambda world, registry: registry.policy("m", {"replicas": 3}),
    "delete and collect": lambda world, registry: (registry.delete("m", "2"), registry.collect()),
    "register": lambda world, registry: registry.app_register(
        "a", input_type="doubles", default_output="0", slo_us=100_000, link="m"
    ),
}


def observe(world: World) -> dict[str, object]:
    """Return what a reader sees; fail when anything that a reader may rely on is broken."""
    registry, _ = world.open()
    report = registry.verify()
    assert report.ok, report.findings
    head = registry.head("m")
    assert head is not None
    state = head.record.state
    for view in registry.versions("m"):
        if view.state == "complete":
            with registry.materialise("m", view.version).lease:
                pass
    return {
        "active": state.active.version if state.active else None,
        "versions": {view.version: view.state for view in registry.versions("m")},
        "aliases": sorted(state.aliases),
        "replicas": state.policy.replicas,
        "retired": sorted(state.retired),
        "apps": registry.apps(),
    }


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", ["local", "memory"])
def test_fault_at_every_call_leaves_old_or_new_and_rerun_completes(
    tmp_path: Path, kind: str, verb: str, fault: Fault
) -> None:
    probe = World(tmp_path / "probe", kind)
    probe.prepare()
    before = observe(probe)
    registry, counted = probe.open()
    VERBS[verb](probe, registry)
    after = observe(probe)
    assert before != after or verb == "seal"
    calls = len(counted.calls)
    assert calls > 3
    for at in range(1, calls + 1):
        world = World(tmp_path / f"world-{at}", kind)
        world.prepare()
        registry, faulty = world.open(at, fault)
        try:
            VERBS[verb](world, registry)
        except (ClipperfsError, Crashed) as error:
            assert isinstance(error, Crashed | StorageError), f"call {at} {faulty.calls[-1]}: {error!r}"
        seen = observe(world)
        legal = [before, after]
        if verb == "delete and collect":
            legal += [before | {"retired": ["2"]}, after | {"retired": ["2"]}]
        if kind == "memory" and verb == "publish":  # no folder rename: a half is shown as incoming
            versions = {name: "incoming" if name == "new" else state for name, state in after["versions"].items()}  # type: ignore[attr-defined]
            legal += [before | {"versions": versions}]
        if verb == "publish":
            legal += [after]
        assert seen in legal, f"call {at} {faulty.calls[at - 1]}: {seen}"
        again, _ = world.open()
        VERBS[verb](world, again)
        assert observe(world) == after, f"call {at} {faulty.calls[at - 1]}: rerun"


def test_sweep_would_notice_a_writer_that_overwrites(tmp_path: Path) -> None:
    """The sweep can fail: a publish that leaves out its manifest's bytes is seen by ``observe``."""
    world = World(tmp_path, "local")
    world.prepare()
    target = Path(world.store.local_path("models/m/versions/2/weights.bin") or "")
    target.write_bytes(os.urandom(target.stat().st_size))
    with pytest.raises(AssertionError):
        observe(world)
