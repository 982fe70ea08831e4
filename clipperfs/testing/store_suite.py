"""What every store class must pass: subclass it and give ``make_store``."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from clipperfs.digest import digest_bytes
from clipperfs.errors import StoredDataError
from clipperfs.store import Piece, Store, ranged

RACERS = 16
ROUNDS = 25


class StoreSuite:
    """The contract of ``clipperfs.store.Store`` as tests. Third parties run it on stores of their own."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """Return a fresh, empty store. Override it."""
        raise NotImplementedError

    def test_read_absent_returns_none(self, store: Store) -> None:
        assert store.read("a/b", limit_bytes=10) is None
        assert store.open("a/b") is None
        assert store.stat("a/b") is None
        assert list(store.list("a")) == []
        assert list(store.walk("a")) == []

    def test_create_then_read_returns_the_bytes(self, store: Store) -> None:
        assert store.create("a/b/c.json", b"content") is True
        assert store.read("a/b/c.json", limit_bytes=7) == b"content"
        stream = store.open("a/b/c.json")
        assert stream is not None
        with stream:
            assert stream.read() == b"content"

    def test_create_taken_returns_false_and_keeps_the_first(self, store: Store) -> None:
        assert store.create("a/b", b"first")
        assert store.create("a/b", b"second") is False
        assert store.read("a/b", limit_bytes=100) == b"first"

    def test_create_raced_lets_exactly_one_win(self, store: Store) -> None:
        if not store.capabilities.exclusive_create:
            pytest.skip("the store does not declare exclusive_create")
        for round_number in range(ROUNDS):
            key = f"log/{round_number:020d}.json"
            barrier = threading.Barrier(RACERS)
            wins: list[int] = []

            def race(number: int, key: str = key, barrier: threading.Barrier = barrier, wins: list[int] = wins) -> None:
                barrier.wait()
                if store.create(key, b"x" * 1000 + str(number).encode()):
                    wins.append(number)

            threads = [threading.Thread(target=race, args=(number,)) for number in range(RACERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(wins) == 1, f"round {round_number}: {len(wins)} winners"
            assert store.read(key, limit_bytes=2000) == b"x" * 1000 + str(wins[0]).encode()

    def test_create_leaves_nothing_else_behind(self, store: Store) -> None:
        store.create("log/1", b"x")
        store.create("log/1", b"y")
        store.replace("log/2", b"z")
        assert [entry.name for entry in store.list("log")] == ["1", "2"]

    def test_read_beyond_the_limit_raises(self, store: Store) -> None:
        store.create("a", b"12345")
        with pytest.raises(StoredDataError):
            store.read("a", limit_bytes=4)

    def test_replace_overwrites(self, store: Store) -> None:
        store.replace("a/b", b"one")
        store.replace("a/b", b"two")
        assert store.read("a/b", limit_bytes=10) == b"two"

    def test_token_changes_with_the_content(self, store: Store) -> None:
        store.replace("a", b"one")
        before = store.stat("a")
        store.replace("a", b"two")
        after = store.stat("a")
        assert before is not None and after is not None
        assert before.token != after.token

    def test_list_yields_direct_children_in_order_after_a_name(self, store: Store) -> None:
        for key in ("f/b", "f/a", "f/c/deep", "g/x"):
            store.create(key, b"1")
        assert [(entry.name, entry.kind) for entry in store.list("f")] == [
            ("a", "file"),
            ("b", "file"),
            ("c", "folder"),
        ]
        assert [entry.name for entry in store.list("f", after="a")] == ["b", "c"]
        assert list(store.list("f", after="c")) == []

    def test_walk_yields_every_file_below(self, store: Store) -> None:
        for key in ("f/b", "f/c/deep/er", "f/c/x", "fa/other"):
            store.create(key, b"12")
        assert sorted((entry.name, entry.size) for entry in store.walk("f")) == [("b", 2), ("c/deep/er", 2), ("c/x", 2)]

    def test_upload_copies_and_returns_the_digest(self, store: Store, tmp_path: Path) -> None:
        source = tmp_path / "source.bin"
        seen: list[int] = []
        source.write_bytes(bytes(range(256)) * 20_000)
        digest = store.upload(source, "v/1/data.bin", progress=seen.append)
        assert digest == digest_bytes(source.read_bytes())
        assert sum(seen) == source.stat().st_size
        stream = store.open("v/1/data.bin")
        assert stream is not None
        with stream:
            assert stream.read(1 << 30) == source.read_bytes()

    def test_ranges_put_together_are_the_file(self, store: Store, tmp_path: Path) -> None:
        reader = ranged(store)
        if reader is None:
            pytest.skip("the store does not declare ranged_reads")
        source = tmp_path / "source.bin"
        source.write_bytes(bytes(range(251)) * 4_000)
        size_bytes, length = source.stat().st_size, 300_000
        store.upload(source, "v/1/data.bin")
        pieces = [reader.read_range("v/1/data.bin", start, length) for start in range(0, size_bytes, length)]
        assert all(piece is not None and piece.size_bytes == size_bytes for piece in pieces)
        assert b"".join(piece.data for piece in pieces if piece) == source.read_bytes()
        beyond = reader.read_range("v/1/data.bin", size_bytes + 5, length)
        assert beyond is not None and beyond.data == b"" and beyond.size_bytes <= size_bytes + 5

    def test_range_of_an_absent_or_empty_file(self, store: Store, tmp_path: Path) -> None:
        reader = ranged(store)
        if reader is None:
            pytest.skip("the store does not declare ranged_reads")
        (tmp_path / "empty").touch()
        store.upload(tmp_path / "empty", "v/empty")
        assert reader.read_range("v/none", 0, 10) is None
        assert reader.read_range("v/empty", 0, 10) == Piece(b"", 0)

    def test_upload_empty_file_is_there(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        store.upload(tmp_path / "empty", "v/empty")
        found = store.stat("v/empty")
        assert found is not None and found.size == 0 and found.kind == "file"

    def test_delete_is_idempotent(self, store: Store) -> None:
        store.create("a/b", b"1")
        store.delete("a/b")
        store.delete("a/b")
        assert store.stat("a/b") is None

    def test_delete_folder_removes_all_below_and_nothing_beside(self, store: Store) -> None:
        for key in ("f/a", "f/b/c", "fa"):
            store.create(key, b"1")
        store.delete_folder("f")
        store.delete_folder("f")
        assert store.stat("f/a") is None and store.stat("f/b/c") is None and store.stat("fa") is not None

    def test_rename_folder_moves_the_tree_but_never_over_another(self, store: Store) -> None:
        if not store.capabilities.rename_folder:
            pytest.skip("the store does not declare rename_folder")
        store.create("v/.staging/a/b", b"1")
        assert store.rename_folder("v/.staging", "v/1") is True
        assert store.read("v/1/a/b", limit_bytes=5) == b"1"
        store.create("v/.staging2/x", b"2")
        assert store.rename_folder("v/.staging2", "v/1") is False
        assert [entry.name for entry in store.walk("v/1")] == ["a/b"]
