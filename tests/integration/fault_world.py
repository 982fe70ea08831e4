"""A registry with something of everything in it, cloned for each fault; and what an independent reader makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipperfs.serverd.adopter import Adopter
from clipperfs.serverd.events import Events

from clipperfs import Registry, layout
from clipperfs.collect import collect
from clipperfs.documents import Record, RegistryDocument, canonical_bytes
from clipperfs.errors import NotFound
from clipperfs.materialise import verify_copy
from clipperfs.store import Store
from clipperfs.store.local import LocalStore
from clipperfs.store.memory import MemoryStore
from clipperfs.testing.fault_store import Fault, FaultStore
from tests.integration.conftest import write_version

Kind = Literal["local", "memory"]
FAULTS: tuple[Fault, ...] = ("error", "crash", "crash-after", "lost")
DAY_S = 86_400.0
WRITING = ("create", "replace", "upload", "rename_folder", "delete", "delete_folder")
VOLATILE = frozenset({"time", "manifest", "nonce", "prev", "report", "duration_ms", "registry_id"})
"""Fields of a record that differ between two runs which did the same."""


@dataclass(frozen=True)
class Seen:
    """What a reader finds, with everything left out that differs from run to run."""

    logs: dict[str, list[Any]]
    """By model or application: its records, the first one first."""
    versions: dict[str, str]
    """By ``model/version``: complete, incoming, broken or purged."""


class World:
    """One registry in one folder, or in memory."""

    def __init__(self, place: Path, kind: Kind) -> None:
        self.place = place
        self.kind = kind
        self.store: Store = LocalStore(place / "registry") if kind == "local" else MemoryStore(str(place))

    def open(self, at: int = 0, fault: Fault = "error", *, cache: str = "cache") -> tuple[Registry, FaultStore]:
        """Return the registry, and the store that meets ``fault`` at its call number ``at``."""
        registry = Registry(self.place / "unused", cache_dir=self.place / cache, actor="tester")
        faulty = FaultStore(self.store, at=at, fault=fault)
        registry.workspace.store = faulty
        return registry, faulty

    def clone(self, place: Path) -> World:
        """Return a registry of its own with the same content; its cache is cold."""
        other = World(place, self.kind)
        if isinstance(self.store, MemoryStore) and isinstance(other.store, MemoryStore):
            other.store._files = dict(self.store._files)
            other.store._writes = self.store._writes
        else:
            shutil.copytree(self.place / "registry", place / "registry")
        return other

    def remove(self) -> None:
        """Free the room that it takes on the disk."""
        shutil.rmtree(self.place, ignore_errors=True)

    def source(self, version: str) -> Path:
        """Return a folder to publish, the same for every clone."""
        path = self.place.parent / "sources" / version
        return path if path.exists() else write_version(path, f"weights {version}".encode())

    def copy(self, version: str, *, marker: bool) -> None:
        """Put a plain copy there, as a person does."""
        source = self.source(version)
        for path in sorted(source.rglob("*")):
            if path.is_file():
                self.store.upload(path, f"models/m/versions/{version}/{path.relative_to(source).as_posix()}")
        if marker:
            self.store.create(f"models/m/versions/{version}/READY", b"\n")

    def prepare(self) -> World:
        """Fill it: an active, a published, a retired, a deleted and two copied versions, applications, leftovers."""
        document = RegistryDocument(
            registry_id="r" * 16, created="2026-01-01T00:00:00Z", created_by="t", store_class="x"
        )
        self.store.create(layout.REGISTRY, canonical_bytes(document))
        registry, _ = self.open()
        registry.publish("m", "1", self.source("1"), activate=True)
        for version in ("2", "retired", "deleted"):
            registry.publish("m", version, self.source(version))
        registry.retire("m", "retired")
        registry.delete("m", "deleted")
        registry.policy("m", {"grace_s": 0})
        registry.alias("m", "edge", "1")
        registry.pin("m", "1")
        registry.publish("other", "1", self.source("1"), activate=True)
        for name in ("linked", "idle"):
            registry.app_register(name, input_type="doubles", default_output="0", slo_us=100_000)
        registry.app_link("linked", "m")
        self.source("new")
        self.copy("3", marker=False)
        self.copy("4", marker=True)
        self.store.upload(self.source("1") / "weights.bin", "models/m/versions/.staging-00ff00ff00ff00ff/weights.bin")
        self.store.create("models/m/log/.claim-00ff00ff00ff00ff", b"x")
        return self

    def see(self) -> Seen:
        """Return what a reader sees with a cache of its own; fail when anything that it may rely on is broken."""
        registry, _ = self.open(cache="reader")
        report = registry.verify()
        assert report.ok, report.findings
        logs: dict[str, list[Any]] = {}
        versions: dict[str, str] = {}
        for model in registry.models():
            ledger = registry.workspace.model_ledger(model)
            logs[model] = [_plain(head.record) for head in ledger.from_the_first()]
            with contextlib.suppress(NotFound):  # a first publish that failed leaves a folder with nothing in it
                versions |= {f"{model}/{view.version}": view.state for view in registry.versions(model)}
            head = ledger.head()
            if head is not None and head.record.state.active is not None:
                copy = registry.materialise(model, head.record.state.active.version)
                with copy.lease:
                    assert verify_copy(copy) == []
        for entry in self.store.list(layout.APPS):
            records = registry.workspace.app_ledger(entry.name).from_the_first()
            logs[f"app {entry.name}"] = [_plain(head.record) for head in records]
        return Seen({name: log for name, log in logs.items() if log}, versions)

    def leftovers(self) -> list[str]:
        """Return the keys of stagings and claims, whoever left them."""
        keys = [f"{root}/{entry.name}" for root in ("models", "apps", "changes") for entry in self.store.walk(root)]
        return [key for key in keys if "/.staging-" in key or "/.claim-" in key]

    def collect_later(self) -> None:
        """Collect as if it were two days later: everything that was left behind is old by then."""
        registry, _ = self.open()
        collect(registry.workspace, now_unix_s=time.time() + 2 * DAY_S)


@contextlib.contextmanager
def quick_folder() -> Iterator[Path]:
    """Yield a folder in memory where there is one: what counts is which calls come, not how long a disk takes."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None, prefix="clipperfs-") as name:
        yield Path(name)


