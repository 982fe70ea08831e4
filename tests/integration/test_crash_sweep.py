"""A fault at every storage call of every verb: old state or new, never between; running it again completes.

The default run takes every writing call with the faults in turn; ``-m proof`` takes a quarter of all pairs of call and
fault, and with ``CLIPPERFS_PROOF_SCALE=4`` each of them.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from clipperfs.checking import runner
from clipperfs.checking.request import CheckRequest
from clipperfs.documents import Verdict
from clipperfs.errors import ClipperfsError, StorageError
from clipperfs.testing.fault_store import Crashed, Fault
from tests.integration.fault_world import FAULTS, VERBS, Kind, Seen, World, is_writing, judge, quick_folder, sample

SCALE = int(os.environ.get("CLIPPERFS_PROOF_SCALE", "1"))
EVERY = max(1, 4 // SCALE)
CHAINS = 50 * SCALE
Choice = Callable[[list[tuple[str, str]]], Iterable[tuple[int, Fault]]]
numbers = itertools.count()
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
def place() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def prepared(place: Path) -> dict[Kind, World]:
    """Return a filled registry of each kind, to be cloned."""
    return {kind: World(place / kind / "prepared", kind).prepare() for kind in KINDS}


@pytest.fixture
def room(place: Path) -> Iterator[Path]:
    """Return a folder for the clones of one test."""
    folder = place / f"room-{next(numbers)}" / "x"
    yield folder
    shutil.rmtree(folder.parent)


def run_with_fault(world: World, verb: str, at: int, fault: Fault) -> str:
    """Run a verb that meets a fault; return which call met it. Only the storage's errors may come out."""
    registry, faulty = world.open(at, fault)
    try:
        VERBS[verb](world, registry)
    except (ClipperfsError, Crashed) as error:
        assert isinstance(error, Crashed | StorageError), f"call {at} {faulty.calls[-1]}: {error!r}"
    return f"{verb}, {fault} at call {at}: {faulty.calls[at - 1] if at <= len(faulty.calls) else 'none'}"


def sweep(origin: World, verb: str, room: Path, choose: Choice) -> int:
    """Try the points of one verb that are chosen; return how many there were."""
    before = origin.see()
    undisturbed = origin.clone(room / "undisturbed")
    registry, counted = undisturbed.open()
    VERBS[verb](undisturbed, registry)
    after = undisturbed.see()
    assert after != before or verb == "materialise"
    points = list(choose(counted.calls))
    assert points and (verb == "materialise" or any(is_writing(call) for call in counted.calls))
    in_place = origin.kind == "memory"
    for at, fault in points:
        world = origin.clone(room / f"world-{at}-{fault}")
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
    prepared: dict[Kind, World], room: Path, kind: Kind, verb: str
) -> None:
    assert sweep(prepared[kind], verb, room, sample) >= 3


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_fault_at_every_call_leaves_old_or_new_and_rerun_completes(
    prepared: dict[Kind, World], room: Path, kind: Kind, verb: str
) -> None:
    def choose(calls: list[tuple[str, str]]) -> list[tuple[int, Fault]]:
        offset = list(VERBS).index(verb) % EVERY
        return [(at, fault) for at in range(1, len(calls) + 1) for fault in FAULTS][offset::EVERY]

    points = sweep(prepared[kind], verb, room, choose)
    print(f"fault sweep: {kind}, {verb}: {points} points")


@pytest.mark.parametrize("kind", KINDS)
def test_publish_that_nobody_ran_again_is_collected_and_its_name_is_free(
    prepared: dict[Kind, World], room: Path, kind: Kind
) -> None:
    """What a dead publisher left is nobody's plain copy, and must not come to pass for one."""
    before = prepared[kind].see()
    counted = publish_elsewhere(prepared[kind].clone(room / "undisturbed"))
    for at in [number for number, call in enumerate(counted, 1) if is_writing(call)]:
        world = prepared[kind].clone(room / f"world-{at}")
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
def test_faults_in_a_row_end_where_an_undisturbed_run_ends(prepared: dict[Kind, World], room: Path, kind: Kind) -> None:
    """Running it again may fail too, several times and each time elsewhere."""
    for seed in range(CHAINS):
        chance = random.Random(seed)
        verb = chance.choice(list(VERBS))
        before = prepared[kind].see()
        undisturbed = prepared[kind].clone(room / "undisturbed")
        registry, counted = undisturbed.open()
        VERBS[verb](undisturbed, registry)
        after = undisturbed.see()
        world = prepared[kind].clone(room / "world")
        for _ in range(chance.randint(2, 5)):
            point = run_with_fault(world, verb, chance.randint(1, len(counted.calls)), chance.choice(FAULTS))
            problem = judge(before, after, world.see(), in_place=kind == "memory")
            assert problem is None, f"seed {seed}: {point}: {problem}"
        again, _ = world.open()
        VERBS[verb](world, again)
        assert world.see() == after, f"seed {seed}: {verb}"
        undisturbed.remove()
        world.remove()


def test_sweep_would_notice_a_payload_that_changed(prepared: dict[Kind, World], room: Path) -> None:
    world = prepared["local"].clone(room / "world")
    target = Path(world.store.local_path("models/m/versions/2/weights.bin") or "")
    target.write_bytes(os.urandom(target.stat().st_size))
    with pytest.raises(AssertionError):
        world.see()


def test_sweep_would_notice_a_record_too_many_and_a_half_version(prepared: dict[Kind, World], room: Path) -> None:
    before = prepared["memory"].see()
    world = prepared["memory"].clone(room / "world")
    registry, _ = world.open()
    registry.policy("m", {"replicas": 3})
    after = world.see()
    registry.policy("m", {"replicas": 4})
    assert judge(before, after, after, in_place=True) is None
    assert "the log of m" in (judge(before, after, world.see(), in_place=True) or "")
    world.store.upload(world.source("new") / "weights.bin", "models/m/versions/new/weights.bin")
    half = Seen(after.logs, world.see().versions)
    assert "new is incoming" in (judge(before, after, half, in_place=False) or "")
