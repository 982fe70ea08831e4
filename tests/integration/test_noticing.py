"""Plain copies on a store without file events: noticed within a stated time, at a stated number of requests a poll."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from math import ceil
from pathlib import Path

import pytest
from clipperfs.serverd.adopter import Adopter
from clipperfs.serverd.events import Events
from clipperfs.serverd.rota import COPIES_AT_ONCE, MODELS_AT_ONCE, PATIENCE

from clipperfs import Registry
from clipperfs.documents import ModelRecord
from clipperfs.errors import IncompleteVersion
from clipperfs.initialise import initialise
from clipperfs.source import write_manifest
from clipperfs.store.memory import MemoryStore
from clipperfs.testing.fault_store import FaultStore

POLL_S = 2.0
SWEEP_S = 180.0


class Site:
    """A registry in memory, a daemon's adopter on it, and a clock that moves from poll to poll."""

    def __init__(self, place: Path, models: int) -> None:
        self.store = FaultStore(MemoryStore("noticing"))
        self.registry = Registry("memory://noticing", cache_dir=place / "cache", actor="serverd@one")
        self.registry.workspace.store = self.store
        initialise(self.registry.workspace, "skip", single_writer=False)
        self.records: dict[str, ModelRecord] = {}
        for number in range(models):
            outcome = self.registry.policy(f"m{number:04}", {"replicas": 2})
            assert outcome.record is not None
            self.records[f"m{number:04}"] = outcome.record
        self.now_s = 0.0
        events = Events.__new__(Events)
        events.tell = lambda *_, **__: None  # type: ignore[method-assign]
        self.adopter = Adopter(self.registry, events, settle_s=POLL_S, clock=lambda: self.now_s)
        self.adopter.settle_soon(self.records, None)
        self.store.calls.clear()

    def put(self, model: str, version: str, files: dict[str, bytes]) -> None:
        for path, data in files.items():
            self.store.inner.replace(f"models/{model}/versions/{version}/{path}", data)

    def poll(self) -> Counter[str]:
        """Let one poll pass; return the requests that it took."""
        self.now_s += POLL_S
        self.store.calls.clear()
        if self.adopter.settle_soon(self.records, None, everything=False):
            self.records = {
                name: head.record for name in self.registry.models() if (head := self.registry.head(name)) is not None
            }
        return Counter(method for method, _ in self.store.calls)

    def polls_until_adopted(self, model: str, version: str, limit: int) -> int:
        for number in range(1, limit + 1):
            self.poll()
            if any(record.op == "adopt" for record in self.registry.history(model)):
                assert self.registry.show_version(model, version).state == "complete"
                return number
        raise AssertionError(f"not adopted after {limit} polls")


WHOLE = {"weights.bin": b"weights", "model.yaml": b"wrapper: noop\n", "READY": b""}


@pytest.mark.parametrize("models", [1, 10, 300])
def test_requests_of_a_poll_do_not_follow_the_number_of_models(tmp_path: Path, models: int) -> None:
    site = Site(tmp_path, models)
    for _ in range(5):
        assert sum(site.poll().values()) <= MODELS_AT_ONCE
    for number in range(50):  # many copies at once
        site.put("m0000", f"v{number}", {"part.bin": os.urandom(number + 1)})
    for _ in range(20):
        assert sum(site.poll().values()) <= MODELS_AT_ONCE + 2 * COPIES_AT_ONCE


