"""Where the tour may write: below an address of its own, never in somebody's registry."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from clipperfs import Registry, demo
from clipperfs.cli.root import clipperfs
from clipperfs.errors import InvalidSetting, StorageUnavailable
from clipperfs.names import ModelName, VersionName
from clipperfs.source import write_manifest
from clipperfs.store import canonical_url, open_store


@pytest.mark.parametrize("below", ["", "/tours", "/models/digits/versions"])
def test_address_in_a_registry_is_refused(tmp_path: Path, below: str) -> None:
    Registry.init(tmp_path / "registry", cache_dir=tmp_path / "cache")
    with pytest.raises(InvalidSetting, match="registry is a registry"):
        demo.refuse_others_registry(canonical_url(f"{tmp_path}/registry{below}"))
    demo.refuse_others_registry(canonical_url(f"{tmp_path}/beside"))


def test_plain_copy_to_a_store_without_folders_is_whole(tmp_path: Path) -> None:
    registry = Registry.init("memory://tour", cache_dir=tmp_path / "cache")
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "model.yaml").write_text("wrapper: noop\n")
    (source / "sub" / "weights").write_text("x")
    write_manifest(source, wrapper=None, actor="me")
    assert "the manifest first" in demo.copy_plainly(registry, source, ModelName("m"), VersionName("1"))
    assert registry.show_version("m", "1").state == "complete"


def test_registry_of_the_environment_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    def record(place: Path | None, *, say: object, url: str | None) -> int:
        given.append(url)
        return 0

    monkeypatch.setattr(demo, "main", record)
    environment = {"CLIPPERFS_REGISTRY": str(tmp_path / "precious")}
    for arguments in (["demo"], ["demo", "--registry", str(tmp_path)], ["--registry", str(tmp_path), "demo"]):
        assert CliRunner().invoke(clipperfs, arguments, env=environment).exit_code == 0
    assert given == [None, str(tmp_path), str(tmp_path)]


def test_what_cannot_be_removed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(self: object, prefix: str) -> None:
        raise StorageUnavailable("the server is away")

    monkeypatch.setattr(type(open_store(tmp_path)), "delete_folder", fail)
    said: list[str] = []
    demo._remove(canonical_url(tmp_path), "demo-1", said.append)
    assert said == [f"file://{tmp_path}/demo-1 could not be removed, and may be: the server is away"]
