"""A fault at every storage call of every verb: old state or new, never between; running it again completes.

The default run takes every writing call with the faults in turn; ``-m proof`` takes every call with every fault.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipperfs.checking import runner
from clipperfs.checking.request import CheckRequest
from clipperfs.documents import Verdict
from clipperfs.errors import ClipperfsError, StorageError
from clipperfs.testing.fault_store import Crashed, Fault
from tests.integration.fault_world import FAULTS, VERBS, Kind, Seen, World, each_point, is_writing, judge

SCALE = int(os.environ.get("CLIPPERFS_PROOF_SCALE", "1"))
CHAINS = 100 * SCALE
KINDS: tuple[Kind, ...] = ("local", "memory")


@pytest.fixture(autouse=True, scope="module")
def _hooks_at_once() -> Iterator[None]:
    """Let hooks answer without processes, and the disk without waiting: the sweep is about the order of storage calls,
    and there are thousands of runs."""

    def answer(request: CheckRequest) -> list[Verdict]:
        return [Verdict(hook=hook.name, outcome="passed") for hook in request.hooks]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "run_hooks", answer)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, World]:
    """Return a filled registry of each kind, to be cloned."""
    return {kind: World(tmp_path_factory.mktemp("prepared") / kind, kind).prepare() for kind in KINDS}


def run_with_fault(world: World, verb: str, at: int, fault: Fault) -> str:
    """Run a verb that meets a fault; return which call met it. Only the storage's errors may come out."""
    registry, faulty = world.open(at, fault)
    try:
        VERBS[verb](world, registry)
    except (ClipperfsError, Crashed) as error:
        assert isinstance(error, Crashed | StorageError), f"call {at} {faulty.calls[-1]}: {error!r}"
    return f"{verb}, {fault} at call {at}: {faulty.calls[at - 1] if at <= len(faulty.calls) else 'none'}"


def sweep(origin: World, verb: str, place: Path, *, is_full: bool) -> int:
    """Try the points of one verb; return how many there were."""
    before = origin.see()
    undisturbed = origin.clone(place / "undisturbed")
    registry, counted = undisturbed.open()
    VERBS[verb](undisturbed, registry)
    after = undisturbed.see()
    assert after != before or verb == "materialise"
    points = list(each_point(counted.calls, is_full=is_full))
    assert points and (verb == "materialise" or any(is_writing(call) for call in counted.calls))
    in_place = origin.kind == "memory"
    for at, fault in points:
        world = origin.clone(place / f"world-{at}-{fault}")
        point = run_with_fault(world, verb, at, fault)
        problem = judge(before, after, world.see(), in_place=in_place)
        assert problem is None, f"{point}: {problem}"
        again, _ = world.open()
        VERBS[verb](world, again)
        finished = world.see()
        assert finished == after, f"{point}: running it again ends elsewhere"
        check_collected(world, finished, point)
        world.remove()
    return len(points)


def check_collected(world: World, finished: Seen, point: str) -> None:
    """Collect two days later: nothing is left behind, and nothing but deleted payloads goes."""
    world.collect_later()
    assert world.leftovers() == [], point
    kept = {name: state for name, state in world.see().versions.items() if name != "m/deleted" and state != "purged"}
    expected = {name: state for name, state in finished.versions.items() if name in kept}
    assert kept == expected, point


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", KINDS)
def test_fault_at_every_call_leaves_old_or_new_and_rerun_completes(
    prepared: dict[Kind, World], tmp_path: Path, kind: Kind, verb: str
) -> None:
    assert sweep(prepared[kind], verb, tmp_path, is_full=False) >= 3


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_fault_at_every_call_leaves_old_or_new_and_rerun_completes(
    prepared: dict[Kind, World], tmp_path: Path, kind: Kind, verb: str, record_property: pytest.RecordProperty
) -> None:
    points = sweep(prepared[kind], verb, tmp_path, is_full=True)
    record_property("points", points)
    print(f"fault sweep: {kind}, {verb}: {points} points")


@pytest.mark.parametrize("kind", KINDS)
def test_publish_that_nobody_ran_again_is_collected_and_its_name_is_free(
    prepared: dict[Kind, World], tmp_path: Path, kind: Kind
) -> None:
    """What a dead publisher left is nobody's plain copy, so neither a person nor a daemon may come to take it for one."""
    before = prepared[kind].see()
    counted = publish_elsewhere(prepared[kind].clone(tmp_path / "undisturbed"))
    for at in [number for number, call in enumerate(counted, 1) if is_writing(call)]:
        world = prepared[kind].clone(tmp_path / f"world-{at}")
        point = run_with_fault(world, "publish", at, "crash-after")
        state = world.see().versions.get("m/new")
        world.collect_later()
        assert world.leftovers() == [], point
        expected = state if state == "complete" else before.versions.get("m/new")
        assert world.see().versions.get("m/new") == expected, point
        if expected is None:
            publish_elsewhere(world)  # other content, by somebody else


def publish_elsewhere(world: World) -> list[tuple[str, str]]:
    """Publish other content under the name that the verb ``publish`` takes; return the calls that it took."""
    registry, counted = world.open()
    registry.publish("m", "new", world.source("elsewhere"))
    return counted.calls


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_faults_in_a_row_end_where_an_undisturbed_run_ends(
    prepared: dict[Kind, World], tmp_path: Path, kind: Kind
) -> None:
    """Running it again may fail too, several times and each time elsewhere."""
    for seed in range(CHAINS):
        chance = random.Random(seed)
        verb = chance.choice(list(VERBS))
        before = prepared[kind].see()
        undisturbed = prepared[kind].clone(tmp_path / "undisturbed")
        registry, counted = undisturbed.open()
        VERBS[verb](undisturbed, registry)
        after = undisturbed.see()
        world = prepared[kind].clone(tmp_path / "world")
        for _ in range(chance.randint(2, 5)):
            point = run_with_fault(world, verb, chance.randint(1, len(counted.calls)), chance.choice(FAULTS))
            problem = judge(before, after, world.see(), in_place=kind == "memory")
            assert problem is None, f"seed {seed}: {point}: {problem}"
        again, _ = world.open()
        VERBS[verb](world, again)
        assert world.see() == after, f"seed {seed}: {verb}"
        undisturbed.remove()
        world.remove()


def test_sweep_would_notice_a_payload_that_changed(prepared: dict[Kind, World], tmp_path: Path) -> None:
    world = prepared["local"].clone(tmp_path / "world")
    target = Path(world.store.local_path("models/m/versions/2/weights.bin") or "")
    target.write_bytes(os.urandom(target.stat().st_size))
    with pytest.raises(AssertionError):
        world.see()


def test_sweep_would_notice_a_record_too_many_and_a_half_version(prepared: dict[Kind, World], tmp_path: Path) -> None:
    before = prepared["memory"].see()
    world = prepared["memory"].clone(tmp_path / "world")
    registry, _ = world.open()
    registry.policy("m", {"replicas": 3})
    after = world.see()
    registry.policy("m", {"replicas": 4})
    assert judge(before, after, after, in_place=True) is None
    assert "the log of m" in (judge(before, after, world.see(), in_place=True) or "")
    world.store.upload(world.source("new") / "weights.bin", "models/m/versions/new/weights.bin")
    half = Seen(after.logs, world.see().versions)
    assert "new is incoming" in (judge(before, after, half, in_place=False) or "")
