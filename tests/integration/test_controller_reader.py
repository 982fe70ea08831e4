"""Following ledgers: new heads are found, and a log that contradicts what was seen is never followed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from clipperfs.serverd.reader import RegistryReader
from clipperfs.serverd.statedir import StateDir

from clipperfs import Registry
from clipperfs.errors import NotFound, StoredDataError
from clipperfs.testing.fault_store import FaultStore
from clipperfs.workspace import Workspace


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    path = tmp_path / "state"
    path.mkdir()
    return StateDir(path)


@pytest.fixture
def reader(registry: Registry, state: StateDir) -> RegistryReader:
    return open_reader(registry, state)


def open_reader(registry: Registry, state: StateDir, models: list[str] | None = None) -> RegistryReader:
    """Return a reader as a fresh daemon has it: no ledger has been read before."""
    mine = registry.workspace
    return RegistryReader(Workspace(mine.store, mine.cache, mine.actor), state, models)


def root(registry: Registry) -> Path:
    path = registry.store.local_path("registry.json")
    assert path is not None
    return path.parent


def test_new_heads_are_found_and_old_ones_are_not_told_again(registry: Registry, reader: RegistryReader) -> None:
    assert reader.look(full=True).changed == ()
    registry.policy("m", {"replicas": 2})
    look = reader.look(full=False)
    assert [str(subject) for subject in look.changed] == ["model m"]
    assert look.models["m"].state.policy.replicas == 2
    assert reader.look(full=False).changed == ()
    registry.policy("m", {"replicas": 3})
    assert reader.look(full=False).models["m"].seq == 2


def test_new_head_is_found_without_its_hint(registry: Registry, reader: RegistryReader) -> None:
    registry.policy("m", {"replicas": 2})
    reader.look(full=True)
    registry.policy("m", {"replicas": 3})
    shutil.rmtree(root(registry) / "changes")
    assert reader.look(full=False).models["m"].seq == 2


def test_only_the_named_models_are_read(registry: Registry, state: StateDir) -> None:
    registry.policy("m", {"replicas": 2})
    registry.policy("n", {"replicas": 2})
    assert set(open_reader(registry, state, ["n"]).look(full=True).models) == {"n"}


def test_head_is_remembered_across_a_restart(registry: Registry, state: StateDir, reader: RegistryReader) -> None:
    registry.policy("m", {"replicas": 2})
    reader.look(full=True)
    look = open_reader(registry, state).look(full=True)
    assert look.models["m"].seq == 1
    assert look.alarms == {}


def rewrite(folder: Path) -> None:
    """Put another valid record in the place of one that was followed."""
    path = folder / "00000000000000000002.json"
    path.write_bytes(path.read_bytes().replace(b'"replicas": 3', b'"replicas": 7'))


def move_back(folder: Path) -> None:
    """Take the newest record away, as an older copy of the registry has it."""
    (folder / "00000000000000000002.json").unlink()


def empty(folder: Path) -> None:
    """Take every record away."""
    shutil.rmtree(folder)
    folder.mkdir()


def damage(folder: Path) -> None:
    """Cut the newest record short."""
    path = folder / "00000000000000000002.json"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("harm", "told"),
    [(rewrite, "rewritten"), (move_back, "moved back"), (empty, "is gone"), (damage, "is damaged")],
)
@pytest.mark.parametrize("restarted", [False, True])
def test_log_that_contradicts_what_was_seen_raises_an_alarm_and_is_not_followed(
    registry: Registry,
    state: StateDir,
    reader: RegistryReader,
    harm: Callable[[Path], None],
    told: str,
    restarted: bool,
) -> None:
    registry.policy("m", {"replicas": 2})
    registry.policy("m", {"replicas": 3})
    reader.look(full=True)
    folder = root(registry) / "models" / "m" / "log"
    saved = {path.name: path.read_bytes() for path in folder.iterdir()}
    harm(folder)
    if restarted:
        reader = open_reader(registry, state)
    look = reader.look(full=True)
    assert told in look.alarms["model m"]
    assert look.changed == ()
    for name, data in saved.items():
        (folder / name).write_bytes(data)
    look = reader.look(full=False)
    assert look.alarms == {}
    assert look.models["m"].seq == 2


def test_log_that_was_forked_and_grew_is_not_followed(registry: Registry, state: StateDir, tmp_path: Path) -> None:
    registry.policy("m", {"replicas": 2})
    shutil.copytree(root(registry), tmp_path / "copy")
    registry.policy("m", {"replicas": 3})
    open_reader(registry, state).look(full=True)
    other = Registry(tmp_path / "copy", cache_dir=tmp_path / "cache")
    for replicas in (4, 5, 6):
        other.policy("m", {"replicas": replicas})
    shutil.rmtree(root(registry))
    shutil.move(tmp_path / "copy", root(registry))
    look = open_reader(registry, state).look(full=True)
    assert "rewritten" in look.alarms["model m"]
    assert look.models == {}


def test_another_registry_in_its_place_is_refused(registry: Registry, state: StateDir, tmp_path: Path) -> None:
    registry.policy("m", {"replicas": 2})
    open_reader(registry, state).look(full=True)
    Registry.init(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "registry.json", root(registry) / "registry.json")
    with pytest.raises(StoredDataError, match="another registry"):
        open_reader(registry, state).look(full=True)


def test_registry_that_is_gone_is_told_as_such(registry: Registry, reader: RegistryReader) -> None:
    reader.look(full=True)
    shutil.rmtree(root(registry))
    with pytest.raises(NotFound):
        reader.look(full=False)


def test_one_damaged_ledger_keeps_no_other_from_being_followed(registry: Registry, reader: RegistryReader) -> None:
    registry.policy("m", {"replicas": 2})
    registry.policy("n", {"replicas": 2})
    (root(registry) / "models" / "m" / "log" / "00000000000000000001.json").write_text("{")
    look = reader.look(full=True)
    assert set(look.models) == {"n"}
    assert set(look.alarms) == {"model m"}


def test_unknown_feature_stops_following_that_ledger_only(registry: Registry, reader: RegistryReader) -> None:
    registry.policy("m", {"replicas": 2})
    reader.look(full=True)
    path = root(registry) / "models" / "m" / "log" / "00000000000000000001.json"
    registry.policy("m", {"replicas": 3})
    newest = path.with_name("00000000000000000002.json")
    newest.write_bytes(newest.read_bytes().replace(b'"requires": []', b'"requires": ["time-travel"]'))
    look = reader.look(full=True)
    assert "time-travel" in look.alarms["model m"]
    assert look.models["m"].seq == 1


def test_a_memory_that_cannot_be_written_is_an_alarm_and_following_goes_on(
    registry: Registry, state: StateDir, reader: RegistryReader
) -> None:
    (state.path / ".heads.json.new").mkdir()
    registry.policy("m", {"replicas": 2})
    look = reader.look(full=True)
    assert "heads.json" in look.alarms
    assert look.models["m"].seq == 1


def test_cost_of_a_look_does_not_grow_with_the_number_of_models(registry: Registry, state: StateDir) -> None:
    counting = FaultStore(registry.store)
    mine = registry.workspace
    reader = RegistryReader(Workspace(counting, mine.cache, mine.actor), state, None)
    costs = []
    for count in (40, 80):
        for number in range(count):
            registry.policy(f"m{number}", {"replicas": 2})
        reader.look(full=True)
        reader.look(full=False)
        counting.calls.clear()
        assert reader.look(full=False).changed == ()
        costs.append(len(counting.calls))
    assert costs == [2, 2], "registry.json and one listing of the hints"
    registry.policy("m7", {"replicas": 3})
    assert [str(subject) for subject in reader.look(full=False).changed] == ["model m7"]
