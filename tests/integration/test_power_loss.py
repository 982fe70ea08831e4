"""Power that is cut: what was acknowledged is there after the mount, and what was not is there whole or not at all.

One point in eight of those at which a process dies by default, all with ``CLIPPERFS_PROOF_SCALE=8``.
"""

from __future__ import annotations

import itertools
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from clipperfs.checking import runner
from clipperfs.store import Store, local
from tests.integration import syscall_steps
from tests.integration.fault_world import VERBS, World, judge, quick_folder
from tests.integration.power_disk import CannotMount, PowerDisk
from tests.integration.test_syscall_sweep import Tracer

pytestmark = [pytest.mark.proof, pytest.mark.root, pytest.mark.timeout(1800)]

SCALE = int(os.environ.get("CLIPPERFS_PROOF_SCALE", "1"))
EVERY = max(1, 8 // SCALE)
REPEATS = SCALE
DYING = ("publish", "publish and activate", "activate", "rollback", "seal", "collect", "materialise")


class Lab:
    """A prepared registry on a filesystem, of which each test takes a copy."""

    def __init__(self, room: Path, kind: str) -> None:
        self.room = room
        self.numbers = itertools.count()
        self.disk = PowerDisk(room / "prepared.img", room / "disk", kind).make()
        World(self.disk.place / "w", "local").prepare().see()
        self.disk.unmount()

    def copy(self) -> tuple[PowerDisk, World]:
        """Return a copy of the disk, mounted, and the registry on it."""
        disk = self.disk.copy(self.room / f"{next(self.numbers)}.img")
        return disk, World(disk.place / "w", "local")

    def run(self, verb: str, *, is_cut: bool) -> object:
        """Run a verb to its end and return what is seen then, or what is seen after the power was cut."""
        disk, world = self.copy()
        try:
            registry, _ = world.open()
            VERBS[verb](world, registry)
            if is_cut:
                disk.cut()
            return world.see()
        finally:
            disk.remove()


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with quick_folder() as room, pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "run_hooks", syscall_steps.answer)
        try:
            made = Lab(room, request.param)
        except CannotMount as error:
            pytest.skip(f"no {request.param} on a loop device: {error}")
        try:
            yield made
        finally:
            made.disk.remove()


@pytest.mark.parametrize("verb", VERBS)
def test_what_was_acknowledged_survives(lab: Lab, verb: str) -> None:
    expected = lab.run(verb, is_cut=False)
    for _ in range(REPEATS):
        assert lab.run(verb, is_cut=True) == expected


@pytest.mark.needs("strace")
@pytest.mark.parametrize("verb", DYING)
def test_process_that_dies_with_the_power_leaves_old_or_new_and_rerun_completes(
    lab: Lab, tmp_path: Path, verb: str
) -> None:
    tracer = Tracer(tmp_path)
    try:
        disk, world = lab.copy()
        before = world.see()
        assert tracer.run(verb, world) == 0
        points = [point for point in tracer.points() if point.error is None]
        after = world.see()
        disk.remove()
        tried = points[DYING.index(verb) % EVERY :: EVERY]
        for point in tried:
            disk, world = lab.copy()
            try:
                assert tracer.run(verb, world, point) in (-signal.SIGKILL, 0)
                disk.cut()
                problem = judge(before, after, world.see(), in_place=False)
                assert problem is None, f"{verb}, {point.injection}: {problem}"
                assert tracer.run(verb, world, is_traced=False) == 0, (
                    f"{verb}, {point.injection}: running it again fails"
                )
                disk.cut()
                assert world.see() == after, f"{verb}, {point.injection}: running it again ends elsewhere"
            finally:
                disk.remove()
        print(f"power loss: {lab.disk.kind}, {verb}: {len(tried)} points")
    finally:
        tracer.stop()


STORE_CALLS: dict[str, Callable[[Store, Path], object]] = {
    "create": lambda store, source: store.create("models/m/log/1.json", b"content"),
    "create in a new folder": lambda store, source: store.create("apps/new/log/1.json", b"content"),
    "replace": lambda store, source: store.replace("models/m/active.json", b"content"),
    "upload and rename": lambda store, source: (
        store.upload(source, "models/m/versions/.staging-00/sub/file"),
        store.rename_folder("models/m/versions/.staging-00", "models/m/versions/9"),
    ),
    "delete": lambda store, source: store.delete("models/m/versions/2/weights.bin"),
    "delete a folder": lambda store, source: store.delete_folder("models/m/versions/2"),
}


def content_after_cut(lab: Lab, call: str) -> tuple[dict[str, bytes | None], dict[str, bytes | None]]:
    """Return what a store shows when a call has returned, and when the power was cut at that moment."""
    disk, world = lab.copy()
    try:
        STORE_CALLS[call](world.store, world.source("1") / "weights.bin")
        now = _content(world.store)
        disk.cut()
        return now, _content(world.store)
    finally:
        disk.remove()


def _content(store: Store) -> dict[str, bytes | None]:
    return {
        f"{top}/{entry.name}": store.read(f"{top}/{entry.name}", limit_bytes=1 << 20)
        for top in ("models", "apps")
        for entry in store.walk(top)
    }


@pytest.mark.parametrize("call", STORE_CALLS)
def test_what_a_store_has_answered_survives(lab: Lab, call: str) -> None:
    for _ in range(REPEATS):
        now, later = content_after_cut(lab, call)
        assert now == later


@pytest.mark.parametrize("forgotten", ["folders", "files"])
def test_store_that_forgets_to_sync_is_found_out(lab: Lab, monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    fsync = os.fsync

    def forgetful(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if is_folder != (forgotten == "folders"):
            fsync(descriptor)

    monkeypatch.setattr(local, "os", SimpleNamespace(**{**vars(os), "fsync": forgetful}))
    outcomes = {call: content_after_cut(lab, call) for call in STORE_CALLS}
    lost = [call for call, (now, later) in outcomes.items() if now != later]
    print(f"power loss: {lab.disk.kind}, no sync of {forgotten}: lost after {', '.join(lost)}")
    assert "create" in lost
