"""Disks that are full or read-only, at every amount of room: an error that names the file, and nothing half done."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipperfs.checking import runner
from clipperfs.errors import StorageDenied, StorageFull
from tests.integration import syscall_steps
from tests.integration.fault_world import VERBS, World, judge

pytestmark = [pytest.mark.root, pytest.mark.proof, pytest.mark.timeout(600)]

PAGE = 4096
DISK_BYTES = 128 * PAGE
FILLING = ("publish", "publish and activate", "activate", "rollback", "seal", "materialise", "policy", "app register")


@pytest.fixture(autouse=True)
def _hooks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "run_hooks", syscall_steps.answer)


class SmallDisk:
    """A filesystem of a few pages, in memory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._options("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place))

    def leave(self, room_bytes: int) -> None:
        """Fill it until so much is free."""
        with open(self.place / "ballast", "wb") as ballast:
            free = os.statvfs(self.place)
            ballast.write(b"\0" * max(0, free.f_bavail * free.f_frsize - room_bytes))

    def empty(self) -> None:
        """Make room again."""
        (self.place / "ballast").unlink()

    def remount(self, how: str) -> None:
        """Make it read-only (``ro``) or writable (``rw``)."""
        self._options("mount", "-o", f"remount,{how}", str(self.place))

    def remove(self) -> None:
        subprocess.run(["umount", "-l", str(self.place)], check=False, capture_output=True)

    def _options(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")


@pytest.fixture(params=["registry", "cache"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[World, SmallDisk]]:
    """Return a prepared registry of which one folder is a small disk."""
    world = World(tmp_path / "w", "local")
    folder = world.place / request.param
    folder.mkdir(parents=True)
    disk = SmallDisk(folder)
    try:
        yield world.prepare(), disk
    finally:
        disk.remove()


@pytest.mark.parametrize("verb", FILLING)
def test_verb_on_a_disk_of_any_room_leaves_old_or_new_and_rerun_completes(
    setting: tuple[World, SmallDisk], verb: str
) -> None:
    world, disk = setting
    before = world.see()
    undisturbed = world.clone(world.place.with_name("undisturbed"))
    VERBS[verb](undisturbed, undisturbed.open()[0])
    after = undisturbed.see()
    registry, _ = world.open()
    refused = 0
    for room in range(0, DISK_BYTES, PAGE):
        disk.leave(room)
        try:
            VERBS[verb](world, registry)
            break
        except StorageFull as error:
            refused += 1
            assert error.fields["key"] in error.message and "make room" in (error.hint or "")
        finally:
            disk.empty()
        problem = judge(before, after, world.see(), in_place=False)
        assert problem is None, f"{room} bytes of room: {problem}"
    VERBS[verb](world, registry)
    assert world.see() == after
    print(f"full disk: {disk.place.name}, {verb}: refused {refused} times")


def test_read_only_disk_is_denied_and_named(setting: tuple[World, SmallDisk]) -> None:
    world, disk = setting
    registry, _ = world.open()
    before = world.see()
    disk.remount("ro")
    try:
        with pytest.raises(StorageDenied, match="read-only"):
            registry.publish("m", "new", world.source("new"), activate=True)
        if disk.place.name == "registry":
            assert world.see() == before
    finally:
        disk.remount("rw")
    registry.publish("m", "new", world.source("new"), activate=True)
    assert registry.verify().ok
