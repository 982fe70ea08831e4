"""The race probe: it accepts what is exclusive, refuses what only claims to be, and leaves nothing behind."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from clipperfs import Registry, initialise, layout
from clipperfs.collect import STAGING_AGE_S, collect
from clipperfs.documents import ProbeReport, parse_document
from clipperfs.errors import Conflict, StorageDenied, StorageError, StorageUnavailable, UnsafeStorage
from clipperfs.limits import LIMITS
from clipperfs.probe.plan import QUICK
from clipperfs.probe.run import probe, store_report
from clipperfs.store import open_store
from clipperfs.testing import unsafe_store

PLAN = replace(QUICK, rounds=6, folder_rounds=2, single_calls=4)
UNSAFE = "clipperfs.testing.unsafe_store"


def failed(report: ProbeReport) -> set[str]:
    """Return the names of the checks that failed."""
    return {check.name for check in report.checks if check.outcome == "failed"}


def probe_unsafe(name: str, folder: Path) -> ProbeReport:
    """Probe one of the stores that claim too much."""
    store = getattr(unsafe_store, name)(f"file://{folder}")
    return probe(store, PLAN, actor="test", opener=f"{UNSAFE}:{name}")


def test_local_filesystem_is_exclusive_and_nothing_is_left(tmp_path: Path) -> None:
    store = open_store(tmp_path / "r")
    report = probe(store, PLAN, actor="ana@host")
    assert report.exclusive and failed(report) == set()
    assert report.winners == {"1": PLAN.rounds} and report.rounds == PLAN.rounds
    assert report.latency["contested create"].calls == PLAN.rounds * PLAN.writers
    assert list(store.walk(layout.PROBES)) == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("open_check_then_act", "one winner"),
        ("open_shows_parts", "whole content"),
        ("open_last_wins", "the winner's content stays"),
        ("open_nests_folders", "exclusive rename of a folder"),
        ("open_forgetful", "read after write"),
    ],
)
def test_store_that_claims_too_much_is_found_out(name: str, found: str, tmp_path: Path) -> None:
    report = probe_unsafe(name, tmp_path / "r")
    assert not report.exclusive
    assert found in failed(report)


def test_report_is_kept_and_can_be_read(tmp_path: Path) -> None:
    registry = Registry.init(tmp_path / "r", probe="quick", cache_dir=tmp_path / "c")
    [entry] = registry.store.list(layout.PROBES)
    assert layout.is_probe_report(entry.name)
    data = registry.store.read(f"{layout.PROBES}/{entry.name}", limit_bytes=LIMITS.probe_bytes)
    assert data is not None
    assert parse_document(ProbeReport, data, limit_bytes=LIMITS.probe_bytes).exclusive


@pytest.fixture
def unsafe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let registries lie on a filesystem that looks first and writes then, and let init not trust it."""
    opener = functools.partial(probe, opener=f"{UNSAFE}:open_check_then_act")
    monkeypatch.setattr(initialise, "probe", opener)
    monkeypatch.setattr(initialise, "needed_effort", lambda store: "quick")
    monkeypatch.setattr(
        importlib.import_module("clipperfs.registry"),
        "open_store",
        lambda url: unsafe_store.open_check_then_act(str(url)),
    )


