"""Tools that copy a version into a registry, as they really do: in parts, in any order, under temporary names, slowly.

A plan is a list of steps with the simulated seconds before each. Every step changes the listing, so a tool that pauses
for less than a poll is seen to move.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from clipperfs.store.memory import MemoryStore

Mode = Literal["manifest", "marker", "early marker", "quiescent"]
"""``manifest``: the copy brings one, in any place of the order. ``marker``: comes last, after any pause.
``early marker``: comes at any time, from a tool that does not pause for a whole poll. ``quiescent``: neither; the tool
does not pause for ``quiet_s``."""

POLL_S = 2.0
QUIET_S = 10.0
TICK_S = 0.005
"""Longer than the steps of the system's clock for files: so that a change of the bytes alone shows in the listing."""


class Target(Protocol):
    """Where a tool copies to."""

    def write(self, name: str, data: bytes) -> None:
        """Make or overwrite a file."""

    def append(self, name: str, data: bytes) -> None:
        """Let a file grow."""

    def patch(self, name: str, offset: int, data: bytes) -> None:
        """Write into a file without changing its size."""

    def rename(self, name: str, goal: str) -> None:
        """Move a file into place."""

    def remove_folder(self, name: str) -> None:
        """Remove a folder of temporary files."""

    def content(self) -> dict[str, bytes]:
        """Return every file."""


class LocalTarget:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def append(self, name: str, data: bytes) -> None:
        with open(self.root / name, "ab") as stream:
            stream.write(data)

    def patch(self, name: str, offset: int, data: bytes) -> None:
        time.sleep(TICK_S)
        with open(self.root / name, "r+b") as stream:
            stream.seek(offset)
            stream.write(data)

    def rename(self, name: str, goal: str) -> None:
        (self.root / goal).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).rename(self.root / goal)

    def remove_folder(self, name: str) -> None:
        shutil.rmtree(self.root / name, ignore_errors=True)

    def content(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes() for path in self.root.rglob("*") if path.is_file()
        }


class ObjectTarget:
    """A prefix of an object store: files appear whole."""

    def __init__(self, store: MemoryStore, prefix: str) -> None:
        self.store = store
        self.prefix = prefix

    def write(self, name: str, data: bytes) -> None:
        self.store.replace(f"{self.prefix}/{name}", data)

    def append(self, name: str, data: bytes) -> None:
        raise AssertionError("objects do not grow")

    def patch(self, name: str, offset: int, data: bytes) -> None:
        raise AssertionError("objects are not written in place")

    def rename(self, name: str, goal: str) -> None:
        self.write(goal, self.content()[name])
        self.store.delete(f"{self.prefix}/{name}")

    def remove_folder(self, name: str) -> None:
        self.store.delete_folder(f"{self.prefix}/{name}")

    def content(self) -> dict[str, bytes]:
        found = {}
        for entry in self.store.walk(self.prefix):
            with self.store.open(f"{self.prefix}/{entry.name}") or open("/dev/null", "rb") as stream:
                found[entry.name] = stream.read()
        return found


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a tool does, and for how long it waits before."""

    pause_s: float
    what: str
    act: Callable[[Target], None]


Act = tuple[str, Callable[[Target], None]]


def plan(chance: random.Random, files: dict[str, bytes], mode: Mode, *, is_object_store: bool) -> list[Step]:
    """Return how a tool copies ``files``: several at once, each in its own way, in a random order.

    Args:
        files: what is there in the end; with ``manifest.json`` in the mode of that name.
    """
    uses_temporary = mode in ("marker", "manifest") and chance.random() < 0.3
    ways = [_deliver(chance, name, data, is_object_store, uses_temporary) for name, data in files.items()]
    marker: Act = ("marker", lambda target: target.write(chance.choice(["READY", "_SUCCESS"]), b""))
    if mode == "early marker":
        ways.append([marker])
    acts: list[Act] = []
    streams = chance.choice([1, 2, len(ways)])
    chance.shuffle(ways)
    running, waiting = ways[:streams], ways[streams:]
    while running:
        stream = chance.choice(running)
        acts.append(stream.pop(0))
        if not stream:
            running.remove(stream)
            if waiting:
                running.append(waiting.pop(0))
    if uses_temporary:
        acts.append(("remove _temporary", lambda target: target.remove_folder("_temporary")))
    if mode == "marker":
        acts.append(marker)
    return [Step(_pause(chance, mode), what, act) for what, act in acts]


def _pause(chance: random.Random, mode: Mode) -> float:
    if mode == "early marker":
        return chance.uniform(0, 0.95 * POLL_S)
    if mode == "quiescent":
        return chance.choice([chance.uniform(0, 1), chance.uniform(0, 0.95 * QUIET_S)])
    return chance.choice([chance.uniform(0, 0.5), chance.uniform(0, 5), chance.uniform(0, 60)])


def _deliver(chance: random.Random, name: str, data: bytes, is_object_store: bool, uses_temporary: bool) -> list[Act]:
    """Return how one file arrives."""
    if is_object_store:
        way = chance.choice(["at once", "twice", "renamed"])
    else:
        way = chance.choice(["at once", "grows", "grows", "renamed", "in place", "twice"])
    if uses_temporary and chance.random() < 0.7:
        way = "temporary"
    if way == "at once":
        return [(f"write {name}", lambda target: target.write(name, data))]
    if way == "twice":
        other = chance.randbytes(max(1, len(data) + chance.choice([-7, 0, 9])))
        second = _grow(chance, name, data) if not is_object_store else [_whole(name, data)]
        return [_whole(name, other), *second]
    if way == "in place" and len(data) > 1:  # nothing at all, written in place, changes no listing
        return _in_place(chance, name, data)
    if way in ("renamed", "temporary"):
        folder, _, last = name.rpartition("/")
        beside = f"{folder}/.{last}.Xa{chance.randrange(1000)}".lstrip("/")
        interim = beside if way == "renamed" else f"_temporary/0/task-{chance.randrange(9)}/{name}"
        before = [_whole(interim, data)] if is_object_store else _grow(chance, interim, data)
        return [*before, (f"rename {name}", lambda target: target.rename(interim, name))]
    return _grow(chance, name, data)


def _whole(name: str, data: bytes) -> Act:
    return f"write {name}", lambda target: target.write(name, data)


def _grow(chance: random.Random, name: str, data: bytes) -> list[Act]:
    cuts = sorted(chance.sample(range(1, len(data)), min(len(data) - 1, chance.randrange(4)))) if len(data) > 1 else []
    parts = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    acts: list[Act] = [(f"begin {name}", lambda target: target.write(name, b""))] if chance.random() < 0.5 else []
    acts.append(_whole(name, parts[0]))
    return [*acts, *(_more(name, part) for part in parts[1:])]


def _more(name: str, data: bytes) -> Act:
    return f"append to {name}", lambda target: target.append(name, data)


def _in_place(chance: random.Random, name: str, data: bytes) -> list[Act]:
    """Take the full size first, as download managers do, and write the bytes later."""
    half = len(data) // 2
    parts = [(0, data[:half]), (half, data[half:])]
    chance.shuffle(parts)
    return [
        (f"reserve {name}", lambda target: target.write(name, b"\0" * len(data))),
        *((f"patch {name}", lambda target, at=at, part=part: target.patch(name, at, part)) for at, part in parts),
    ]
