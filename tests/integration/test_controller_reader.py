"""Following ledgers: new heads are found, and a log that contradicts what was seen is never followed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from clipperfs.serverd.reader import PROBED_AT_ONCE, RegistryReader
from clipperfs.serverd.statedir import StateDir

from clipperfs import Registry
from clipperfs.errors import NotFound, StorageUnavailable, StoredDataError
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


def test_poll_over_a_network_costs_the_same_however_many_models_there_are(tmp_path: Path) -> None:
    costs = {}
    for count in (3, 60):
        registry = Registry.init(f"memory://poll-{count}-{tmp_path}", cache_dir=tmp_path / "cache")
        for number in range(count):
            registry.policy(f"m{number}", {"replicas": 2})
        (tmp_path / f"state-{count}").mkdir()
        store = FaultStore(registry.store)
        mine = registry.workspace
        reader = RegistryReader(Workspace(store, mine.cache, mine.actor), StateDir(tmp_path / f"state-{count}"), None)
        assert len(reader.look(full=True).models) == count
        store.calls.clear()
        assert reader.look(full=False).changed == ()
        quiet = len(store.calls)
        registry.policy("m1", {"replicas": 3})
        store.calls.clear()
        assert [str(subject) for subject in reader.look(full=False).changed] == ["model m1"]
        costs[count] = (quiet, len(store.calls))
    assert costs[60][0] == 2 + PROBED_AT_ONCE
    assert costs[60][0] <= costs[3][0] + PROBED_AT_ONCE - 3
    assert costs[60][1] <= costs[3][1] + 2 and costs[60][1] < 20


def test_new_head_over_a_network_is_found_in_turn_without_its_hint(tmp_path: Path) -> None:
    registry = Registry.init(f"memory://turn-{tmp_path}", cache_dir=tmp_path / "cache")
    for number in range(10):
        registry.policy(f"m{number}", {"replicas": 2})
    (tmp_path / "state").mkdir()
    reader = RegistryReader(registry.workspace, StateDir(tmp_path / "state"), None)
    reader.look(full=True)
    registry.policy("m7", {"replicas": 3})
    registry.store.delete_folder("changes")
    looks = 1
    while not reader.look(full=False).changed:
        looks += 1
    assert looks <= -(-10 // PROBED_AT_ONCE)


def test_new_model_over_a_network_is_found_by_its_hint(tmp_path: Path) -> None:
    registry = Registry.init(f"memory://new-{tmp_path}", cache_dir=tmp_path / "cache")
    (tmp_path / "state").mkdir()
    reader = RegistryReader(registry.workspace, StateDir(tmp_path / "state"), None)
    reader.look(full=True)
    registry.policy("m", {"replicas": 2})
    assert "m" in reader.look(full=False).models


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


def counted_reader(registry: Registry, state: StateDir, models: list[str] | None) -> tuple[RegistryReader, FaultStore]:
    store = FaultStore(registry.store)
    mine = registry.workspace
    return RegistryReader(Workspace(store, mine.cache, mine.actor), state, models), store


def test_named_models_cost_the_same_beside_any_number_of_others(registry: Registry, state: StateDir) -> None:
    registry.policy("m", {"replicas": 2})
    counted_reader(registry, state, ["m"])[0].look(full=True)
    costs = []
    for others in (0, 20):
        for number in range(others):
            registry.policy(f"other-{number}", {"replicas": 2})
        shutil.rmtree(root(registry) / "changes")
        reader, store = counted_reader(registry, state, ["m"])
        reader.look(full=True)
        assert ("list", "models") not in store.calls
        costs.append(len(store.calls))
    assert costs[0] == costs[1]


def test_sweep_of_a_ledger_without_news_costs_two_calls(registry: Registry, state: StateDir) -> None:
    registry.policy("m", {"replicas": 2})
    reader, store = counted_reader(registry, state, ["m"])
    reader.look(full=True)
    store.calls.clear()
    reader.look(full=True)
    assert [method for method, key in store.calls if key.startswith("models/")] == ["stat", "read"]


def test_heads_of_a_look_are_remembered_all_at_once_and_before_it_returns(
    registry: Registry, state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        registry.policy(f"m-{number}", {"replicas": 2})
    written: list[str] = []
    write = state.write

    def note(name: str, data: bytes) -> None:
        written.append(name)
        write(name, data)

    monkeypatch.setattr(state, "write", note)
    open_reader(registry, state).look(full=True)
    assert written == ["heads.json"]
    assert all(f"model/m-{number}".encode() in (state.read("heads.json") or b"") for number in range(5))


def test_heads_before_a_fault_are_remembered(registry: Registry, state: StateDir) -> None:
    for name in ("a", "b"):
        registry.policy(name, {"replicas": 2})
    reader, store = counted_reader(registry, state, ["a", "b"])
    reader.look(full=True)
    registry.policy("a", {"replicas": 3})
    registry.policy("b", {"replicas": 3})
    at = next(at for at in range(1, 100) if _fails_after_a(reader, store, at))
    assert at > 1
    assert b'"model/a": [2' in (state.read("heads.json") or b"")


def _fails_after_a(reader: RegistryReader, store: FaultStore, at: int) -> bool:
    """Let the call with number ``at`` of a look fail; say whether that was one about the second model."""
    store.calls.clear()
    store.at = at
    try:
        reader.look(full=True)
    except StorageUnavailable:
        return store.calls[-1][1].startswith("models/b/")
    return True
