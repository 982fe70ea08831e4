"""What is remembered of a log: it saves the walk, and never stands for a log that says something else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from clipperfs import layout
from clipperfs.cache import Cache
from clipperfs.digest import digest_bytes
from clipperfs.documents import Evidence, ModelRecord, ModelState
from clipperfs.errors import DamagedLog
from clipperfs.initialise import initialise
from clipperfs.ledger import Draft, Head
from clipperfs.names import ModelName, VersionName
from clipperfs.recorded import find_recorded, recorded_versions
from clipperfs.store.local import LocalStore
from clipperfs.testing.fault_store import FaultStore
from clipperfs.workspace import Workspace

MODEL = ModelName("digits")


class Site:
    """A registry, and hosts that look at it, each with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "registry"
        initialise(self.host("writer"), "skip", single_writer=False)

    def host(self, name: str) -> Workspace:
        return Workspace(FaultStore(LocalStore(self.root)), Cache(self.folder / name), "tester")

    def record(self, *versions: str, op: str = "publish") -> None:
        ledger = self.host("writer").model_ledger(MODEL)
        for version in versions:
            evidence = Evidence(version=version, manifest=digest_bytes(version.encode()))

            def decide(head: Head[ModelRecord] | None, evidence: Evidence = evidence) -> Draft:
                return Draft(op, head.record.state if head else ModelState(), None, evidence)

            ledger.append(decide, actor="tester")

    def memory(self, name: str) -> Path:
        [path] = (self.folder / name / "recorded").rglob("*.json")
        return path


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def seq_of(workspace: Workspace, version: str) -> int | None:
    head = find_recorded(workspace, MODEL, VersionName(version))
    return head.seq if head is not None else None


def reads(workspace: Workspace) -> int:
    store = workspace.store
    assert isinstance(store, FaultStore)
    return sum(method == "read" for method, _ in store.calls)


def test_second_question_costs_the_same_however_long_the_log_is(site: Site) -> None:
    site.record(*(f"v{number}" for number in range(60)))
    first, second = site.host("a"), site.host("a")
    assert (seq_of(first, "v0"), seq_of(first, "none")) == (1, None)
    assert reads(first) > 60
    assert (seq_of(second, "v0"), seq_of(second, "none")) == (1, None)
    assert reads(second) < 12
    site.record("v60")
    third = site.host("a")
    assert (seq_of(third, "v60"), seq_of(third, "v3"), seq_of(third, "none")) == (61, 4, None)
    assert reads(third) < 24


def test_newest_record_of_a_version_counts(site: Site) -> None:
    site.record("v1", "v2")
    workspace = site.host("a")
    assert seq_of(workspace, "v1") == 1
    site.record("v1", op="adopt")
    assert recorded_versions(workspace, MODEL).versions["v1"].op == "adopt"
    assert seq_of(workspace, "v1") == 3
    assert seq_of(site.host("b"), "v1") == 3


def test_other_operations_record_no_version(site: Site) -> None:
    site.record("v1", op="activate")
    assert seq_of(site.host("a"), "v1") is None


def test_memory_of_another_history_is_not_used(site: Site) -> None:
    site.record("v1")
    backup = site.folder / "backup"
    shutil.copytree(site.root, backup)
    site.record("v2", "v3")
    assert seq_of(site.host("a"), "v2") == 2
    shutil.rmtree(site.root)
    shutil.copytree(backup, site.root)
    assert set(recorded_versions(site.host("a"), MODEL).versions) == {"v1"}, "a log that moved back"
    assert seq_of(site.host("a"), "v2") is None
    site.record("v2")
    assert seq_of(site.host("a"), "v2") == 2
    shutil.rmtree(site.root)
    shutil.copytree(backup, site.root)
    site.record("x2", "x3", "x4")
    host = site.host("a")
    assert [seq_of(host, version) for version in ("x2", "v1", "v2", "x4")] == [2, 1, None, 4], "a fork"


@pytest.mark.parametrize("damage", ["cut", "bit", "forged", "nonsense"])
def test_damaged_memory_is_not_used(site: Site, damage: str) -> None:
    site.record("v1", "v2")
    assert seq_of(site.host("a"), "v1") == 1
    path = site.memory("a")
    data = path.read_bytes()
    body = json.loads(data.partition(b"\n")[2])
    for _, row in body["versions"]:
        row[0] = 3 - row[0]  # each is said to be the other's record
    forged = json.dumps(body).encode()
    path.write_bytes(
        {
            "cut": data[:-9],
            "bit": data.replace(b'"v1"', b'"v9"'),
            "forged": digest_bytes(forged).encode() + b"\n" + forged,
            "nonsense": digest_bytes(b"[]").encode() + b"\n[]",
        }[damage]
    )
    assert [seq_of(site.host("a"), version) for version in ("v1", "v2", "v9")] == [1, 2, None]


def test_cache_that_cannot_be_written_costs_only_time(site: Site) -> None:
    site.record("v1")
    (site.folder / "a").mkdir()
    (site.folder / "a" / "recorded").write_text("in the way")
    assert seq_of(site.host("a"), "v1") == 1


def test_damage_in_what_is_new_is_found(site: Site) -> None:
    site.record("v1")
    assert seq_of(site.host("a"), "v1") == 1
    site.record("v2", "v3")
    slot = site.root / layout.slot(layout.model_subject(MODEL), 2)
    slot.write_bytes(slot.read_bytes().replace(b"v2", b"v9"))
    with pytest.raises(DamagedLog, match=r"record [23] of model digits is damaged"):
        find_recorded(site.host("a"), MODEL, VersionName("v1"))
