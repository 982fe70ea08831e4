"""Stores that claim more than they do, each in the way of a real filesystem: a race probe must refuse all of them.

Each has a function that opens it by its address, so that the processes of a race can.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from clipperfs.store.local import LocalStore

WINDOW_S = 0.002
"""Between the look and the write: about what an object store needs for one round trip."""


class CheckThenActStore(LocalStore):
    """Looks whether the name is free, then writes: as a server does that compares metadata before it writes."""

    def create(self, key: str, data: bytes) -> bool:
        if self.stat(key) is not None:
            return False
        time.sleep(WINDOW_S)
        self.replace(key, data)
        return True


class ShowsPartsStore(LocalStore):
    """Creates the name exclusively, then fills it: a reader in between sees nothing, or half (``open("xb")``)."""

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data[: len(data) // 2])
            stream.flush()
            time.sleep(WINDOW_S * 5)
            stream.write(data[len(data) // 2 :])
        return True


class LastWinsStore(LocalStore):
    """Tells the truth to whoever comes late, but a rename puts the last writer's bytes under the first one's name."""

    def create(self, key: str, data: bytes) -> bool:
        token = self._path(f"{key}.claimed")
        token.parent.mkdir(parents=True, exist_ok=True)
        try:
            token.mkdir()
            is_first = True
        except FileExistsError:
            is_first = False
        fresh = Path(f"{self._path(key)}.{secrets.token_hex(4)}")
        fresh.write_bytes(data)
        fresh.rename(self._path(key))
        return is_first


class NestsFoldersStore(LocalStore):
    """Renames a folder onto a taken name by putting it inside, and says yes: as HDFS does."""

    def rename_folder(self, source: str, target: str) -> bool:
        if not super().rename_folder(source, target):
            Path(self._path(source)).rename(self._path(f"{target}/{source.rpartition('/')[2]}"))
        return True


class ForgetfulStore(LocalStore):
    """Remembers for ever that a name was absent: as a listing cache does."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(root)
        self._absent: set[str] = set()

    def read(self, key: str, *, limit_bytes: int) -> bytes | None:
        data = None if key in self._absent else super().read(key, limit_bytes=limit_bytes)
        if data is None:
            self._absent.add(key)
        return data


def _root(url: str) -> str:
    return url.removeprefix("file://")


def open_check_then_act(url: str) -> CheckThenActStore:
    """Open it by its address."""
    return CheckThenActStore(_root(url))


def open_shows_parts(url: str) -> ShowsPartsStore:
    """Open it by its address."""
    return ShowsPartsStore(_root(url))


def open_last_wins(url: str) -> LastWinsStore:
    """Open it by its address."""
    return LastWinsStore(_root(url))


def open_nests_folders(url: str) -> NestsFoldersStore:
    """Open it by its address."""
    return NestsFoldersStore(_root(url))


def open_forgetful(url: str) -> ForgetfulStore:
    """Open it by its address."""
    return ForgetfulStore(_root(url))


def open_hanging(url: str) -> LocalStore:
    """Never return, in any time that somebody would wait."""
    time.sleep(3600)
    return LocalStore(_root(url))
