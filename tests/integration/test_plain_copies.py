"""Plain copies are safe: whatever the order of arrival, half a version is incoming and never handed out."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.errors import Conflict, DamagedVersion, IncompleteVersion, InvalidDocument, NotFound
from clipperfs.source import write_manifest
from tests.integration.conftest import write_version


def place(registry: Registry, version: str = "1", model: str = "m") -> Path:
    return Path(registry.url.removeprefix("file://")) / "models" / model / "versions" / version


@pytest.mark.parametrize("seed", range(30))
def test_manifest_copy_in_any_order_is_incoming_until_whole(registry: Registry, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    source = write_version(tmp_path / "source", chance.randbytes(5000))
    for number in range(4):
        (source / f"part-{number}.bin").write_bytes(chance.randbytes(chance.randrange(0, 3000)))
    write_manifest(source, wrapper=None, actor="ci")
    goal = place(registry)
    pieces = []
    for path in source.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            cut = chance.randrange(0, len(data) + 1)
            pieces += [(path, data[:cut]), (path, data[cut:])]
    chance.shuffle(pieces)
    done: dict[Path, bytes] = {}
    for path, piece in pieces:
        target = goal / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        # a writer with several streams: pieces of one file arrive in order, those of others between them
        whole = path.read_bytes()
        done[path] = done.get(path, b"") + piece if whole.startswith(done.get(path, b"") + piece) else whole
        target.write_bytes(done[path])
        is_whole = all(
            (goal / one.relative_to(source)).is_file()
            and (goal / one.relative_to(source)).read_bytes() == one.read_bytes()
            for one in source.rglob("*")
            if one.is_file()
        )
        view = registry.show_version("m", "1")
        if is_whole:
            assert view.state == "complete", view
        else:
            assert view.state == "incoming" and view.missing, view
            with pytest.raises(IncompleteVersion):
                registry.materialise("m", "1")
            if (goal / "manifest.json").exists():  # before that, only a person can know that more is to come
                with pytest.raises(IncompleteVersion):
                    registry.seal("m", "1")
    assert registry.seal("m", "1").was_there
    with registry.materialise("m", "1").lease:
        pass


@pytest.mark.parametrize("tool", [["cp", "-r"], ["rsync", "-a"]])
def test_copy_with_a_manifest_by_a_real_tool_becomes_a_version(
    registry: Registry, folder: Path, tool: list[str]
) -> None:
    if shutil.which(tool[0]) is None:
        pytest.skip(f"{tool[0]} is not installed")
    write_manifest(folder, wrapper=None, actor="ci")
    goal = place(registry)
    goal.parent.mkdir(parents=True)
    subprocess.run(
        [*tool, f"{folder}/", str(goal)] if tool[0] == "rsync" else [*tool, str(folder), str(goal)], check=True
    )
    assert registry.show_version("m", "1").state == "complete"
    sealed = registry.seal("m", "1")
    assert sealed.was_there and sealed.record.op == "adopt"
    assert registry.verify().ok


def test_same_size_but_other_bytes_is_never_handed_out(registry: Registry, folder: Path) -> None:
    write_manifest(folder, wrapper=None, actor="ci")
    goal = place(registry)
    shutil.copytree(folder, goal)
    (goal / "weights.bin").write_bytes(b"WEIGHTS")
    assert registry.show_version("m", "1").state == "complete"  # sizes agree; only the digests can tell
    with pytest.raises(DamagedVersion, match=r"weights\.bin"):
        registry.materialise("m", "1")
    assert not registry.verify().ok


def test_copy_without_a_manifest_is_incoming_until_sealed(registry: Registry, folder: Path) -> None:
    shutil.copytree(folder, place(registry))
    view = registry.show_version("m", "1")
    assert view.state == "incoming" and view.missing == ["manifest.json"]
    with pytest.raises(IncompleteVersion, match=r"manifest\.json") as caught:
        registry.materialise("m", "1")
    assert "clipperfs seal m 1" in (caught.value.hint or "")
    sealed = registry.seal("m", "1")
    assert not sealed.was_there
    assert {entry.path for entry in registry.show_version("m", "1").manifest.files} == {  # type: ignore[union-attr]
        "weights.bin",
        "sub/more.txt",
        "model.yaml",
    }
    assert registry.seal("m", "1").record.seq == sealed.record.seq, "sealing again records nothing"


@pytest.mark.parametrize("marker", ["READY", "_SUCCESS"])
def test_marker_is_seen_and_is_not_payload(registry: Registry, folder: Path, marker: str) -> None:
    (folder / marker).touch()
    shutil.copytree(folder, place(registry))
    assert registry.show_version("m", "1").marker == marker
    registry.seal("m", "1")
    view = registry.show_version("m", "1")
    assert view.state == "complete" and not view.extra


def test_writer_that_goes_on_while_sealing_is_noticed(registry: Registry, folder: Path) -> None:
    goal = place(registry)
    shutil.copytree(folder, goal)
    inner = registry.store.open
    opened: list[str] = []

    def slow_open(key: str) -> object:
        if not opened:
            (goal / "late.bin").write_bytes(b"late")
        opened.append(key)
        return inner(key)

    registry.store.open = slow_open  # type: ignore[assignment, method-assign]
    with pytest.raises(IncompleteVersion, match="changed while"):
        registry.seal("m", "1")
    assert registry.show_version("m", "1").manifest is None


@pytest.mark.parametrize("what", ["link", "folder link", "fifo"])
def test_link_or_special_file_in_a_copy_is_refused(registry: Registry, folder: Path, what: str) -> None:
    import os

    goal = place(registry)
    shutil.copytree(folder, goal)
    if what == "link":
        (goal / "x").symlink_to("/etc/hostname")
    elif what == "folder link":
        (goal / "x").symlink_to("/etc")
    else:
        os.mkfifo(goal / "x")
    assert registry.show_version("m", "1").state == "broken"
    with pytest.raises(DamagedVersion, match="x is a"):
        registry.seal("m", "1")


def test_link_put_in_place_of_a_listed_file_is_refused(registry: Registry, folder: Path, tmp_path: Path) -> None:
    registry.publish("m", "1", folder)
    other = tmp_path / "other"
    other.write_bytes(b"weights")
    target = place(registry) / "weights.bin"
    target.unlink()
    target.symlink_to(other)
    assert registry.show_version("m", "1").state == "broken"
    with pytest.raises(DamagedVersion):
        registry.materialise("m", "1")


def test_invalid_model_yaml_in_a_copy_names_the_field(registry: Registry, folder: Path) -> None:
    (folder / "model.yaml").write_text("wrapper: noop\ninput_typ: doubles\n")
    shutil.copytree(folder, place(registry))
    with pytest.raises(InvalidDocument, match="input_typ"):
        registry.seal("m", "1")


def test_names_that_break_the_grammar_are_shown_as_ignored(registry: Registry, folder: Path) -> None:
    for name in ("UPPER", "with space", "..hidden", "con"):
        shutil.copytree(folder, place(registry, name))
    registry.publish("m", "good", folder)
    view = registry.show("m")
    assert [version.version for version in view.versions] == ["good"]
    assert len(view.ignored) == 4
    shutil.copytree(folder, place(registry, "1", model="Bad Model"))
    assert registry.models() == ["m"]


def test_publishing_over_a_copy_that_is_going_on_is_a_conflict(registry: Registry, folder: Path) -> None:
    goal = place(registry)
    goal.mkdir(parents=True)
    (goal / "weights.bin").write_bytes(b"wei")
    with pytest.raises(Conflict, match="without a manifest"):
        registry.publish("m", "1", folder)
    assert (goal / "weights.bin").read_bytes() == b"wei"


def test_empty_folder_is_no_version(registry: Registry) -> None:
    place(registry).mkdir(parents=True)
    with pytest.raises(NotFound):
        registry.show_version("m", "1")
