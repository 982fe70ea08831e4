"""WebHDFS that is late, silent, cut off, refusing, or loses answers, in front of a real NameNode and DataNode.

Between the client and each of the two servers stands a proxy; the NameNode's redirections lead to the DataNode's.
"""

from __future__ import annotations

import contextlib
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from clipperfs import Registry
from clipperfs.errors import StorageError, StorageUnavailable
from clipperfs.store import open_store
from clipperfs.store.hdfs import HdfsStore
from clipperfs.testing.fault_proxy import FaultProxy, Mode
from tests.integration.servers.hdfs import Hdfs

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

CALL_S = 4.0
DATA_S = 10.0
"""How long those wait who are to meet a fault; a busy host needs more for a call that meets none."""
CONTENT = bytes(range(256)) * 4096
REFUSALS: list[Mode] = ["reset", "lost", "500", "503"]


@dataclass(frozen=True)
class Wires:
    """The two proxies, and a store behind them."""

    name_node: FaultProxy
    data_node: FaultProxy

    def url(self) -> str:
        """Return the address of a fresh folder."""
        return f"webhdfs://{urlsplit(self.name_node.url).netloc}/faults/{secrets.token_hex(6)}"


def open_hdfs(url: str) -> HdfsStore:
    """Return a store."""
    store = open_store(url)
    assert isinstance(store, HdfsStore)
    return store


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Let whoever opens or uses a store in this block wait for no longer than the test wants to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipperfs.store.hdfs_web.CALL_S", CALL_S)
        patch.setattr("clipperfs.store.hdfs_web.DATA_S", DATA_S)
        yield


@pytest.fixture
def wires(hdfs: Hdfs) -> Iterator[Wires]:
    if hdfs.web_url is None:
        pytest.skip(hdfs.no_web)
    address = hdfs.web_url.replace("webhdfs://", "http://")
    data_node = redirection(address)
    with (
        FaultProxy(f"http://{data_node}") as data_proxy,
        FaultProxy(address, onward={data_node: urlsplit(data_proxy.url).netloc}) as name_proxy,
    ):
        yield Wires(name_proxy, data_proxy)


def redirection(address: str) -> str:
    """Return ``host:port`` of the DataNode that the NameNode sends writers to."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *arguments: object) -> None:
            return None

    url = f"{address}/webhdfs/v1/faults/probe?op=CREATE&user.name=tester"
    request = urllib.request.Request(url, method="PUT")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.build_opener(Stay).open(request, timeout=20)
    with caught.value as answer:
        return urlsplit(answer.headers["Location"]).netloc


@pytest.mark.parametrize("mode", ["late", "cut", "hang", "stall", *REFUSALS])
def test_question_that_fails_is_unavailable_never_denied_nor_absent(wires: Wires, mode: Mode) -> None:
    url = wires.url()
    assert open_hdfs(url).create("log/1", b"content of some length")
    with impatient():
        store = open_hdfs(url)
    questions: list[tuple[Callable[[], object], object]] = [
        (lambda: [entry.name for entry in store.list("log")], ["1"]),
        (lambda: store.stat("log/1") is not None, True),
        (lambda: store.read("log/1", limit_bytes=99), b"content of some length"),
    ]
    for question, expected in questions:
        wires.name_node.meet(mode, times=1)
        began_s = time.monotonic()
        try:
            assert question() == expected
        except StorageUnavailable:
            assert mode != "late"
        assert time.monotonic() - began_s < CALL_S + 10
        wires.name_node.behave()
    assert open_hdfs(url).read("log/1", limit_bytes=99) == b"content of some length"


@pytest.mark.parametrize("mode", ["cut", "stall", "hang", *REFUSALS])
def test_download_that_breaks_is_whole_or_an_error(wires: Wires, tmp_path: Path, mode: Mode) -> None:
    url = wires.url()
    (tmp_path / "large").write_bytes(CONTENT)
    open_hdfs(url).upload(tmp_path / "large", "v/large")
    with impatient():
        store = open_hdfs(url)
    wires.data_node.meet(mode, method="GET", times=1)
    began_s = time.monotonic()
    with contextlib.suppress(StorageUnavailable):
        stream = store.open("v/large")
        assert stream is not None
        with stream:
            assert stream.read() == CONTENT
    assert time.monotonic() - began_s < 2 * CALL_S + 10
    stream = open_hdfs(url).open("v/large")
    assert stream is not None
    with stream:
        assert stream.read() == CONTENT


@pytest.mark.parametrize("where", ["CREATE", "data", "RENAME", "MKDIRS"])
@pytest.mark.parametrize("mode", [*REFUSALS, "hang"])
def test_record_is_written_once_whatever_the_answer(wires: Wires, tmp_path: Path, mode: Mode, where: str) -> None:
    url = wires.url()
    patient = Registry.init(url, cache_dir=tmp_path / "cache", probe="skip")
    patient.policy("m", {"replicas": 2})
    with impatient():
        registry = Registry(url, cache_dir=tmp_path / "cache")
    if where == "data":
        wires.data_node.meet(mode, method="PUT")
    else:
        wires.name_node.meet(mode, method="PUT", path=f"op={where}")
    try:
        with impatient():
            registry.policy("m", {"replicas": 3})
    except StorageError as error:
        assert isinstance(error, StorageUnavailable) or "may or may not" in error.message, repr(error)
    wires.name_node.behave()
    wires.data_node.behave()
    patient.policy("m", {"replicas": 3})
    assert [record.seq for record in patient.history("m")] == [2, 1]
    assert patient.verify().ok


def test_servers_that_stay_silent_are_given_up_in_time(wires: Wires) -> None:
    with impatient():
        store = open_hdfs(wires.url())
    wires.name_node.meet("hang", times=1000)
    calls: list[Callable[[], object]] = [
        lambda: store.stat("a"),
        lambda: store.create("a", b"x"),
        lambda: list(store.list("a")),
    ]
    for call in calls:
        began_s = time.monotonic()
        with pytest.raises(StorageUnavailable):
            call()
        assert time.monotonic() - began_s < 3 * (CALL_S + 5) + 5
