"""``clipperfs doctor``: every finding from the situation that calls for it, and the exit code that scripts see."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clipperfs import Registry, layout
from clipperfs.cli.root import clipperfs
from clipperfs.doctor import filesystem
from clipperfs.doctor.examine import Diagnosis, examine
from clipperfs.doctor.filesystem import Trial, clock, room_at
from clipperfs.documents import ProbeReport, canonical_bytes
from clipperfs.errors import StorageDenied, StorageUnavailable
from clipperfs.mount import Mount
from clipperfs.probe.run import store_report
from clipperfs.store.memory import MemoryStore

NFS = Mount("/mnt", "nfs4", is_read_only=False)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.init(tmp_path / "registry", cache_dir=tmp_path / "cache", actor="ana@host")


def doctor(registry: Registry, tmp_path: Path, effort: Any = None) -> dict[str, tuple[str, str]]:
    """Return subject → (level, message); of several findings about one subject, the worst."""
    found = examine(registry.workspace, effort, state_dir=tmp_path / "state")
    assert isinstance(found, Diagnosis)
    order = ("ok", "note", "warning", "unsafe")
    findings = sorted(found.findings, key=lambda finding: order.index(finding.level))
    return {finding.subject: (finding.level, finding.message) for finding in findings}


def report(**changes: Any) -> ProbeReport:
    """Return a report of a probe that went well."""
    given: dict[str, Any] = {
        "store_class": "posix",
        "plan": "full",
        "software": "s",
        "host": "h",
        "actor": "a",
        "time": "t",
        "duration_s": 1.0,
        "processes": 8,
        "rounds": 64,
        "winners": {"1": 64},
        "exclusive": True,
        "checks": [],
    }
    return ProbeReport.model_validate({**given, **changes})


def test_healthy_local_registry_has_nothing_but_notes_and_nothing_stays(registry: Registry, tmp_path: Path) -> None:
    registry.app_register("a", input_type="ints", default_output="0", slo_us=1000)
    before = sorted(path for path in (tmp_path / "registry").rglob("*") if path.is_file())
    found = doctor(registry, tmp_path)
    assert {level for level, _ in found.values()} <= {"ok", "note"}
    assert {"place", "registry", "rights", "clock", "writers", "durability", "watching", "room", "cache"} <= set(found)
    assert sorted(path for path in (tmp_path / "registry").rglob("*") if path.is_file()) == before


def test_no_registry_is_a_warning_and_nothing_is_written(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "none", cache_dir=tmp_path / "cache")
    assert doctor(registry, tmp_path)["registry"] == ("warning", "there is no registry here")
    assert not (tmp_path / "none").exists()


def test_damaged_registry_is_told_and_left_alone(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "registry/registry.json").write_text("{")
    found = doctor(Registry(tmp_path / "registry", cache_dir=tmp_path / "c"), tmp_path)
    assert found["registry"][0] == "warning" and "damaged" in found["registry"][1]
    assert "rights" not in found


def test_filesystem_that_does_not_answer_is_told_and_the_host_is_still_looked_at(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(key: str, *, limit_bytes: int) -> bytes:
        raise StorageUnavailable("connection refused", hint="check the mount")

    again = Registry(tmp_path / "registry", cache_dir=tmp_path / "cache")
    monkeypatch.setattr(again.store, "read", fail)
    found = doctor(again, tmp_path)
    assert found["registry"] == ("warning", "it cannot be read: connection refused")
    assert found["hooks"][0] == "ok" and found["cache"][0] == "ok"


def test_missing_right_names_the_folder(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.store.create("models/digits/log/x", b"1")
    create = registry.store.create

    def refuse(key: str, data: bytes) -> bool:
        if key.startswith("models/digits/log/"):
            raise StorageDenied("no", hint="ask the owner")
        return create(key, data)

    monkeypatch.setattr(registry.store, "create", refuse)
    level, message = doctor(registry, tmp_path)["rights"]
    assert level == "warning" and "models/digits/log" in message and "1 of 3" in message


@pytest.mark.root
def test_read_only_folder_is_a_warning_for_an_ordinary_user(registry: Registry, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    pid = os.fork()
    if pid == 0:  # the child becomes nobody, and says by its exit code what the doctor said
        code = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            again = Registry(tmp_path / "registry", cache_dir=tmp_path / "none" / "cache")
            found = doctor(again, tmp_path)
            code = 0 if (found["rights"][0], found["cache"][0]) == ("warning", "warning") else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_network_mount_that_was_never_tried_is_probed_and_then_trusted(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "find_mount", lambda path: NFS)
    assert doctor(registry, tmp_path, "skip")["writers"][0] == "warning"
    found = doctor(registry, tmp_path, "quick")
    assert found["writers"][0] == "ok" and "12 rounds of 8 processes" in found["writers"][1]
    assert found["watching"][0] == "note" and "nfs4" in found["watching"][1]
    assert doctor(registry, tmp_path)["writers"] == found["writers"]  # by the report that was kept


def test_report_of_several_winners_is_unsafe_and_the_newest_counts(registry: Registry, tmp_path: Path) -> None:
    check = {"name": "one winner", "outcome": "failed", "detail": "13 of 16 won"}
    store_report(registry.store, report(exclusive=False, winners={"13": 64}, checks=[check]))
    level, message = doctor(registry, tmp_path)["writers"]
    assert level == "unsafe" and "13 of 16 won" in message
    time.sleep(0.002)
    store_report(registry.store, report())
    assert doctor(registry, tmp_path)["writers"][0] == "ok"


def test_report_that_cannot_be_read_is_passed_over(registry: Registry, tmp_path: Path) -> None:
    registry.store.create(layout.probe_report(1, "0" * 8), b"{")
    assert doctor(registry, tmp_path)["writers"][0] == "ok"


def test_declared_single_writer_is_a_warning(tmp_path: Path) -> None:
    registry = Registry.init(tmp_path / "r", single_writer=True, cache_dir=tmp_path / "c")
    level, message = doctor(registry, tmp_path)["writers"]
    assert level == "warning" and "one writer at a time" in message


def test_memory_and_tmpfs_are_not_durable(monkeypatch: pytest.MonkeyPatch, registry: Registry) -> None:
    assert filesystem.durability(MemoryStore()).level == "warning"
    monkeypatch.setattr(filesystem, "find_mount", lambda path: Mount("/tmp", "tmpfs", is_read_only=False))
    assert "the host restarts" in filesystem.durability(registry.store).message


def test_clock_that_differs_is_a_warning() -> None:
    assert clock(Trial(1000.0, 1000.1, 1000.05)).level == "ok"
    for other_s in (900.0, 1100.0):
        found = clock(Trial(1000.0, 1000.1, other_s))
        assert found.level == "warning" and "100 s" in found.message


@pytest.mark.root
def test_little_room_is_a_warning(small_disk: Path) -> None:
    assert room_at("room", small_disk / "not" / "there", "publishing").level == "warning"


@pytest.mark.parametrize(
    ("kept", "exits"),
    [(None, 0), (report(), 0), (report(exclusive=False, winners={"2": 64}), 5)],
    ids=["never probed", "one winner", "two winners"],
)
def test_exit_code_says_whether_it_is_safe(
    registry: Registry, tmp_path: Path, kept: ProbeReport | None, exits: int
) -> None:
    if kept is not None:
        registry.store.create(layout.probe_report(1, "0" * 8), canonical_bytes(kept))
    environment = {"CLIPPERFS_CACHE_DIR": str(tmp_path / "cache")}
    result = CliRunner().invoke(clipperfs, ["doctor", registry.url, "--json"], env=environment)
    assert result.exit_code == exits, result.output
    document = json.loads(result.stdout)
    assert document["level"] == ("unsafe" if exits else "note")
    text = CliRunner().invoke(clipperfs, ["doctor", registry.url], env=environment)
    assert text.exit_code == exits
    assert ("NOT SAFE" if exits else "all well") in text.stdout


def test_warnings_exit_eight(tmp_path: Path) -> None:
    result = CliRunner().invoke(clipperfs, ["doctor", str(tmp_path / "none")])
    assert result.exit_code == 8
    assert "clipperfs init file://" in result.stdout
