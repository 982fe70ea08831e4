"""The HDFS store class on a real NameNode and DataNode, by RPC and by WebHDFS."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import secrets
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clipperfs.errors import StorageDenied, StorageError, StorageFull, StorageUnavailable, StoredDataError
from clipperfs.store import Store, open_store
from clipperfs.store.hdfs import HdfsStore
from clipperfs.testing.store_suite import StoreSuite
from tests.integration.servers.hdfs import Hdfs

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

RACERS = 16
ROUNDS = 60


@pytest.fixture
def rpc(hdfs: Hdfs) -> HdfsStore:
    return fresh_store(hdfs.url)


@pytest.fixture
def web(hdfs: Hdfs) -> HdfsStore:
    if hdfs.web_url is None:
        pytest.skip(hdfs.no_web)
    return fresh_store(hdfs.web_url)


@pytest.fixture(params=["rpc", "web"])
def either(request: pytest.FixtureRequest) -> HdfsStore:
    store: HdfsStore = request.getfixturevalue(request.param)
    return store


def fresh_store(address: str) -> HdfsStore:
    store = open_store(f"{address}/tests/{secrets.token_hex(6)}")
    assert isinstance(store, HdfsStore)
    return store


class TestByRpc(StoreSuite):
    @pytest.fixture
    def store(self, rpc: HdfsStore) -> Store:
        return rpc


class TestByWebHdfs(StoreSuite):
    @pytest.fixture
    def store(self, web: HdfsStore) -> Store:
        return web


def claim(url: str, number: int, start: multiprocessing.synchronize.Barrier, wins: Any) -> None:
    """Race for each slot; runs in a process of its own."""
    store = open_store(url)
    for round_number in range(ROUNDS):
        start.wait(120)
        if store.create(f"log/{round_number:020d}.json", f"{number}:".encode() + b"x" * 2000):
            wins.put((round_number, number))


def test_create_raced_by_processes_has_one_winner_a_round(rpc: HdfsStore) -> None:
    context = multiprocessing.get_context("spawn")
    start, wins = context.Barrier(RACERS), context.Queue()
    racers = [context.Process(target=claim, args=(rpc.url, number, start, wins)) for number in range(RACERS)]
    for racer in racers:
        racer.start()
    won = [wins.get(timeout=300) for _ in range(ROUNDS)]
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0] * RACERS
    assert wins.empty(), "a slot has two winners"
    assert Counter(round_number for round_number, _ in won) == Counter(range(ROUNDS))
    for round_number, number in won:
        data = rpc.read(f"log/{round_number:020d}.json", limit_bytes=4000)
        assert data == f"{number}:".encode() + b"x" * 2000
    assert len(list(rpc.list("log"))) == ROUNDS, "a claim was left behind"


def test_folders_renamed_onto_one_name_at_once_one_lands_and_none_nests(either: HdfsStore) -> None:
    for round_number in range(5):
        for number in range(8):
            either.create(f"v/.staging-{round_number}-{number}/file", str(number).encode())

        def move(number: int, round_number: int = round_number) -> bool:
            return either.rename_folder(f"v/.staging-{round_number}-{number}", f"v/{round_number}")

        with ThreadPoolExecutor(8) as pool:
            wins = list(pool.map(move, range(8)))
        assert sum(wins) == 1
        assert [entry.name for entry in either.walk(f"v/{round_number}")] == ["file"]
        assert either.read(f"v/{round_number}/file", limit_bytes=9) == str(wins.index(True)).encode()


def test_gateway_that_answers_booleans_neither_nests_nor_overwrites(
    web: HdfsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = web.client
    rename = client._client._rename
    monkeypatch.setattr(
        client._client, "_rename", lambda path, destination, renameoptions="": rename(path, destination=destination)
    )
    assert web.create("a/b", b"one") and not web.create("a/b", b"two")
    assert web.read("a/b", limit_bytes=9) == b"one"
    assert web.create("v/.staging-1/x", b"1") and web.rename_folder("v/.staging-1", "v/1")
    assert web.create("v/.staging-2/x", b"2") and not web.rename_folder("v/.staging-2", "v/1")
    assert [entry.name for entry in web.walk("v/1")] == ["x"]
    assert [entry.name for entry in web.walk("v/.staging-2")] == ["x"], "brought back from inside the winner"


def test_rename_folder_onto_an_empty_one_takes_its_place(either: HdfsStore) -> None:
    either.create("v/.staging/x", b"1")
    either.client.make_folder(f"{either.root}/v/1")
    assert either.rename_folder("v/.staging", "v/1")
    assert [entry.name for entry in either.walk("v/1")] == ["x"]


def test_rename_that_lost_its_answer_is_settled(rpc: HdfsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = rpc.client.rename

    def takes_effect(source: str, target: str, *, overwrite: bool) -> None:
        rename(source, target, overwrite=overwrite)
        raise StorageUnavailable("the answer was lost")

    def does_not(source: str, target: str, *, overwrite: bool) -> None:
        raise StorageUnavailable("the request was lost")

    monkeypatch.setattr(rpc.client, "rename", takes_effect)
    assert rpc.create("log/1", b"mine") is True
    monkeypatch.setattr(rpc.client, "rename", does_not)
    with pytest.raises(StorageUnavailable, match="request was lost"):
        rpc.create("log/2", b"mine")
    assert [entry.name for entry in rpc.list("log")] == ["1"], "no claim is left that could still become a record"


NAMES = ["été", "a b", "#LATEST", "a+b", "a;b", "a?b", "a&b=c", "[x]", "~"]
PERCENT = "100%41"


def test_unusual_names_come_back_as_they_are(either: HdfsStore, tmp_path: Path) -> None:
    names = NAMES if either.url.startswith("webhdfs") else [*NAMES, PERCENT]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
        either.upload(tmp_path / name, f"v/1/{name}", executable=name == "~")
    found = {entry.name: (entry.size, entry.executable) for entry in either.walk("v/1")}
    assert found == {name: (len(name.encode()), name == "~") for name in names}
    for name in names:
        assert either.read(f"v/1/{name}", limit_bytes=99) == name.encode()
        assert either.stat(f"v/1/{name}") is not None


def test_name_that_webhdfs_would_mangle_is_refused(web: HdfsStore, tmp_path: Path) -> None:
    (tmp_path / PERCENT).write_bytes(b"x")
    with pytest.raises(StorageError, match="'%'"):
        web.upload(tmp_path / PERCENT, f"v/1/{PERCENT}")
    assert list(web.walk("v")) == []


def test_folder_in_the_place_of_a_file_is_refused(either: HdfsStore) -> None:
    either.create("a/b/c", b"1")
    with pytest.raises(StoredDataError):
        either.open("a/b")
    assert either.create("a/b", b"2") is False
    assert either.read("a/b/c", limit_bytes=9) == b"1"


def test_large_file_is_read_in_pieces(either: HdfsStore, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(secrets.token_bytes(30_000_001))
    either.upload(source, "v/large")
    stream = either.open("v/large")
    assert stream is not None
    with stream:
        data = b"".join(iter(lambda: stream.read(1 << 20), b""))
    assert data == source.read_bytes()


def test_missing_right_is_denied_by_name(hdfs: Hdfs, either: HdfsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    either.create("log/1", b"x")
    monkeypatch.setenv("HADOOP_USER_NAME", "mallory")
    theirs = open_store(either.url)
    assert theirs.read("log/1", limit_bytes=9) == b"x"
    assert theirs.stat("log/1/below") is None, "below a file is nothing, not a lacking right"
    assert theirs.open("log/1/below") is None and list(theirs.list("log/1/below")) == []
    for attempt in (lambda: theirs.create("log/2", b"y"), lambda: theirs.replace("log/1", b"y")):
        with pytest.raises(StorageDenied) as caught:
            attempt()
        assert "mallory" in (caught.value.hint or "") and "WRITE" in (caught.value.hint or "")


def test_quota_is_a_full_storage(hdfs: Hdfs, either: HdfsStore) -> None:
    either.client.make_folder(f"{either.root}/log")
    hdfs.admin("-setSpaceQuota", "1000", f"{either.root}/log")
    # WebHDFS answers 201 to a write that the quota has cut: that nothing arrived is all that can be known.
    with pytest.raises(StorageUnavailable if either.url.startswith("webhdfs") else StorageFull, match=r"quota|arrived"):
        either.create("log/1", b"x" * 3000)
    assert list(either.list("log")) == []


def test_safe_mode_is_unavailable_and_reading_goes_on(hdfs: Hdfs, either: HdfsStore) -> None:
    either.create("log/1", b"x")
    hdfs.admin("-safemode", "enter")
    try:
        with pytest.raises(StorageUnavailable, match="safe mode"):
            either.create("log/2", b"x")
        assert either.read("log/1", limit_bytes=9) == b"x"
    finally:
        hdfs.admin("-safemode", "leave")
    assert either.create("log/2", b"x")


def test_namenode_that_restarts_is_unavailable_and_then_back(hdfs: Hdfs, either: HdfsStore) -> None:
    either.create("log/1", b"x")
    hdfs.stop_namenode()
    try:
        began_s = time.monotonic()
        with pytest.raises(StorageUnavailable):
            either.stat("log/1")
        assert time.monotonic() - began_s < 25
    finally:
        hdfs.start_namenode()
    hdfs.admin("-safemode", "wait")
    assert either.read("log/1", limit_bytes=9) == b"x"
