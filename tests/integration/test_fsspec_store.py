"""Any other filesystem of fsspec: read by all, written by one declared writer, never waited for without end."""

from __future__ import annotations

import functools
import http.server
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from clipperfs import Registry
from clipperfs.documents import SINGLE_WRITER
from clipperfs.errors import (
    InvalidSetting,
    NotFound,
    StorageDenied,
    StorageUnavailable,
    StoredDataError,
    UnsafeStorage,
)
from clipperfs.store import Store, canonical_url, open_store
from clipperfs.store.deadline import Deadline
from clipperfs.store.fsspec_store import FsspecStore
from clipperfs.testing.store_suite import StoreSuite


class OtherMemory(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """fsspec's memory under a scheme of which clipperfs knows nothing."""

    protocol = "othermem"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        text: str = path if isinstance(path, str) else str(path)
        return "/" + text.removeprefix("othermem://").strip("/") if text.strip("/") else ""


fsspec.register_implementation("othermem", OtherMemory, clobber=True)


def fresh_url() -> str:
    """Return an address that no other test uses."""
    return f"othermem://{uuid.uuid4().hex}"


class TestFsspecStoreOfADeclaredWriter(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        store = FsspecStore(fresh_url())
        store.declare_single_writer()
        return store


def source(folder: Path) -> Path:
    """Return a folder to publish."""
    folder.mkdir()
    (folder / "model.yaml").write_text("wrapper: noop\ninput_type: doubles\nsample: [[1.0]]\n")
    (folder / "weights.bin").write_bytes(b"w" * 100_000)
    return folder


def test_undeclared_store_reads_and_refuses_every_write(tmp_path: Path) -> None:
    store = FsspecStore(fresh_url())
    assert store.read("a", limit_bytes=1) is None and list(store.list("a")) == []
    (tmp_path / "f").write_text("1")
    for write in (
        lambda: store.create("a", b"1"),
        lambda: store.replace("a", b"1"),
        lambda: store.upload(tmp_path / "f", "a"),
        lambda: store.delete("a"),
        lambda: store.delete_folder("a"),
    ):
        with pytest.raises(StorageDenied, match="read-only") as caught:
            write()
        assert "--single-writer" in (caught.value.hint or "")


def test_init_without_a_declaration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeStorage, match="no way to create a file exclusively"):
        Registry.init(fresh_url(), cache_dir=tmp_path / "c")


def test_declared_registry_does_the_main_job_and_another_reader_may_write_by_the_same_declaration(
    tmp_path: Path,
) -> None:
    url = fresh_url()
    registry = Registry.init(url, single_writer=True, cache_dir=tmp_path / "c")
    registry.publish("digits", "1", source(tmp_path / "s"))
    again = Registry(url, cache_dir=tmp_path / "c2")
    assert SINGLE_WRITER in again.describe().required_features
    assert again.verify().ok
    with again.materialise("digits", "1").lease:
        pass
    again.retire("digits", "1")
    assert [record.op for record in registry.history("digits")] == ["retire", "publish"]


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("ftp://Host/x//y/", "ftp://host/x/y"),
        ("http://host:80/models", "http://host:80/models"),
        ("sftp://me@host/x", "sftp://me@host/x"),
    ],
)
def test_addresses_have_one_spelling(given: str, spelled: str) -> None:
    assert canonical_url(given) == spelled == canonical_url(spelled)
    assert open_store(given).url == spelled


