"""How many spares are kept, and what makes one stale."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from clipperfs.serverd.spares import spares_wanted
from clipperfs.serverd.watcher import _Poker
from watchdog.events import DirCreatedEvent, FileCreatedEvent, FileMovedEvent

from clipperfs.replica.spare import birthmark

RECORD = "models/m/log/00000000000000000007.json"
CLAIM = "models/m/log/.clipperfs-claim-0011"


def test_spares_are_as_many_as_the_widest_model_has_replicas_within_the_cores() -> None:
    assert spares_wanted([1, 1, 1], cores=8) == 1
    assert spares_wanted([1, 3, 2], cores=8) == 3
    assert spares_wanted([1, 64], cores=8) == 8


def test_daemon_that_serves_nothing_keeps_no_spare() -> None:
    assert spares_wanted([], cores=8) == 0
    assert spares_wanted([0, 0], cores=8) == 0


def test_birthmark_tells_of_lowered_limits() -> None:
    plain = birthmark({}, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        assert birthmark({}, 1) != plain
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_birthmark_tells_threads_and_environments_apart() -> None:
    plain = birthmark({"PATH": "/bin"}, 1)
    assert birthmark({"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x"}, 1) == plain
    assert birthmark({"PATH": "/usr/bin"}, 1) != plain
    assert birthmark({"PATH": "/bin"}, 2) != plain


def test_birthmark_changes_when_a_package_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    os.utime(tmp_path, ns=(1, 1))
    before = birthmark({}, 1)
    assert birthmark({}, 1) == before
    (tmp_path / "package-1.0.dist-info").mkdir()
    assert birthmark({}, 1) != before


def test_watcher_is_woken_by_records_and_hints_and_not_by_what_they_are_written_under_first() -> None:
    woken: list[int] = []
    poker = _Poker(lambda: woken.append(1))
    for event in (FileCreatedEvent(CLAIM), DirCreatedEvent("models/m/log"), FileCreatedEvent("changes/.new")):
        poker.on_created(event)
    assert woken == []
    poker.on_created(FileCreatedEvent(RECORD))
    poker.on_moved(FileMovedEvent(CLAIM, RECORD))
    assert len(woken) == 2
