"""What a daemon tidies up: the cache beyond its limit, hints of yesterday, and nothing that is in use."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clipperfs.serverd.statedir import StateDir
from clipperfs.serverd.upkeep import Upkeep

from clipperfs import Registry, layout
from tests.integration.conftest import write_version


def test_tidying_keeps_what_is_in_use_and_what_is_fresh(registry: Registry, tmp_path: Path) -> None:
    for version in ("1", "2"):
        registry.publish("m", version, write_version(tmp_path / version, version.encode() * 1000))
    held = registry.materialise("m", "1")
    registry.materialise("m", "2").lease.release()
    yesterday = layout.change(int((time.time() - 100_000) * 1000), "0123abcd")
    registry.store.create(yesterday, b"{}")
    fresh = [entry.name for entry in registry.store.list(layout.CHANGES) if entry.name not in yesterday]
    with ThreadPoolExecutor(1) as executor:
        Upkeep(StateDir(tmp_path), registry.workspace, executor, cache_limit_bytes=0).tidy()
    assert [version.digest for version in registry.cache.versions()] == [held.manifest_digest]
    assert [entry.name for entry in registry.store.list(layout.CHANGES)] == fresh
    held.lease.release()


def test_tidying_a_registry_that_went_away_harms_nothing(registry: Registry, tmp_path: Path) -> None:
    import shutil

    registry.publish("m", "1", write_version(tmp_path / "1", b"1"))
    shutil.rmtree(registry.url.removeprefix("file://"))
    with ThreadPoolExecutor(1) as executor:
        Upkeep(StateDir(tmp_path), registry.workspace, executor, cache_limit_bytes=0).tidy()