def judge(before: Seen, after: Seen, seen: Seen, *, in_place: bool) -> str | None:
    """Say what of ``seen`` is neither old nor new, ``None`` when all is well. Pure.

    Each log ends with one of the records of the undisturbed run, whole; each version is what it was or what it becomes.
    A version that is published in place may also be incoming, which nobody serves.
    """
    for name, log in seen.logs.items():
        old, new = before.logs.get(name, []), after.logs.get(name, [])
        if not (len(old) <= len(log) and log == new[: len(log)]):
            return f"the log of {name} ends with {log[-1:]}, after {len(log)} records"
    for name in {*before.logs} - {*seen.logs}:
        return f"the log of {name} is gone"
    for name in {*before.versions, *after.versions, *seen.versions}:
        legal = {before.versions.get(name), after.versions.get(name)}
        if in_place and name not in before.versions:
            legal.add("incoming")
        if seen.versions.get(name) not in legal:
            return f"version {name} is {seen.versions.get(name)}"
    return None


def adopt_as_a_daemon(world: World, registry: Registry) -> None:
    """Look twice for plain copies that are complete, as a daemon does."""
    looks = 0

    async def look_twice() -> None:  # events are told on a loop; nothing here waits for it
        nonlocal looks
        adopter = Adopter(registry, Events(), settle_s=1, clock=lambda: 100.0 * looks)
        for _ in range(2):
            looks += 1
            adopter.settle_soon({name: head.record for name in ["m"] if (head := registry.head(name))}, None)

    asyncio.run(look_twice())


def materialise_cold(world: World, registry: Registry) -> None:
    """Fetch a version into a cache that does not know it, and hash the copy."""
    copy = registry.materialise("m", "2")
    with copy.lease:
        assert verify_copy(copy) == []


VERBS: dict[str, Callable[[World, Registry], object]] = {
    "publish": lambda world, registry: registry.publish("m", "new", world.source("new")),
    "publish and activate": lambda world, registry: registry.publish("m", "new", world.source("new"), activate=True),
    "publish a first": lambda world, registry: registry.publish("fresh", "1", world.source("new")),
    "activate": lambda world, registry: registry.activate("m", "2"),
    "rollback": lambda world, registry: registry.rollback("m", to="2"),
    "seal": lambda world, registry: registry.seal("m", "3"),
    "adopt as a daemon": adopt_as_a_daemon,
    "alias": lambda world, registry: registry.alias("m", "stable", "2"),
    "alias, moved": lambda world, registry: registry.alias("m", "edge", "2"),
    "pin": lambda world, registry: registry.pin("m", "2"),
    "unpin": lambda world, registry: registry.pin("m", "1", remove=True),
    "policy": lambda world, registry: registry.policy("m", {"replicas": 3}),
    "retire": lambda world, registry: registry.retire("m", "2"),
    "retire, undone": lambda world, registry: registry.retire("m", "retired", undo=True),
    "delete": lambda world, registry: registry.delete("m", "2"),
    "restore": lambda world, registry: registry.delete("m", "deleted", restore=True),
    "collect": lambda world, registry: collect(registry.workspace, now_unix_s=time.time() + 2 * DAY_S),
    "materialise": materialise_cold,
    "app register": lambda world, registry: registry.app_register(
        "a", input_type="doubles", default_output="0", slo_us=100_000, link="m"
    ),
    "app link": lambda world, registry: registry.app_link("idle", "m"),
    "app unlink": lambda world, registry: registry.app_unlink("linked"),
}


def is_writing(call: tuple[str, str]) -> bool:
    """Say whether a call of a store changes something."""
    return call[0] in WRITING


def _plain(record: Record) -> Any:
    return _without_volatile(record.model_dump(mode="json", by_alias=True))


def _without_volatile(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _without_volatile(value) for name, value in tree.items() if name not in VOLATILE}
    return [_without_volatile(value) for value in tree] if isinstance(tree, list) else tree


def sample(calls: list[tuple[str, str]]) -> Iterator[tuple[int, Fault]]:
    """Yield a few points: every writing call and some others, each with one of the faults in turn."""
    turn = 0
    for at, call in enumerate(calls, 1):
        if is_writing(call) or at % 5 == 0:
            yield at, FAULTS[turn % len(FAULTS)]
            turn += 1
