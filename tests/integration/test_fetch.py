"""Fetching into the cache from a store that reads ranges: in parallel, within bounds, once a host, and after a cut."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs import fetch as fetch_module
from clipperfs.cache import STALE_TEMPORARY_S, Cache
from clipperfs.digest import digest_bytes
from clipperfs.documents import FileEntry
from clipperfs.errors import DamagedVersion, StorageUnavailable
from clipperfs.initialise import initialise
from clipperfs.reporter import Reporter
from clipperfs.store import Piece
from clipperfs.store.memory import MemoryStore

RANGE = 1000
BIG = os.urandom(20 * RANGE + 123)
OTHER = os.urandom(5 * RANGE)


class CountingStore(MemoryStore):
    """Counts what is read of payload, and lets a test step in before each range."""

    def __init__(self) -> None:
        super().__init__("counting")
        self.ranges: list[tuple[str, int, int]] = []
        self.before: Callable[[str, int], None] = lambda key, start: None
        self.going = self.most_going = 0
        self._counting = threading.Lock()

    def read_range(self, key: str, start: int, length: int) -> Piece | None:
        with self._counting:
            self.ranges.append((key.rpartition("/")[2], start, length))
            self.going += 1
            self.most_going = max(self.most_going, self.going)
        try:
            self.before(key, start)
            return super().read_range(key, start, length)
        finally:
            with self._counting:
                self.going -= 1


class Meter(Reporter):
    """Adds up the progress that is told."""

    def __init__(self) -> None:
        self.total_bytes = self.done_bytes = 0
        self._lock = threading.Lock()

    def begin(self, action: str, total_bytes: int) -> None:
        self.total_bytes, self.done_bytes = total_bytes, 0

    def advance(self, size_bytes: int) -> None:
        with self._lock:
            self.done_bytes += size_bytes


class Site:
    """A registry in memory with a version of two large files, and caches of several hosts."""

    def __init__(self, place: Path) -> None:
        self.store = CountingStore()
        self.place = place
        initialise(self.registry("writer").workspace, "skip", single_writer=False)
        source = place / "source"
        source.mkdir()
        for name, data in {"big.bin": BIG, "other.bin": OTHER, "empty": b"", "model.yaml": b"wrapper: noop\n"}.items():
            (source / name).write_bytes(data)
        self.registry("writer").publish("m", "1", source)
        self.store.ranges.clear()

    def registry(self, host: str) -> Registry:
        found = Registry("memory://counting", cache_dir=self.place / host)
        found.workspace.store = self.store
        return found

    def fetch(self, host: str = "host", version: str = "1") -> bytes:
        copy = self.registry(host).materialise("m", version)
        with copy.lease:
            assert (copy.path / "other.bin").read_bytes() == OTHER
            assert (copy.path / "empty").read_bytes() == b""
            return (copy.path / "big.bin").read_bytes()

    def fetched_bytes(self) -> int:
        return sum(length for _, _, length in self.store.ranges)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(fetch_module, "RANGE_BYTES", RANGE)
    return Site(tmp_path)


def partial_of(site: Site, host: str, data: bytes) -> Path:
    entry = FileEntry(path="any", size=len(data), sha256=digest_bytes(data))
    return site.registry(host).cache.partial(entry)


def test_large_file_is_read_in_ranges_at_the_same_time_each_byte_once_and_within_bounds(site: Site) -> None:
    site.store.before = lambda key, start: time.sleep(0.01)
    meter = Meter()
    registry = site.registry("host")
    registry.workspace.reporter = meter
    registry.materialise("m", "1").lease.release()
    big = sorted(start for name, start, _ in site.store.ranges if name == "big.bin")
    assert big == list(range(0, len(BIG), RANGE))
    assert 4 <= site.store.most_going <= fetch_module.RANGES_AT_ONCE
    assert meter.done_bytes == meter.total_bytes == site.fetched_bytes()


def test_slow_first_range_holds_no_more_than_the_bound_in_memory(site: Site) -> None:
    gate = threading.Event()

    def hold(key: str, start: int) -> None:
        if start == 0:
            gate.wait(10)

    site.store.before = hold
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(site.fetch)
        time.sleep(0.2)
        assert len(site.store.ranges) <= fetch_module.RANGES_AT_ONCE
        gate.set()
        assert fetching.result(10) == BIG


def test_killed_fetch_goes_on_where_it_was(site: Site) -> None:
    def fail(key: str, start: int) -> None:
        if key.endswith("big.bin") and start >= 12 * RANGE:
            raise StorageUnavailable("cut")

    site.store.before = fail
    with pytest.raises(StorageUnavailable):
        site.fetch()
    assert partial_of(site, "host", BIG).stat().st_size == 12 * RANGE
    blobs = site.registry("host").cache.root / "blobs" / "sha256"
    files = list((site.place / "source").iterdir())
    cut = {
        file.name for file in files if file.stat().st_size and not (blobs / digest_bytes(file.read_bytes())).exists()
    }
    site.registry("host").cache.evict(limit_bytes=0)  # upkeep runs in between
    site.store.before = lambda key, start: None
    site.store.ranges.clear()
    assert site.fetch() == BIG
    read_again = {name for name, _, _ in site.store.ranges}
    assert read_again == cut, "what is whole is not read again"
    assert min(start for name, start, _ in site.store.ranges if name == "big.bin") == 12 * RANGE
    assert not list((site.registry("host").cache.root / "partial").iterdir())


@pytest.mark.parametrize("rubbish", [b"x" * 3 * RANGE, BIG[: 2 * RANGE] + b"\0" * RANGE, b"x" * (len(BIG) + 5)])
def test_rubbish_in_the_cache_is_noticed_and_fetched_again(site: Site, rubbish: bytes) -> None:
    partial = partial_of(site, "host", BIG)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(rubbish)
    assert site.fetch() == BIG


@pytest.mark.parametrize("other", [os.urandom(len(BIG)), BIG + b"x", BIG[:-1], BIG[: 9 * RANGE]])
def test_file_that_changes_on_the_store_meanwhile_is_never_handed_out(site: Site, other: bytes) -> None:
    def change(key: str, start: int) -> None:
        if key.endswith("big.bin") and start == 6 * RANGE:
            site.store.replace(key, other)

    site.store.before = change
    with pytest.raises(DamagedVersion, match=r"big\.bin"):
        site.fetch()
    cache = site.registry("host").cache
    assert not list((cache.root / "versions").glob("[!.]*"))
    assert digest_bytes(BIG) not in {path.name for path in (cache.root / "blobs" / "sha256").iterdir()}
    site.store.before = lambda key, start: None
    site.store.replace("models/m/versions/1/big.bin", BIG)
    assert site.fetch() == BIG


def test_two_hosts_processes_at_once_read_each_byte_once(site: Site) -> None:
    site.store.before = lambda key, start: time.sleep(0.005)
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda _: site.fetch(), range(6))) == {BIG}
    assert site.fetched_bytes() == len(BIG) + len(OTHER) + len(b"wrapper: noop\n")


def test_writer_that_stalls_is_not_waited_for_for_ever(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "STALL_S", 0.1)
    cache = site.registry("host").cache
    held = cache.lock_partial(FileEntry(path="any", size=len(BIG), sha256=digest_bytes(BIG)))
    assert held is not None
    try:
        assert site.fetch() == BIG
    finally:
        os.close(held)


def test_content_that_another_version_brought_is_not_read_again(site: Site) -> None:
    site.fetch()
    source = site.place / "source"
    (source / "model.yaml").write_text("wrapper: noop\ndescription: another\n")
    (source / "big.bin").chmod(0o755)
    site.registry("writer").publish("m", "2", source)
    site.store.ranges.clear()
    assert site.fetch(version="2") == BIG
    assert [name for name, _, _ in site.store.ranges] == ["model.yaml"]


def test_abandoned_beginnings_go_after_a_day_but_never_one_that_is_being_written(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entries = [FileEntry(path="a", size=9, sha256=digest_bytes(data)) for data in (b"old", b"held", b"young")]
    locks = [cache.lock_partial(entry) for entry in entries]
    for entry in entries[:2]:
        then_s = time.time() - STALE_TEMPORARY_S - 60
        os.utime(cache.partial(entry), (then_s, then_s))
    for lock in (locks[0], locks[2]):
        assert lock is not None
        os.close(lock)
    cache.evict(limit_bytes=0)
    assert [cache.partial(entry).exists() for entry in entries] == [False, True, True]
    assert locks[1] is not None
    os.close(locks[1])
