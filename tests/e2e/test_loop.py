"""No storage call on an event loop: neither the controller's, which would stall every decision, nor a frontend's."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clipperfs.store.local import LocalStore
from tests.e2e.daemon_rig import Rig, wait_for
from tests.e2e.loop_guard import METHODS, NOTES, guard

ROOT = Path(__file__).parents[2]


def test_controller_makes_every_storage_call_on_a_thread(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = rig.place / "notes"
    monkeypatch.setenv(NOTES, str(notes))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("clipperfs.daemon_process.SERVERD", "tests.e2e.loop_guard")
    rig.publish("1", adopt="marker", activation="on-publish")
    with rig.running(sweep_s=0.2) as daemon:
        assert rig.ask()["output"] == "v1"
        rig.publish("2")
        wait_for(lambda: rig.ask()["output"] == "v2", 30)
        target = Path(rig.registry.store.local_path("models/m/versions/3") or "")
        shutil.copytree(rig.folder("3"), target)
        (target / "READY").touch()
        wait_for(lambda: rig.ask()["output"] == "v3", 30)
        rig.registry.rollback("m")
        daemon.reload()
        wait_for(lambda: rig.ask()["output"] == "v2", 30)
        assert daemon.status()["models"]
    lines = [line.split(" ", 3) for line in notes.read_text().splitlines()]
    assert [line for line in lines if line[0] == "loop"] == []
    made = {method for _, _, method, _ in lines}
    assert {"read", "open", "stat", "list", "create", "replace", "delete"} <= made, "the drill came by every room"
    assert {thread.rstrip("0123456789_") for _, thread, _, _ in lines} <= {"look", "fetch"}


def test_guard_notices_a_call_on_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in METHODS:  # put back at the end of the test
        monkeypatch.setattr(LocalStore, method, getattr(LocalStore, method))
    store = LocalStore(tmp_path)
    with open(tmp_path / "notes", "wb") as notes:
        guard("stat", notes.fileno())

        async def careless() -> None:
            store.stat("a")

        asyncio.run(careless())
        store.stat("b")
    lines = (tmp_path / "notes").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["loop", "thread"]


def test_frontend_has_no_store_at_all() -> None:
    look = "import sys, clipperfs.serverd.frontend; print([name for name in sys.modules if name.startswith(GONE)])"
    gone = "('clipperfs.store', 'clipperfs.ledger', 'clipperfs.registry', 'fsspec', 's3fs')"
    done = subprocess.run(
        [sys.executable, "-c", look.replace("GONE", gone)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
