"""Servers that are late, silent, cut off, or lose answers: the S3 store and the ledger on it, to the last socket."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.errors import OutcomeUnknown, StorageUnavailable
from clipperfs.store.s3_request import CallLimits
from clipperfs.testing.fault_proxy import FaultProxy, Mode
from tests.integration.servers.conftest import S3Server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

QUICK = CallLimits(connect_s=1, silence_s=2, attempt_s=1.5, budget_s=4)


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(server.addresses[0]) as running:
        yield running


@pytest.mark.parametrize("mode", ["late", "reset", "cut", "stall", "500", "503", "lost", "hang"])
def test_reading_is_tried_again(server: S3Server, proxy: FaultProxy, prefix: str, mode: Mode) -> None:
    store = server.store(prefix, proxy.url, limits=QUICK)
    assert store.read("warm", limit_bytes=9) is None  # making the first client takes long on a busy host
    store.create("log/1.json", b"content of some length")
    calls: list[tuple[Callable[[], object], object]] = [
        (lambda: store.read("log/1.json", limit_bytes=99), b"content of some length"),
        (lambda: [entry.name for entry in store.list("log")], ["1.json"]),
        (lambda: store.stat("log/1.json") is not None, True),
        (lambda: store.replace("log/2.json", b"two"), None),
        (lambda: store.delete("log/2.json"), None),
    ]
    for call, expected in calls:
        proxy.requests.clear()
        proxy.meet(mode)
        assert call() == expected
        # A HEAD's answer has no body to cut.
        assert len(proxy.requests) == (1 if mode == "late" else 2) or mode in ("cut", "stall")


@pytest.mark.parametrize("mode", ["reset", "cut", "stall", "500", "503", "lost"])
def test_range_of_a_large_file_is_tried_again_on_its_own(
    server: S3Server, proxy: FaultProxy, prefix: str, tmp_path: Path, mode: Mode
) -> None:
    content = bytes(range(256)) * (10 << 12)
    (tmp_path / "large").write_bytes(content)
    limits = {"limits": CallLimits(connect_s=5, silence_s=4, attempt_s=8, budget_s=60)} if mode == "stall" else {}
    store = server.store(prefix, proxy.url, **limits)
    proxy.meet(mode, method="PUT")
    store.upload(tmp_path / "large", "v/large")
    proxy.requests.clear()
    proxy.meet(mode, method="GET")
    stream = store.open("v/large")
    assert stream is not None
    with stream:
        assert stream.read() == content
    assert len(proxy.requests) == 3 + 1  # 10 MiB in ranges of 4, one of them twice


def test_silent_server_is_given_up_within_the_budget(server: S3Server, proxy: FaultProxy, prefix: str) -> None:
    store = server.store(prefix, proxy.url, limits=QUICK)
    assert store.read("warm", limit_bytes=9) is None
    proxy.meet("hang", times=1000)
    calls: list[tuple[Callable[[], object], float]] = [
        (lambda: store.read("a", limit_bytes=9), QUICK.budget_s),
        (lambda: list(store.list("a")), QUICK.budget_s),
        (lambda: store.create("a", b"1"), QUICK.attempt_s),
    ]
    for call, limit_s in calls:
        began_s = time.monotonic()
        with pytest.raises(StorageUnavailable):
            call()
        assert time.monotonic() - began_s < limit_s + 1
    proxy.behave()
    assert store.create("a", b"1")


def test_refusing_server_is_given_up_with_its_own_words(server: S3Server, proxy: FaultProxy, prefix: str) -> None:
    store = server.store(prefix, proxy.url, limits=QUICK)
    proxy.meet("503", times=1000)
    with pytest.raises(StorageUnavailable, match="503"):
        store.read("a", limit_bytes=9)
    assert len(proxy.requests) > 3


@pytest.mark.parametrize("mode", ["reset", "500", "503", "lost", "cut", "stall"])
def test_record_is_written_once_whatever_the_answer(
    server: S3Server, proxy: FaultProxy, prefix: str, tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**server.environment, "AWS_ENDPOINT_URL": proxy.url}.items():
        monkeypatch.setenv(name, value)
    registry = Registry.init(f"s3://{server.bucket}/{prefix}", cache_dir=tmp_path / "cache", probe="skip")
    registry.policy("m", {"replicas": 2})
    for number in range(5):
        proxy.meet(mode, method="PUT", path="/log/")
        outcome = registry.policy("m", {"replicas": 10 + number})
        assert outcome.changed and outcome.record is not None and outcome.record.seq == number + 2
    proxy.behave()
    assert [record.seq for record in registry.history("m")] == [6, 5, 4, 3, 2, 1]
    assert registry.verify().ok


def test_server_that_falls_silent_after_a_write_leaves_an_unknown_outcome(
    server: S3Server, proxy: FaultProxy, prefix: str, tmp_path: Path
) -> None:
    registry = Registry(f"memory://{prefix}", cache_dir=tmp_path / "cache")
    registry.workspace.store = server.store(prefix)
    from clipperfs import layout
    from clipperfs.documents import RegistryDocument, canonical_bytes

    document = RegistryDocument(registry_id="r" * 16, created="2026-01-01T00:00:00Z", created_by="t", store_class="s3")
    registry.store.create(layout.REGISTRY, canonical_bytes(document))
    registry.policy("m", {"replicas": 2})

    through = server.store(prefix, proxy.url, limits=QUICK)
    assert through.read("warm", limit_bytes=9) is None
    ledger = registry.workspace.model_ledger("m")
    plain_create = through.create

    def create(key: str, data: bytes) -> bool:
        done = plain_create(key, data)
        proxy.meet("hang", times=1000)
        return done

    through.create = create  # type: ignore[method-assign]
    ledger.store = through
    began_s = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        registry.policy("m", {"replicas": 3})
    assert time.monotonic() - began_s < QUICK.budget_s + QUICK.attempt_s + 2
    ledger.store = registry.store
    assert [record.seq for record in registry.history("m")] == [2, 1]