@pytest.mark.parametrize("models", [1, 10, 100])
def test_copy_is_adopted_within_a_turn_and_its_settling(tmp_path: Path, models: int) -> None:
    bound = ceil(models / MODELS_AT_ONCE) + 1
    counts = []
    for number in range(0, models, max(1, models // 5)):
        site = Site(tmp_path / str(number), models)
        model = f"m{number:04}"
        site.put(model, "1", WHOLE)
        counts.append(site.polls_until_adopted(model, "1", bound))
    print(f"{models} models: a copy was adopted after {min(counts)} to {max(counts)} polls; the bound is {bound}")


def test_quiescent_copy_is_adopted_soon_after_its_quiet_time(tmp_path: Path) -> None:
    site = Site(tmp_path, 1)
    outcome = site.registry.policy("m0000", {"adopt": "quiescent", "quiet_s": 20})
    assert outcome.record is not None
    site.records["m0000"] = outcome.record
    for size in range(1, 30):
        site.put("m0000", "1", {"weights.bin": b"x" * size})
        site.poll()
    assert site.polls_until_adopted("m0000", "1", 100) <= 20 * 1.25 / POLL_S + 1


def test_slow_copy_is_looked_at_rarely_and_adopted_soon_after_its_end(tmp_path: Path) -> None:
    site = Site(tmp_path, 1)
    looks = 0
    for size in range(1, 301):
        site.put("m0000", "1", {"weights.bin": b"x" * size})
        looks += site.poll()["walk"]
    assert looks < 40
    site.put("m0000", "1", WHOLE)
    assert site.polls_until_adopted("m0000", "1", 200) <= 300 / PATIENCE + 3


def test_model_that_came_as_a_copy_is_found_by_a_sweep_and_then_goes_on_quickly(tmp_path: Path) -> None:
    site = Site(tmp_path, 3)
    site.put("fresh", "1", WHOLE)
    for _ in range(5):
        site.poll()
    assert site.registry.head("fresh") is None
    site.adopter.settle_soon(site.records, None)
    assert site.polls_until_adopted("fresh", "1", 2) <= 2


def test_copy_that_can_never_be_adopted_costs_less_and_less(tmp_path: Path) -> None:
    site = Site(tmp_path, 1)
    outcome = site.registry.policy("m0000", {"adopt": "manifest"})
    assert outcome.record is not None
    site.records["m0000"] = outcome.record
    site.put("m0000", "1", WHOLE)
    assert sum(site.poll()["walk"] for _ in range(300)) < 40


SPARK = ["data/part-00000-c000.bin", "data/.part-00000-c000.bin.crc", "data/_SUCCESS", "model.yaml", "_SUCCESS"]


def test_what_spark_writes_is_adopted_only_when_its_committer_has_ended(tmp_path: Path) -> None:
    site = Site(tmp_path, 1)
    task = "_temporary/0/_temporary/attempt_0/part-00000.bin"
    site.put("m0000", "1", {task: b"half", "model.yaml": b"wrapper: noop\n", "_SUCCESS": b""})
    for _ in range(30):  # a marker of an older attempt, or one that came first
        site.poll()
    assert site.registry.head("m0000").record.op == "policy"  # type: ignore[union-attr]
    with pytest.raises(IncompleteVersion, match="_temporary"):
        site.registry.seal("m0000", "1")
    site.put("m0000", "1", {"part-00000.bin": b"whole"})
    site.store.inner.delete(f"models/m0000/versions/1/{task}")
    site.polls_until_adopted("m0000", "1", 15)
    manifest = site.registry.show_version("m0000", "1").manifest
    assert manifest is not None
    assert [entry.path for entry in manifest.files] == ["model.yaml", "part-00000.bin"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(len(SPARK))))[::17])
def test_files_of_a_marked_copy_in_any_order_at_the_pace_of_polls_are_adopted_whole(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    """Each file arrives under its final name at once; within one poll of each other, as the rule for markers asks."""
    site = Site(tmp_path, 1)
    content = {path: b"" if path.endswith("_SUCCESS") else path.encode() for path in SPARK}
    content["model.yaml"] = b"wrapper: noop\n"
    for index in order:
        site.put("m0000", "1", {SPARK[index]: content[SPARK[index]]})
        site.poll()
        head = site.registry.head("m0000")
        assert head is not None and head.record.op == "policy"
    site.polls_until_adopted("m0000", "1", 10)
    manifest = site.registry.show_version("m0000", "1").manifest
    assert manifest is not None
    assert sorted(entry.path for entry in manifest.files) == sorted(set(SPARK) - {"_SUCCESS"})


@pytest.mark.parametrize("seed", range(10))
def test_put_by_copying_names_in_any_order_is_adopted_whole(tmp_path: Path, seed: int) -> None:
    """``hdfs dfs -put`` writes each file as ``name._COPYING_`` and renames it; with a manifest the pace is free."""
    chance = random.Random(seed)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(5):
        (source / f"part-{number}").write_bytes(chance.randbytes(100))
    (source / "model.yaml").write_text("wrapper: noop\n")
    write_manifest(source, wrapper=None, actor="ci")
    paths = sorted(source.iterdir())
    chance.shuffle(paths)
    site = Site(tmp_path, 1)
    for path in paths:
        site.put("m0000", "1", {f"{path.name}._COPYING_": path.read_bytes()[:50]})
        for _ in range(chance.randrange(4)):
            site.poll()
        site.put("m0000", "1", {path.name: path.read_bytes()})
        site.store.inner.delete(f"models/m0000/versions/1/{path.name}._COPYING_")
        head = site.registry.head("m0000")
        assert head is not None and head.record.op == "policy"
    site.polls_until_adopted("m0000", "1", 100)
