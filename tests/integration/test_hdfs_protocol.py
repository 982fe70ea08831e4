"""The HDFS store's protocol over a client in memory that answers as a NameNode does, and fails on demand."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.errors import StorageDenied, StorageError, StorageUnavailable
from clipperfs.store import Store, open_store
from clipperfs.store.hdfs import HdfsStore
from clipperfs.store.hdfs_client import HdfsStream, Status, within
from clipperfs.testing.fault_proxy import FaultProxy, Mode
from clipperfs.testing.store_suite import StoreSuite
from tests.integration.conftest import write_version


class NameNode:
    """Files and folders under one lock, with HDFS's rules; ``at_rename`` is called before or after a rename."""

    durable = True

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._files: dict[str, tuple[bytes, int, int]] = {}
        self._folders = {""}
        self._clock = 0
        self.before_rename: Callable[[], None] = lambda: None
        self.after_rename: Callable[[], None] = lambda: None

    def status(self, path: str) -> Status | None:
        with self._lock:
            name = path.rpartition("/")[2]
            if path in self._folders:
                return Status(name, True, 0, 0o755, 0)
            if path not in self._files:
                return None
            data, mode, number = self._files[path]
            return Status(name, False, len(data), mode, number, str(number))

    def list(self, path: str) -> list[Status]:
        with self._lock:
            if path in self._files:
                raise NotADirectoryError(path)
            if path not in self._folders:
                raise FileNotFoundError(path)
            found = [self.status(one) for one in [*self._files, *self._folders] if one.rpartition("/")[0] == path]
            return [one for one in found if one is not None and one.name]

    def make_folder(self, path: str) -> None:
        with self._lock:
            if path in self._files:
                raise FileExistsError(path)
            while path:
                self._folders.add(path)
                path = path.rpartition("/")[0]

    def write(self, path: str, pieces: Iterable[bytes], *, mode: int, overwrite: bool) -> None:
        data = b"".join(pieces)
        with self._lock:
            if path in self._folders or (path in self._files and not overwrite):
                raise FileExistsError(path)
            self.make_folder(path.rpartition("/")[0])
            self._clock += 1
            self._files[path] = (data, mode, self._clock)

    def rename(self, source: str, target: str, *, overwrite: bool) -> None:
        self.before_rename()
        with self._lock:
            if self.status(source) is None:
                raise FileNotFoundError(source)
            if target in self._folders or (target in self._files and not overwrite):
                raise FileExistsError(target)
            if target.rpartition("/")[0] not in self._folders:
                raise FileNotFoundError(target)
            for table in (self._files, dict.fromkeys(self._folders)):
                for path in [one for one in table if one == source or one.startswith(f"{source}/")]:
                    moved = target + path[len(source) :]
                    if table is self._files:
                        self._files[moved] = self._files.pop(path)
                    else:
                        self._folders.remove(path)
                        self._folders.add(moved)
        self.after_rename()

    def delete(self, path: str, *, recursive: bool) -> bool:
        with self._lock:
            inside = [one for one in [*self._files, *self._folders] if one.startswith(f"{path}/")]
            if inside and not recursive:
                raise OSError(errno.ENOTEMPTY, path)
            was_there = self.status(path) is not None
            for one in [path, *inside]:
                self._files.pop(one, None)
                self._folders.discard(one)
            return was_there

    def open(self, path: str, *, start: int = 0, length: int | None = None) -> HdfsStream:
        with self._lock:
            if path not in self._files:
                raise FileNotFoundError(path)
            rest = [self._files[path][0][start:][:length]]

        def pull(size: int) -> bytes:
            piece, rest[0] = rest[0][:size], rest[0][size:]
            return piece

        return HdfsStream(pull)


