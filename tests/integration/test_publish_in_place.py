"""Publishing where no folder can be renamed: one content a version name, whoever races and whatever is interrupted."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipperfs import Registry, layout
from clipperfs.adopt import look_at
from clipperfs.collect import collect
from clipperfs.errors import ClipperfsError, Conflict, IncompleteVersion, StorageUnavailable
from clipperfs.names import model_name, version_name
from clipperfs.source import Source, hash_source
from clipperfs.store import Entry
from clipperfs.store.memory import MemoryStore
from clipperfs.testing.fault_store import FaultStore
from tests.integration.conftest import write_version

CLAIM = "models/m/versions/1/.claim-publishing"
RACERS = 6
ROUNDS = 25


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.init(f"memory://{uuid.uuid4().hex}", cache_dir=tmp_path / "cache", actor="tester")


def interrupted(registry: Registry, folder: Path, uploads: int = 2) -> None:
    """Publish version 1 up to upload number ``uploads``, which fails."""
    plain = registry.workspace.store
    faulty = FaultStore(plain)
    left = uploads

    def upload(*arguments: object, **options: object) -> str:
        nonlocal left
        left -= 1
        if left == 0:
            raise StorageUnavailable("the network is gone")
        return plain.upload(*arguments, **options)  # type: ignore[arg-type]

    faulty.upload = upload  # type: ignore[method-assign]
    registry.workspace.store = faulty
    with pytest.raises(StorageUnavailable):
        registry.publish("m", "1", folder)
    registry.workspace.store = plain


def test_interrupted_publish_is_resumed_by_the_same_files(registry: Registry, folder: Path) -> None:
    interrupted(registry, folder)
    assert registry.store.stat(CLAIM) is not None
    assert registry.show_version("m", "1").state == "incoming"
    assert not registry.publish("m", "1", folder).was_there
    assert registry.store.stat(CLAIM) is None
    assert registry.verify().ok and registry.publish("m", "1", folder).was_there


def test_interrupted_publish_keeps_the_name_from_other_files(registry: Registry, folder: Path, tmp_path: Path) -> None:
    interrupted(registry, folder)
    other = write_version(tmp_path / "other", b"other weights")
    with pytest.raises(Conflict, match="being published with other content, by tester since 20"):
        registry.publish("m", "1", other)
    registry.publish("m", "1", folder)
    assert registry.verify().ok


def test_half_published_version_is_not_sealed(registry: Registry, folder: Path) -> None:
    interrupted(registry, folder)
    registry.store.replace("models/m/versions/1/READY", b"x")
    with pytest.raises(IncompleteVersion, match="is being published"):
        registry.seal("m", "1")


def test_plain_copy_that_is_going_on_is_left_alone(registry: Registry, folder: Path) -> None:
    registry.store.upload(folder / "weights.bin", "models/m/versions/1/weights.bin")
    with pytest.raises(Conflict, match="without a manifest"):
        registry.publish("m", "1", folder)


def test_claim_made_after_another_publisher_ended_touches_nothing(
    registry: Registry, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window: looked before the other one began, claimed after it had taken its own claim away."""
    from clipperfs import publish

    other = write_version(tmp_path / "other", b"other weights")
    plain = hash_source

    def late(source: Source, *rest: Any) -> object:
        monkeypatch.setattr(publish, "hash_source", plain)
        registry.publish("m", "1", folder)
        return plain(source, *rest)

    monkeypatch.setattr(publish, "hash_source", late)
    with pytest.raises(Conflict, match="exists with other content"):
        registry.publish("m", "1", other)
    assert registry.store.stat(CLAIM) is None
    assert registry.verify().ok and registry.publish("m", "1", folder).was_there


def test_racing_publishers_leave_one_whole_version(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = MemoryStore.upload

    def slowly(*arguments: Any, **options: Any) -> str:
        time.sleep(0.002)  # a network: otherwise one is done before the next begins
        return plain(*arguments, **options)

    monkeypatch.setattr(MemoryStore, "upload", slowly)
    sources = [write_version(tmp_path / f"s{number}", f"weights {number}".encode()) for number in range(RACERS)]
    for round_number in range(ROUNDS):
        version = f"v{round_number}"
        barrier = threading.Barrier(RACERS)
        outcomes: list[str] = []

        def race(source: Path, version: str = version, barrier: threading.Barrier = barrier) -> None:
            mine = Registry(registry.url, cache_dir=tmp_path / "cache")
            barrier.wait()
            try:
                mine.publish("m", version, source)
                outcomes.append("published")  # noqa: B023
            except Conflict:
                outcomes.append("conflict")  # noqa: B023
            except ClipperfsError as error:
                outcomes.append(repr(error))  # noqa: B023

        # Two of each content: the same bytes are no conflict.
        threads = [threading.Thread(target=race, args=(sources[number // 2],)) for number in range(RACERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["conflict"] * 4 + ["published"] * 2
        with registry.materialise("m", version).lease:
            pass
        there = look_at(registry.workspace, model_name("m"), version_name(version))
        assert (
            there.state == "complete"
            and there.extra == []
            and registry.store.stat(f"models/m/versions/{version}/{layout.PUBLISHING_FILE}") is None
        )
    assert registry.verify().ok


def test_abandoned_publish_is_collected_whole_but_not_while_anything_in_it_is_fresh(
    registry: Registry, folder: Path
) -> None:
    interrupted(registry, folder)
    now = time.time()
    assert any("publish" in why for _, why in collect(registry.workspace, now_unix_s=now + 1000).kept)
    assert registry.store.stat(CLAIM) is not None
    registry.workspace.store = younger = FaultStore(registry.store)
    walk = younger.inner.walk

    def with_a_fresh_file(prefix: str) -> Iterator[Entry]:
        return (replace(entry, modified_unix_s=now + 2 * 86_400) for entry in walk(prefix))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(younger.inner, "walk", with_a_fresh_file)
        collect(registry.workspace, now_unix_s=now + 2 * 86_400)
    assert registry.store.stat(CLAIM) is not None, "its publisher may be slow, and is not dead"
    collect(registry.workspace, now_unix_s=now + 2 * 86_400)
    assert list(registry.store.walk("models/m/versions")) == []
    (folder / "weights.bin").write_bytes(b"other content")
    assert not registry.publish("m", "1", folder).was_there
