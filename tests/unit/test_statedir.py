"""A daemon's own folders: one holder, whole files, sockets in a folder that is ours alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from clipperfs.serverd.statedir import StateDir, make_runtime_dir

from clipperfs.daemon_files import (
    MAX_SOCKET_PATH_BYTES,
    DaemonDocument,
    default_state_dir,
    is_locked,
    read_daemon,
    running_daemon,
    runtime_dir,
    start_ticks,
)
from clipperfs.errors import DaemonAlreadyRunning, StorageDenied, StorageError


def document(**changes: object) -> DaemonDocument:
    fields: dict[str, object] = {
        "pid": os.getpid(),
        "started_ticks": start_ticks(os.getpid()),
        "started": "now",
        "host": "127.0.0.1",
        "port": 1337,
        "admin_port": None,
        "admin_socket": "/nowhere",
        "registry": "file:///nowhere",
    }
    return DaemonDocument(**{**fields, **changes})  # type: ignore[arg-type]


def test_second_holder_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    first = StateDir(tmp_path / "state")
    first.acquire()
    assert is_locked(first.path)
    first.write_daemon(document(port=4711))
    with pytest.raises(DaemonAlreadyRunning, match="4711"):
        StateDir(first.path).acquire()
    found = running_daemon(first.path)
    assert found is not None and found.port == 4711
    first.release()
    assert not is_locked(first.path)
    assert running_daemon(first.path) is None
    second = StateDir(first.path)
    second.acquire()
    second.release()


def test_document_of_another_process_with_the_same_id_counts_for_nothing(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.acquire()
    state.write_daemon(document(started_ticks=1))
    assert read_daemon(tmp_path) is None
    (tmp_path / "daemon.json").write_text("half a docu")
    assert read_daemon(tmp_path) is None
    state.release()


def test_written_file_is_whole_and_private(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.acquire()
    state.write("desired.json", b"one")
    state.write("desired.json", b"two")
    assert state.read("desired.json") == b"two"
    assert state.read("absent") is None
    assert stat.S_IMODE((state.path / "desired.json").stat().st_mode) == 0o600
    assert sorted(path.name for path in state.path.iterdir()) == ["desired.json", "lock", "logs"]
    state.release()


def test_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        StateDir(tmp_path / "file" / "state").acquire()


def test_runtime_folder_is_made_anew_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir(mode=0o755)
    (path / "stale.ipc").touch()
    make_runtime_dir(path)
    assert list(path.iterdir()) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_runtime_folder_that_is_a_link_is_refused_and_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "precious").touch()
    (tmp_path / "run").symlink_to(target)
    with pytest.raises(StorageDenied, match="not a folder of ours"):
        make_runtime_dir(tmp_path / "run")
    assert (target / "precious").exists()


@pytest.mark.root
def test_runtime_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 65534, 65534)
    with pytest.raises(StorageDenied):
        make_runtime_dir(tmp_path / "run")


def test_socket_paths_fit_the_kernels_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    assert len(os.fsencode(runtime_dir(tmp_path) / "f255.ipc")) <= MAX_SOCKET_PATH_BYTES


def test_each_registry_has_a_state_folder_of_its_own(tmp_path: Path) -> None:
    assert default_state_dir(str(tmp_path / "a")) == default_state_dir(f"file://{tmp_path}/a")
    assert default_state_dir(str(tmp_path / "a")) != default_state_dir(str(tmp_path / "b"))