@pytest.mark.parametrize(
    "address",
    [
        "nosuch://x",
        "zip://a.zip",
        "dir://x",
        "ftp://me:secret@host/x",
        "http://host/x?token=1",
        "http://host/x#y",
        "http://host/../x",
    ],
)
def test_address_that_cannot_be_meant_is_refused_and_no_secret_is_repeated(address: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        canonical_url(address)
    assert "secret" not in str(caught.value)


def test_registry_in_an_archive_is_readable(tmp_path: Path) -> None:
    local = Registry.init(tmp_path / "r", cache_dir=tmp_path / "c")
    local.publish("digits", "1", source(tmp_path / "s"))
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        for path in sorted((tmp_path / "r").rglob("*")):
            archive.write(path, path.relative_to(tmp_path))
    store = FsspecStore("zip://r", filesystem=fsspec.filesystem("zip", fo=str(tmp_path / "r.zip")), root="r")
    assert [entry.name for entry in store.list("models/digits/versions/1")] == [
        "manifest.json",
        "model.yaml",
        "weights.bin",
    ]
    assert store.read("registry.json", limit_bytes=1 << 16) == (tmp_path / "r/registry.json").read_bytes()
    with pytest.raises(StorageDenied):
        store.create("x", b"1")


class Pages(http.server.SimpleHTTPRequestHandler):
    """A web server over a folder; ``faults`` maps a path to the status with which it is answered."""

    faults: dict[str, int] = {}
    hangs: set[str] = set()
    released = threading.Event()

    def do_GET(self) -> None:
        if self.path in self.hangs:
            self.released.wait(30)
        if self.path in self.faults:
            self.send_error(self.faults[self.path])
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Registry, str, type[Pages]]]:
    """Serve a registry by http; yield it, its address and the server's settings."""
    local = Registry.init(tmp_path / "r", cache_dir=tmp_path / "c")
    local.publish("digits", "1", source(tmp_path / "s"))

    class Settings(Pages):
        faults: dict[str, int] = {}
        hangs: set[str] = set()
        released = threading.Event()

    settings = Settings
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(settings, directory=str(tmp_path)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield local, f"http://127.0.0.1:{server.server_address[1]}/r", settings
    finally:
        settings.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_registry_behind_a_web_server_is_readable_and_read_only(
    site: tuple[Registry, str, type[Pages]], tmp_path: Path
) -> None:
    local, url, _ = site
    registry = Registry(url, cache_dir=tmp_path / "c2")
    assert registry.models() == ["digits"]
    assert registry.show_version("digits", "1").state == "complete"
    assert registry.history("digits") == local.history("digits")
    assert registry.verify().ok
    with registry.materialise("digits", "1").lease as lease:
        assert lease is not None
    with pytest.raises(StorageDenied):
        registry.retire("digits", "1")
    with pytest.raises(NotFound):
        registry.show("none")


def test_web_server_that_fails_is_away_or_refuses_but_never_absent(
    site: tuple[Registry, str, type[Pages]],
) -> None:
    _, url, settings = site
    for status, expected in ((500, StorageUnavailable), (503, StorageUnavailable), (403, StorageDenied)):
        settings.faults["/r/registry.json"] = status
        for look in (
            lambda: FsspecStore(url).stat("registry.json"),
            lambda: FsspecStore(url).read("registry.json", limit_bytes=9),
        ):
            with pytest.raises(expected):
                look()
    settings.faults["/r/registry.json"] = 404
    assert FsspecStore(url).stat("registry.json") is None


def test_web_server_that_is_gone_is_away(tmp_path: Path) -> None:
    store = FsspecStore("http://127.0.0.1:9/r")
    for look in (
        lambda: store.stat("registry.json"),
        lambda: store.read("registry.json", limit_bytes=9),
        lambda: list(store.list("models")),
    ):
        with pytest.raises(StorageUnavailable):
            look()


def test_server_that_hangs_is_given_up_in_time(site: tuple[Registry, str, type[Pages]]) -> None:
    _, url, settings = site
    settings.hangs.add("/r/registry.json")
    began_s = time.monotonic()
    with pytest.raises(StorageUnavailable, match=r"no answer within 0\.3 s"):
        FsspecStore(url, limit_s=0.3).read("registry.json", limit_bytes=1 << 16)
    assert time.monotonic() - began_s < 5
    settings.released.set()


def test_file_beyond_its_limit_is_refused(site: tuple[Registry, str, type[Pages]]) -> None:
    _, url, _ = site
    with pytest.raises(StoredDataError, match="larger than 10 bytes"):
        FsspecStore(url).read("registry.json", limit_bytes=10)


def test_calls_beyond_those_that_hang_fail_at_once_instead_of_piling_up() -> None:
    deadline, release = Deadline(0.1, hung_calls=2), threading.Event()
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match="no answer within"):
            deadline.run("wait", release.wait)
    with pytest.raises(StorageUnavailable, match="too many calls hang"):
        deadline.run("wait", release.wait)
    release.set()
    time.sleep(0.05)
    assert deadline.run("add", lambda: 1 + 1) == 2
