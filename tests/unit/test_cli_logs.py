"""``logs``: the tail of a file, and its growth, through truncation and replacement."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipperfs.cli import logs
from clipperfs.cli.logs import read_lines
from clipperfs.errors import NotFound


def tail(path: Path, count: int) -> list[bytes]:
    return list(read_lines(path, count, follow=False))


def take(lines: Iterator[bytes], count: int) -> list[bytes]:
    return list(itertools.islice(lines, count))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "daemon.log"
    path.write_bytes(b"".join(b"line %d\n" % n for n in range(100)))
    return path


def test_tail_gives_the_last_lines(log: Path) -> None:
    assert tail(log, 2) == [b"line 98", b"line 99"]
    assert len(tail(log, 1000)) == 100
    assert tail(log, 0) == []


@pytest.mark.parametrize("chunk_bytes", [1, 3, 7, 4096])
def test_tail_is_the_same_whatever_is_read_at_once(
    log: Path, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "CHUNK_BYTES", chunk_bytes)
    assert tail(log, 3) == [b"line 97", b"line 98", b"line 99"]


def test_line_without_an_end_is_shown(log: Path) -> None:
    log.write_bytes(b"a\nb")
    assert tail(log, 1) == [b"b"]
    assert tail(log, 9) == [b"a", b"b"]


def test_empty_log_has_no_lines(log: Path) -> None:
    log.write_bytes(b"")
    assert tail(log, 5) == []


def test_missing_log_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        tail(tmp_path / "none", 5)


def test_following_yields_what_is_added_and_waits_for_whole_lines(log: Path) -> None:
    log.write_bytes(b"old\nhalf")
    lines = read_lines(log, 10, follow=True, poll_s=0.001)
    assert take(lines, 1) == [b"old"]
    with log.open("ab") as more:
        more.write(b" whole\nnext\n")
    assert take(lines, 2) == [b"half whole", b"next"]


def test_following_survives_a_new_file_in_its_place(log: Path) -> None:
    lines = read_lines(log, 1, follow=True, poll_s=0.001)
    assert take(lines, 1) == [b"line 99"]
    fresh = log.with_name("fresh")
    fresh.write_bytes(b"first of the new one\n")
    fresh.replace(log)
    assert take(lines, 1) == [b"first of the new one"]


def test_following_survives_a_truncation(log: Path) -> None:
    lines = read_lines(log, 1, follow=True, poll_s=0.001)
    assert take(lines, 1) == [b"line 99"]
    log.write_bytes(b"again\n")
    assert take(lines, 1) == [b"again"]


def test_endless_line_does_not_grow_without_bound(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LINE_BYTES", 10)
    lines = read_lines(log, 1, follow=True, poll_s=0.001)
    assert take(lines, 1) == [b"line 99"]
    with log.open("ab") as more:
        more.write(b"x" * 50)
    assert take(lines, 1) == [b"x" * 50]
