"""The local cache: shared by processes, never a version in use evicted, nothing unproven visible."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.errors import StorageError, StorageUnavailable
from clipperfs.testing.fault_store import Crashed, FaultStore
from tests.integration.conftest import write_version


def publish(registry: Registry, tmp_path: Path, version: str, size: int = 1000) -> None:
    registry.publish("m", version, write_version(tmp_path / f"s{version}", version.encode() * size))


def test_same_content_is_stored_once(registry: Registry, tmp_path: Path) -> None:
    source = write_version(tmp_path / "s", b"same")
    registry.publish("m", "1", source)
    (source / "sub" / "more.txt").write_text("other")
    registry.publish("m", "2", source)
    copies = [registry.materialise("m", version) for version in ("1", "2")]
    assert (copies[0].path / "weights.bin").stat().st_ino == (copies[1].path / "weights.bin").stat().st_ino
    for copy in copies:
        copy.lease.release()


def test_materialising_again_asks_for_no_payload(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1")
    registry.materialise("m", "1").lease.release()
    counting = FaultStore(registry.store)
    registry.workspace.store = counting
    registry.materialise("m", "1").lease.release()
    assert not any(method == "open" for method, _ in counting.calls)


def test_eviction_drops_the_longest_unused_and_never_what_is_held(registry: Registry, tmp_path: Path) -> None:
    held = []
    for version in ("1", "2", "3"):
        publish(registry, tmp_path, version, size=10_000)
        copy = registry.materialise("m", version)
        if version == "1":
            held.append(copy)
        else:
            copy.lease.release()
    freed = registry.cache.evict(limit_bytes=15_000)
    assert freed > 0
    assert held[0].path.is_dir(), "the longest unused is held, so it stays"
    assert len(registry.cache.versions()) < 3
    registry.cache.evict(limit_bytes=0)
    assert [version.digest for version in registry.cache.versions()] == [held[0].manifest_digest]
    held[0].lease.release()
    registry.cache.evict(limit_bytes=0)
    assert registry.cache.versions() == []
    assert list((registry.cache.root / "blobs" / "sha256").iterdir()) == []


def test_version_held_by_another_process_is_not_evicted(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1")
    code = (
        "import sys; from clipperfs import Registry\n"
        "copy = Registry(sys.argv[1], cache_dir=sys.argv[2]).materialise('m', '1')\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, registry.url, str(registry.cache.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        registry.cache.evict(limit_bytes=0)
        assert len(registry.cache.versions()) == 1
        assert holder.stdin is not None
        holder.stdin.close()
        holder.wait(timeout=20)
    registry.cache.evict(limit_bytes=0)
    assert registry.cache.versions() == []


def test_many_materialise_at_once_and_all_get_the_whole(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "1", size=300_000)

    def fetch(_: int) -> bytes:
        copy = Registry(registry.url, cache_dir=tmp_path / "fresh").materialise("m", "1")
        with copy.lease:
            return (copy.path / "weights.bin").read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(fetch, range(16))) == {b"1" * 300_000}


def test_materialise_while_others_evict_never_sees_a_part(registry: Registry, tmp_path: Path) -> None:
    for version in ("1", "2"):
        publish(registry, tmp_path, version, size=50_000)

    def use(number: int) -> bool:
        version = "12"[number % 2]
        copy = Registry(registry.url, cache_dir=tmp_path / "small").materialise("m", version)
        with copy.lease:
            is_whole = (copy.path / "weights.bin").read_bytes() == version.encode() * 50_000
        registry_cache = Registry(registry.url, cache_dir=tmp_path / "small").cache
        registry_cache.evict(limit_bytes=0)
        return is_whole

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(40)))


@pytest.mark.parametrize("fault", ["error", "crash"])
def test_fault_at_every_call_of_materialise_is_mended_by_the_next(
    registry: Registry, tmp_path: Path, fault: str
) -> None:
    publish(registry, tmp_path, "1")
    probe = Registry(registry.url, cache_dir=tmp_path / "probe")
    counting = FaultStore(probe.store)
    probe.workspace.store = counting
    probe.materialise("m", "1").lease.release()
    for at in range(1, len(counting.calls) + 1):
        cache_dir = tmp_path / f"cache-{fault}-{at}"
        victim = Registry(registry.url, cache_dir=cache_dir)
        victim.workspace.store = FaultStore(victim.store, at=at, fault=fault)  # type: ignore[arg-type]
        with pytest.raises((StorageUnavailable, Crashed)):
            victim.materialise("m", "1")
        again = Registry(registry.url, cache_dir=cache_dir).materialise("m", "1")
        with again.lease:
            assert (again.path / "weights.bin").read_bytes() == b"1" * 1000


def test_lock_that_cannot_be_opened_is_an_error_of_the_storage_that_names_it(
    registry: Registry, tmp_path: Path
) -> None:
    publish(registry, tmp_path, "1")
    (registry.cache.root / "lock").mkdir(parents=True)
    with pytest.raises(StorageError, match="lock"):
        registry.materialise("m", "1")
    with pytest.raises(StorageError, match="lock"):
        registry.cache.evict(0)