@pytest.mark.usefixtures("unsafe")
def test_init_refuses_a_filesystem_on_which_several_win_and_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnsafeStorage) as caught:
        Registry.init(tmp_path / "r", cache_dir=tmp_path / "c")
    assert "more than one of 8 writers won" in caught.value.message
    assert "--single-writer" in (caught.value.hint or "")
    assert [path for path in (tmp_path / "r").rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("unsafe")
def test_init_for_a_single_writer_takes_it_and_says_so_in_the_registry(tmp_path: Path) -> None:
    registry = Registry.init(tmp_path / "r", single_writer=True, cache_dir=tmp_path / "c")
    assert registry.describe().required_features == ["single-writer"]
    again = Registry.init(tmp_path / "r", single_writer=True, cache_dir=tmp_path / "c")
    assert again.describe() == registry.describe()


def test_declaration_comes_with_the_creation_or_never(tmp_path: Path) -> None:
    Registry.init(tmp_path / "r", cache_dir=tmp_path / "c")
    with pytest.raises(Conflict, match="any number of writers"):
        Registry.init(tmp_path / "r", single_writer=True, cache_dir=tmp_path / "c")


def test_writer_of_a_declared_registry_is_reminded_once_and_a_reader_never(tmp_path: Path) -> None:
    from clipperfs.reporter import Reporter

    said: list[str] = []

    class Listening(Reporter):
        def note(self, message: str) -> None:
            said.append(message)

    def opened() -> Registry:
        return Registry(tmp_path / "r", cache_dir=tmp_path / "c", reporter=Listening())

    Registry.init(tmp_path / "r", single_writer=True, cache_dir=tmp_path / "c")
    registry = opened()
    registry.models()
    assert said == []
    registry.app_register("a", input_type="ints", default_output="0", slo_us=1000)
    registry.app_delete("a")
    assert len(said) == 1 and "single-writer" in said[0]
    opened().collect()
    assert len(said) == 2


@pytest.mark.parametrize("kind", [StorageDenied, StorageUnavailable])
def test_no_right_to_write_and_no_bucket_are_said_and_not_judged(
    kind: type[StorageError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "r")

    def refuse(key: str, data: bytes) -> bool:
        raise kind("no", hint="ask")

    monkeypatch.setattr(store, "create", refuse)
    with pytest.raises(kind):
        probe(store, PLAN, actor="test")


def test_call_that_fails_for_a_single_process_is_not_raced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "r")

    def fail(key: str, data: bytes) -> bool:
        raise StorageError("501 not implemented")

    monkeypatch.setattr(store, "create", fail)
    report = probe(store, PLAN, actor="test")
    assert not report.exclusive and report.rounds == 0
    assert [check.detail for check in report.checks if check.outcome == "failed"] == ["501 not implemented"]
    assert report.errors == {"StorageError": 1}


def test_racer_that_cannot_open_the_store_ends_the_probe_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no_such_function"):
        probe(open_store(tmp_path / "r"), PLAN, actor="test", opener=f"{UNSAFE}:no_such_function")


def test_racer_that_hangs_is_not_waited_for_longer_than_the_plan_says(tmp_path: Path) -> None:
    began_s = time.monotonic()
    with pytest.raises(StorageUnavailable, match="no answer within 1 s"):
        probe(
            open_store(tmp_path / "r"),
            replace(PLAN, start_timeout_s=1.0),
            actor="test",
            opener=f"{UNSAFE}:open_hanging",
        )
    assert time.monotonic() - began_s < 20


def test_interrupt_leaves_neither_processes_nor_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clipperfs.cli", "init", str(tmp_path / "r"), "--probe", "full"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline_s = time.monotonic() + 60
    while not list((tmp_path / "r" / "probe").glob("*/files/*")) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [path for path in (tmp_path / "r").rglob("*") if path.is_file()] == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_leftovers_of_a_killed_probe_are_collected_when_they_are_old_and_reports_stay(tmp_path: Path) -> None:
    registry = Registry.init(tmp_path / "r", cache_dir=tmp_path / "c")
    report = probe(registry.store, replace(PLAN, rounds=1, folder_rounds=1), actor="test")
    kept = store_report(registry.store, report)
    registry.store.create(f"{layout.probe_scratch('0123456789abcdef')}/files/00000000", b"left")
    young = collect(registry.workspace)
    assert young.stagings == [] and ("probe/0123456789abcdef", "a probe may still be going on") in young.kept
    old = collect(registry.workspace, now_unix_s=time.time() + STAGING_AGE_S + 10)
    assert old.stagings == ["probe/0123456789abcdef"] and old.freed_bytes == 4
    assert registry.store.stat(kept) is not None
    assert registry.store.stat("probe/0123456789abcdef") is None
