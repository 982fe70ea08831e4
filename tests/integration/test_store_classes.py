"""Every store class passes the contract; the local one also withstands links, devices and missing rights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipperfs.errors import InvalidSetting, StorageError, StorageFull, StoredDataError
from clipperfs.store import Store, canonical_url, open_store
from clipperfs.store.local import LocalStore
from clipperfs.store.memory import MemoryStore
from clipperfs.testing.store_suite import StoreSuite


class TestLocalStore(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return LocalStore(tmp_path / "registry")


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return MemoryStore()


def test_open_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("s")
    root = tmp_path / "r"
    (root / "v").mkdir(parents=True)
    (root / "v" / "sub").symlink_to(tmp_path / "outside")
    (root / "v" / "file").symlink_to(tmp_path / "outside" / "secret")
    store = LocalStore(root)
    for key in ("v/sub/secret", "v/file"):
        with pytest.raises(StoredDataError):
            store.open(key)
    assert {entry.name: entry.kind for entry in store.walk("v")} == {"sub": "link", "file": "link"}


def test_open_of_a_fifo_is_refused_without_hanging(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    store = LocalStore(tmp_path)
    with pytest.raises(StoredDataError):
        store.read("pipe", limit_bytes=10)
    found = store.stat("pipe")
    assert found is not None and found.kind == "special"


@pytest.mark.parametrize("key", ["../x", "a/../../x", "a//b", "/etc/passwd", "", "./a"])
def test_key_that_escapes_is_refused(tmp_path: Path, key: str) -> None:
    store = LocalStore(tmp_path / "r")
    with pytest.raises(StorageError):
        store.create(key, b"x")
    with pytest.raises(StorageError):
        store.open(key)


@pytest.mark.root
def test_create_on_a_full_disk_says_so_and_leaves_nothing(small_disk: Path) -> None:
    store = LocalStore(small_disk / "r")
    with pytest.raises(StorageFull) as caught:
        store.create("log/1", b"x" * 300_000)
    assert "room" in (caught.value.hint or "")
    assert [entry.name for entry in store.list("log")] == []


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("/srv/models", "file:///srv/models"),
        ("file:///srv//models/", "file:///srv/models"),
        ("memory://x", "memory://x"),
        ("s3://bucket", "s3://bucket"),
        ("s3a://bucket//team/models/", "s3://bucket/team/models"),
    ],
)
def test_addresses_have_one_spelling(given: str, spelled: str) -> None:
    assert canonical_url(given) == spelled
    assert open_store(given).url == spelled


@pytest.mark.parametrize(
    "address", ["", "nosuch://host/x", "simplecache::file:///x", "s3://", "s3://B", "s3://bucket/../x"]
)
def test_address_without_a_store_class_is_refused(address: str) -> None:
    with pytest.raises(InvalidSetting):
        open_store(address)
