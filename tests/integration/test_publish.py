"""Publishing a folder: what is taken, what is refused, and what a full disk or an interruption leaves behind."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from clipperfs import Registry, layout
from clipperfs.errors import (
    Conflict,
    InvalidDocument,
    InvalidName,
    InvalidSetting,
    InvalidSource,
    NotFound,
    StorageDenied,
    StorageFull,
)
from clipperfs.names import ModelName
from clipperfs.reporter import Reporter
from clipperfs.store.local import LocalStore
from clipperfs.testing.fault_store import Crashed
from tests.integration.conftest import write_version


def test_published_bytes_are_the_folders_bytes(registry: Registry, folder: Path) -> None:
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    published = registry.publish("m", "1", folder, reason="why")
    assert not published.was_there and published.record.op == "publish" and published.record.reason == "why"
    copy = registry.materialise("m", "1")
    with copy.lease:
        for path in folder.rglob("*"):
            if path.is_file():
                assert (copy.path / path.relative_to(folder)).read_bytes() == path.read_bytes()
        assert stat.S_IMODE((copy.path / "run.sh").stat().st_mode) == 0o555
        assert stat.S_IMODE((copy.path / "weights.bin").stat().st_mode) == 0o444


def test_single_file_is_a_version(registry: Registry, folder: Path) -> None:
    registry.publish("m", "1", folder / "weights.bin", wrapper="noop")
    manifest = registry.show_version("m", "1").manifest
    assert manifest is not None and [entry.path for entry in manifest.files] == ["weights.bin"]


def test_same_bytes_again_change_nothing(registry: Registry, folder: Path) -> None:
    first = registry.publish("m", "1", folder)
    again = registry.publish("m", "1", folder)
    assert again.was_there and again.record == first.record and again.manifest_digest == first.manifest_digest


def test_other_bytes_under_the_same_name_are_a_conflict(registry: Registry, folder: Path) -> None:
    registry.publish("m", "1", folder)
    (folder / "weights.bin").write_bytes(b"others!")
    with pytest.raises(Conflict, match="other content"):
        registry.publish("m", "1", folder)
    with registry.materialise("m", "1").lease:
        pass


@pytest.mark.parametrize("what", ["link", "folder link", "fifo", "dangling"])
def test_link_or_special_file_is_refused_before_anything_is_written(
    registry: Registry, folder: Path, what: str
) -> None:
    target = folder / "sub" / "odd"
    if what == "fifo":
        os.mkfifo(target)
    else:
        target.symlink_to({"link": "/etc/hostname", "folder link": "/etc", "dangling": "/nowhere"}[what])
    with pytest.raises(InvalidSource, match="sub/odd"):
        registry.publish("m", "1", folder)
    assert registry.models() == []


@pytest.mark.parametrize("source", ["absent", "empty"])
def test_source_without_files_is_refused(registry: Registry, tmp_path: Path, source: str) -> None:
    if source == "empty":
        (tmp_path / source).mkdir()
    with pytest.raises(InvalidSource):
        registry.publish("m", "1", tmp_path / source, wrapper="noop")


@pytest.mark.parametrize("name", ["../x", "A", "a/b", "", "con", "a..b", "x" * 64, ".hidden"])
def test_name_that_escapes_or_collides_is_refused(registry: Registry, folder: Path, name: str) -> None:
    for names in ((name, "1"), ("m", name)):
        with pytest.raises(InvalidName):
            registry.publish(*names, folder)
    assert registry.models() == []


def test_path_that_a_version_may_not_hold_is_refused(registry: Registry, folder: Path) -> None:
    (folder / "back\\slash").write_text("x")
    with pytest.raises(InvalidSource, match="backslash"):
        registry.publish("m", "1", folder)


def test_two_files_that_differ_only_in_case_are_refused(registry: Registry, folder: Path) -> None:
    (folder / "WEIGHTS.bin").write_text("x")
    with pytest.raises(InvalidSource, match="case"):
        registry.publish("m", "1", folder)


def test_typo_in_model_yaml_names_the_field(registry: Registry, folder: Path) -> None:
    (folder / "model.yaml").write_text("wraper: noop\n")
    with pytest.raises(InvalidDocument, match="wraper"):
        registry.publish("m", "1", folder)


def test_registry_that_is_not_there_says_how_to_make_one(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(NotFound) as caught:
        Registry(tmp_path / "nothing").publish("m", "1", folder)
    assert "clipperfs init" in (caught.value.hint or "")
    assert not (tmp_path / "nothing").exists()


def test_progress_adds_up_to_the_size(registry: Registry, folder: Path) -> None:
    class Counting(Reporter):
        total = done = 0

        def begin(self, action: str, total_bytes: int) -> None:
            self.total += total_bytes

        def advance(self, size_bytes: int) -> None:
            self.done += size_bytes

    counting = Counting()
    registry.workspace.reporter = counting
    published = registry.publish("m", "1", folder)
    assert counting.total == counting.done == published.size_bytes


@pytest.mark.root
def test_full_disk_leaves_nothing_visible_and_a_rerun_completes(small_disk: Path, tmp_path: Path) -> None:
    registry = Registry.init(small_disk / "registry", cache_dir=tmp_path / "cache")
    source = write_version(tmp_path / "big", os.urandom(400_000))
    with pytest.raises(StorageFull) as caught:
        registry.publish("m", "1", source)
    assert "nothing was lost" in (caught.value.hint or "")
    assert list(LocalStore(small_disk / "registry").walk("models")) == []
    (source / "weights.bin").write_bytes(b"smaller")
    assert registry.publish("m", "1", source).record.seq == 1


@pytest.mark.root
def test_full_cache_disk_is_told_apart_from_the_registry(small_disk: Path, tmp_path: Path) -> None:
    registry = Registry.init(tmp_path / "registry", cache_dir=small_disk / "cache")
    registry.publish("m", "1", write_version(tmp_path / "big", os.urandom(400_000)))
    with pytest.raises(StorageFull, match="fetch"):
        registry.materialise("m", "1")
    assert list((small_disk / "cache" / "blobs" / "sha256").glob(".part-*")) == []


def test_denied_write_names_the_folder(registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", deny)
    with pytest.raises(StorageDenied, match="models/m/versions"):
        registry.publish("m", "1", folder)


class DyingSystem:
    """The operating system, until the nth call that changes something: then the process is gone."""

    NAMES = ("mkdir", "link", "unlink", "rename", "write", "fsync")

    def __init__(self, at: int) -> None:
        self.at = at
        self.calls: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._dying(name, getattr(os, name)))

    def _dying(self, name: str, call: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            if self.at and len(self.calls) >= self.at:
                raise Crashed(f"{name} number {len(self.calls)}")
            return call(*args, **options)

        return wrapped


def test_death_at_every_system_call_of_a_publish_leaves_nothing_or_all(folder: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        system = DyingSystem(0)
        registry = Registry.init(tmp_path / "probe", cache_dir=tmp_path / "cache")
        system.install(patch)
        registry.publish("m", "1", folder)
        count = len(system.calls)
    assert count > 20
    seen = set()
    for at in range(1, count + 1):
        root = tmp_path / f"registry-{at}"
        registry = Registry.init(root, cache_dir=tmp_path / "cache")
        with pytest.MonkeyPatch.context() as patch:
            DyingSystem(at).install(patch)
            with pytest.raises(Crashed):
                registry.publish("m", "1", folder)
        reader = Registry(root, cache_dir=tmp_path / "cache")
        names = [entry.name for entry in reader.store.list(layout.versions(ModelName("m")))]
        visible = [name for name in names if not name.startswith(".")]
        assert visible in ([], ["1"])
        if visible:
            assert reader.show_version("m", "1").state == "complete"
        assert reader.verify().ok, f"call {at}"
        seen.add((bool(visible), reader.head("m") is not None))
        assert reader.publish("m", "1", folder).record.seq == 1
        assert reader.verify().ok
    assert seen == {(False, False), (True, False), (True, True)}


def test_value_that_a_record_cannot_hold_is_refused_and_named(registry: Registry, folder: Path) -> None:
    nan = {"hooks": [{"latency": {"p99_ms": float("nan")}}]}
    with pytest.raises(InvalidSetting, match="cannot hold"):
        registry.policy("m", nan)
    for reason in ("x" * 1001, "\ud800"):
        with pytest.raises(InvalidSetting, match="reason"):
            registry.policy("m", {"replicas": 2}, reason=reason)
    with pytest.raises(InvalidSetting, match="cannot hold"):
        registry.app_register("a", input_type="ints", default_output="\ud800", slo_us=1000)
    with pytest.raises(InvalidSetting, match="wrapper"):
        registry.publish("m", "1", folder, wrapper="")
    assert registry.head("m") is None