class TestHdfsStore(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return HdfsStore("hdfs://nowhere:1/registry", NameNode())


@pytest.fixture
def node() -> NameNode:
    return NameNode()


@pytest.fixture
def store(node: NameNode) -> HdfsStore:
    return HdfsStore("hdfs://nowhere:1/registry", node)


def fail(error: Exception) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


LOST = [StorageUnavailable("no answer"), FileNotFoundError(errno.ENOENT, "source is gone"), OSError(errno.EIO, "cut")]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_create_whose_answer_was_lost_is_won(node: NameNode, store: HdfsStore, error: Exception) -> None:
    node.after_rename = fail(error)
    assert store.create("log/1", b"mine") is True
    assert [entry.name for entry in store.list("log")] == ["1"]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_create_whose_request_was_lost_raises_and_can_never_land(
    node: NameNode, store: HdfsStore, error: Exception
) -> None:
    late: list[tuple[str, str]] = []
    rename = node.rename

    def keep(source: str, target: str, *, overwrite: bool) -> None:
        late.append((source, target))
        raise error

    node.rename = keep  # type: ignore[method-assign]
    with pytest.raises(StorageError):
        store.create("log/1", b"mine")
    [(source, target)] = late
    with pytest.raises(FileNotFoundError):
        rename(source, target, overwrite=False)
    assert list(store.list("log")) == []


def test_create_that_cannot_be_settled_says_so(node: NameNode, store: HdfsStore) -> None:
    node.before_rename = fail(StorageUnavailable("first"))
    node.delete = lambda path, *, recursive: fail(StorageUnavailable("second"))()  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(StorageUnavailable, match="first"):
        store.create("log/1", b"mine")


def test_create_lost_to_another_behind_a_lost_answer_is_lost(node: NameNode, store: HdfsStore) -> None:
    store.create("log/1", b"theirs")
    rename = node.rename

    def vanish(source: str, target: str, *, overwrite: bool) -> None:
        node.delete(source, recursive=False)
        raise StorageUnavailable("no answer")

    node.rename = vanish  # type: ignore[method-assign]
    assert store.create("log/1", b"mine") is False
    assert store.create("log/1", b"a longer one") is False
    node.rename = rename  # type: ignore[method-assign]
    assert store.read("log/1", limit_bytes=99) == b"theirs"


def test_write_that_arrives_cut_is_not_renamed(node: NameNode, store: HdfsStore) -> None:
    write = node.write

    def cut(path: str, pieces: Iterable[bytes], *, mode: int, overwrite: bool) -> None:
        write(path, [b"".join(pieces)[:-1]], mode=mode, overwrite=overwrite)

    node.write = cut  # type: ignore[method-assign]
    with pytest.raises(StorageUnavailable, match="arrived"):
        store.create("log/1", b"whole")
    assert list(store.list("log")) == []


def test_denied_write_is_not_mistaken_for_a_lost_answer(node: NameNode, store: HdfsStore) -> None:
    node.before_rename = fail(StorageDenied("not yours"))
    with pytest.raises(StorageDenied):
        store.create("log/1", b"mine")
    assert list(store.list("log")) == []


@pytest.mark.parametrize("key", ["../x", "a/../../x", "a//b", "/etc/passwd", "", "./a"])
def test_key_that_escapes_is_refused(store: HdfsStore, key: str) -> None:
    with pytest.raises(StorageError):
        store.create(key, b"x")


def test_call_that_hangs_ends_at_its_deadline() -> None:
    began_s = time.monotonic()
    with pytest.raises(StorageUnavailable, match=r"did not answer within 0\.2 s"):
        within(0.2, "look at it", lambda: time.sleep(2))
    assert time.monotonic() - began_s < 1.5


@pytest.mark.parametrize(("scheme", "package"), [("hdfs", "hdfs_native"), ("webhdfs", "hdfs")])
def test_server_that_never_answers_is_unavailable_in_time(
    scheme: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    for module in ("hdfs_rpc", "hdfs_web"):
        monkeypatch.setattr(f"clipperfs.store.{module}.CALL_S", 0.5)
    monkeypatch.setattr("clipperfs.store.hdfs.REPEAT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = open_store(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/r")
        began_s = time.monotonic()
        for call in (lambda: store.stat("a"), lambda: store.create("a", b"x"), lambda: list(store.list("a"))):
            with pytest.raises(StorageUnavailable):
                call()
        assert time.monotonic() - began_s < 15
    began_s = time.monotonic()
    with pytest.raises(StorageUnavailable):
        open_store(store.url).stat("a")
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("mode", ["500", "503", "reset"])
def test_trouble_of_a_gateway_is_no_lacking_right(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hdfs")
    monkeypatch.setattr("clipperfs.store.hdfs.REPEAT_S", 0.5)  # what is asked again, not for how long
    with FaultProxy("http://127.0.0.1:1") as gateway:  # nothing is ever asked of what is behind it
        gateway.meet(mode, times=1000)
        store = open_store(f"webhdfs://{gateway.url.removeprefix('http://')}/r")
        for call in (lambda: store.stat("a"), lambda: store.create("a", b"x"), lambda: list(store.list("a"))):
            with pytest.raises(StorageUnavailable):
                call()


def test_registry_on_it_publishes_activates_and_rolls_back(
    store: HdfsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipperfs.store.hdfs.hdfs_store", lambda url: store)
    registry = Registry.init(store.url, cache_dir=tmp_path / "cache", actor="test@here", probe="skip")
    for version in ("1", "2"):
        registry.publish("m", version, write_version(tmp_path / version, version.encode()))
        registry.activate("m", version)
    registry.rollback("m")
    assert registry.show("m").record.state.active.version == "1"  # type: ignore[union-attr]
    assert registry.verify().ok


def test_question_without_an_answer_is_asked_again_and_a_change_never(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Flaky:
        durable = True

        def status(self, path: str) -> Status | None:
            asked.append("status")
            if len(asked) < 3:
                raise StorageUnavailable("no answer")
            return None

        def list(self, path: str) -> list[Status]:
            asked.append("list")
            if len(asked) < 3:
                raise StorageUnavailable("no answer")
            return []

        def rename(self, source: str, target: str, *, overwrite: bool) -> None:
            asked.append("rename")
            raise StorageUnavailable("no answer")

        def make_folder(self, path: str) -> None:
            pass

    store = HdfsStore("hdfs://h/r", Flaky())  # type: ignore[arg-type]
    assert store.stat("a") is None
    asked.clear()
    assert list(store.list("a")) == []
    assert asked == ["list"] * 3
    asked.clear()
    with pytest.raises(StorageUnavailable):
        store.rename_folder("a", "b")
    assert asked == ["rename"]
    monkeypatch.setattr("clipperfs.store.hdfs.REPEAT_S", 0.2)
    monkeypatch.setattr(Flaky, "status", lambda self, path: (_ for _ in ()).throw(StorageUnavailable("never")))
    with pytest.raises(StorageUnavailable, match="never"):
        store.stat("a")
