"""scale: what is asked of a large registry, and what each answer costs: time, processor time and storage calls.

``python -m benchmarks.scale --models 10000 --versions 100 --folder DIR`` makes a registry of that size in DIR, in
minutes, and finds it there the next time. The models that a daemon follows stay few: its costs must not grow with what
else there is.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import cpu_seconds, describe_machine, process_tree
from benchmarks.scale_registry import Size, lengthen, make_registry, model_at
from benchmarks.serving import daemon_pid, noop_files, run_daemon
from benchmarks.table import render_table, spread
from clipperfs import Registry
from clipperfs.registry import Registry as OpenRegistry
from clipperfs.store import Entry, Store
from clipperfs.testing.fault_store import FaultStore

LISTED_AT_ONCE = 1000
"""Names in one answer of an object store to a listing."""
LONG_MODEL, BUSY_MODEL = "ledger-long", "ledger-busy"


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the registries are, what of them is followed, and how often everything is measured."""

    sizes: tuple[Size, ...] = (Size(200, 20, loaded=5), Size(2_000, 20, loaded=5))
    followed: int = 50
    long_records: int = 20_000
    busy_records: int = 1_000
    rounds: int = 3
    window_s: float = 6.0


QUICK = Plan(
    sizes=(Size(20, 5, loaded=1), Size(60, 5, loaded=1)),
    followed=10,
    long_records=500,
    busy_records=100,
    rounds=1,
    window_s=1.0,
)


class CountingStore(FaultStore):
    """Counts the calls of a store: on an object store each is a request, a listing one for a thousand names."""

    def __init__(self, store: Store, *, is_far: bool) -> None:
        super().__init__(store)
        self.is_far = is_far
        self.pages = 0
        if is_far:
            self.capabilities = dataclasses.replace(store.capabilities, rename_folder=False, native_events=False)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        found = [*super().list(prefix, after=after)]
        self.pages += len(found) // LISTED_AT_ONCE
        return iter(found)

    def local_path(self, key: str) -> Path | None:
        return None if self.is_far else super().local_path(key)

    @property
    def requests(self) -> int:
        """Return how many there were so far."""
        return len(self.calls) + self.pages


def open_counted(registry: OpenRegistry, cache: Path, *, is_far: bool = False) -> tuple[OpenRegistry, CountingStore]:
    """Open a registry anew, as another process would, with its calls counted."""
    fresh = Registry(registry.url, cache_dir=cache)
    store = CountingStore(fresh.store, is_far=is_far)
    fresh.workspace.store = store
    return fresh, store


def run_scale(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure everything for each size; return plain data."""
    results = []
    for size in plan.sizes:
        place = folder / f"{size.models}x{size.versions}"
        place.mkdir(parents=True, exist_ok=True)
        began_s = time.monotonic()
        registry = make_registry(place / "registry", size)
        made_s = time.monotonic() - began_s
        _make_ledgers(registry, place, plan)
        rows: list[dict[str, Any]] = []
        for row in itertools.chain(
            _writes(registry, place, plan),
            _ledgers(registry, place, plan),
            _following(registry, place, size, plan),
            _commands(registry, place, plan),
        ):
            rows.append(row)
            print(_line(row), file=sys.stderr, flush=True)
        result = {"models": size.models, "versions": size.versions, "records": size.records, "made_s": made_s}
        results.append({**result, "rows": rows, "daemons": _daemons(registry, place, size, plan)})
    return {"plan": {"rounds": plan.rounds, "followed": plan.followed}, "sizes": results}


def _measure(name: str, plan: Plan, call: Callable[[], int | None], before: Callable[[], Any] = lambda: None) -> Any:
    """Return the time and the processor time of a call, and the storage calls that it says it made."""
    walls, cpus, counts = [], [], []
    for _ in range(plan.rounds):
        before()
        wall_s, cpu_s = time.perf_counter(), _cpu_s()
        count = call()
        walls.append((time.perf_counter() - wall_s) * 1000)
        cpus.append((_cpu_s() - cpu_s) * 1000)
        counts += [count] if count is not None else []
    row = {"what": name, "wall_ms": spread(walls).document(), "cpu_ms": spread(cpus).document()}
    return {**row, "calls": spread(counts).document() if counts else None}


def _cpu_s() -> float:
    """Return the processor time of this process and of the children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _counted(
    registry: OpenRegistry, cache: Path, work: Callable[[OpenRegistry], Any], *, is_far: bool = False
) -> Callable[[], int]:
    def call() -> int:
        fresh, store = open_counted(registry, cache, is_far=is_far)
        work(fresh)
        return store.requests

    return call


def _commands(registry: OpenRegistry, place: Path, plan: Plan) -> Iterator[Any]:
    cache, model = place / "cache", model_at(7)

    def shell(*words: str) -> Callable[[], None]:
        line = [sys.executable, "-m", "clipperfs.cli", *words, "--registry", registry.url]
        environment = {**os.environ, "CLIPPERFS_CACHE_DIR": str(cache)}

        def call() -> None:
            subprocess.run(line, check=True, capture_output=True, timeout=600, env=environment)

        return call

    yield _measure("clipperfs list", plan, shell("list"))
    yield _measure("clipperfs list 'model-0000*'", plan, shell("list", "model-0000*"))
    yield _measure("clipperfs show MODEL", plan, shell("show", model))
    yield _measure("names of all models", plan, _counted(registry, cache, lambda one: one.models()))
    yield _measure(
        "summaries of all models", plan, _counted(registry, cache, lambda one: [*map(one.summary, one.models())])
    )
    yield _measure("show a model", plan, _counted(registry, cache, lambda one: one.show(model)))
    yield _measure("history of a model", plan, _counted(registry, cache, lambda one: one.history(model)))
    yield _measure("verify a model", plan, _counted(registry, cache, lambda one: one.verify(model)))
    once = dataclasses.replace(plan, rounds=1)
    yield _measure("gc --dry-run", once, _counted(registry, cache, lambda one: one.collect(dry_run=True)))


def _make_ledgers(registry: OpenRegistry, place: Path, plan: Plan) -> None:
    """Make a model with many records and versions, and one with very many records."""
    root, files = place / "registry", place / "files"
    if not files.exists():
        noop_files(files)
    for name, count in ((BUSY_MODEL, plan.busy_records), (LONG_MODEL, plan.long_records)):
        registry.publish(name, "first", files)
        registry.policy(name, {"replicas": 0})
        head = registry.head(name)
        assert head is not None
        lengthen(root, head.record, head.digest, count)


def _writes(registry: OpenRegistry, place: Path, plan: Plan) -> Iterator[Any]:
    warm, cold, files = place / "cache", place / "cold", place / "files"
    turn = iter(range(10_000))
    start = f"{time.time_ns():x}"

    def publish(one: OpenRegistry) -> None:
        one.publish(BUSY_MODEL, f"v{start}-{next(turn)}", files)

    def forget() -> None:
        shutil.rmtree(cold, ignore_errors=True)

    name = f"a model of {plan.busy_records:,} records"
    yield _measure(f"publish to {name}, on a new host", plan, _counted(registry, cold, publish), forget)
    _counted(registry, warm, publish)()
    yield _measure(f"publish to {name}, again", plan, _counted(registry, warm, publish))

    def activate(one: OpenRegistry) -> None:
        versions = [view for view in one.summary(BUSY_MODEL).versions if view.startswith(f"v{start}")]
        one.activate(BUSY_MODEL, versions[next(turn) % len(versions)])

    yield _measure(f"activate in {name}", plan, _counted(registry, warm, activate))


def _ledgers(registry: OpenRegistry, place: Path, plan: Plan) -> Iterator[Any]:
    cache = place / "cache"
    copy = place / "registry" / "models" / LONG_MODEL / "active.json"

    def without_hint(one: OpenRegistry) -> None:
        aside = copy.rename(copy.with_name("aside.json"))
        try:
            one.head(LONG_MODEL)
        finally:
            aside.rename(copy)

    works: dict[str, Callable[[OpenRegistry], Any]] = {
        "newest record": lambda one: one.head(LONG_MODEL),
        "newest record, without active.json": without_hint,
        "history --limit 10": lambda one: one.history(LONG_MODEL, limit=10),
        "history, all": lambda one: sum(1 for _ in one.records(LONG_MODEL)),
        "verify": lambda one: one.verify(LONG_MODEL),
    }
    for name, work in works.items():
        yield _measure(f"{plan.long_records:,} records: {name}", plan, _counted(registry, cache, work))


def _following(registry: OpenRegistry, place: Path, size: Size, plan: Plan) -> Iterator[Any]:
    """Count what following some models asks of the storage, on this filesystem and on an object store."""
    few = [model_at(number) for number in range(size.models - plan.followed, size.models)]
    for is_far, where in ((False, "local"), (True, "object store")):
        yield from _follow(registry, place, plan, few, f"{plan.followed} models, {where}", is_far=is_far)
        yield from _follow(registry, place, plan, None, f"all models, {where}", is_far=is_far)


def _follow(
    registry: OpenRegistry, place: Path, plan: Plan, models: list[str] | None, label: str, *, is_far: bool
) -> Iterator[Any]:
    from clipperfs.serverd.adopter import Adopter
    from clipperfs.serverd.events import Events
    from clipperfs.serverd.reader import RegistryReader
    from clipperfs.serverd.statedir import StateDir

    once = dataclasses.replace(plan, rounds=1)
    state = StateDir(place / "state")
    fresh, store = open_counted(registry, place / "cache", is_far=is_far)
    readers: list[RegistryReader] = []

    def counted(work: Callable[[], Any]) -> Callable[[], int]:
        def call() -> int:
            before = store.requests
            work()
            return store.requests - before

        return call

    def forget() -> None:
        shutil.rmtree(state.path, ignore_errors=True)
        state.path.mkdir()
        readers.append(RegistryReader(Registry(registry.url).workspace, state, models))
        readers[-1].workspace.store = store

    yield _measure(
        f"first look, {label}", plan if models else once, counted(lambda: readers[-1].look(full=True)), forget
    )
    yield _measure(f"poll, {label}", plan, counted(lambda: readers[-1].look(full=False)))
    yield _measure(f"sweep, {label}", plan if models else once, counted(lambda: readers[-1].look(full=True)))
    if models is None:
        return

    async def events() -> Events:
        return Events()

    adopter = Adopter(fresh, asyncio.run(events()), settle_s=0.0)
    records = readers[-1].look(full=False).models
    settle = counted(lambda: adopter.settle_soon(records, models))
    yield _measure(f"first search for copies, {label}", once, settle)
    time.sleep(0.0 if is_far else 3.0)  # until a folder's change token is certain to tell of a change
    settle()
    yield _measure(f"search for copies, {label}", plan, settle)


def _daemons(registry: OpenRegistry, place: Path, size: Size, plan: Plan) -> list[dict[str, Any]]:
    """Start real daemons: time and processor time until they are ready, and while nothing happens."""
    few = [model_at(number) for number in range(size.models - plan.followed, size.models)]
    loaded = [model_at(number) for number in range(size.loaded)]
    kinds: list[tuple[str, list[str] | None, int]] = [
        (f"{plan.followed} models, none loaded", few, plan.rounds),
        (f"{size.loaded} models, all loaded", loaded, 1),
        ("all models but these, none loaded", None, 1),
    ]
    rows: list[dict[str, Any]] = []
    for name, models, rounds in kinds:
        for model in loaded:
            registry.policy(model, {"replicas": 0 if models is None else 1})
        ready_s, start_cpu_s, idle, status_ms = [], [], [], []
        for turn in range(rounds):
            state = place / f"daemon-{turn}-{len(rows)}"
            shutil.rmtree(state, ignore_errors=True)
            began_s = time.perf_counter()
            with run_daemon(registry, state, models=models) as daemon:
                ready_s.append(time.perf_counter() - began_s)
                pid = daemon_pid(daemon)
                start_cpu_s.append(cpu_seconds(process_tree(pid)))
                time.sleep(plan.window_s)  # what begins with the start ends meanwhile
                idle.append(_idle_ms_per_s(pid, plan.window_s))
                asked_s = time.perf_counter()
                daemon.status()
                status_ms.append((time.perf_counter() - asked_s) * 1000)
            shutil.rmtree(state, ignore_errors=True)
        values = {"ready_s": ready_s, "start_cpu_s": start_cpu_s, "idle_cpu_ms_per_s": idle, "status_ms": status_ms}
        rows.append({"what": name, **{key: spread(found).document() for key, found in values.items()}})
    return rows


def _idle_ms_per_s(pid: int, window_s: float) -> float:
    pids = process_tree(pid)
    before_s, began_s = cpu_seconds(pids), time.perf_counter()
    time.sleep(window_s)
    return (cpu_seconds(pids) - before_s) / (time.perf_counter() - began_s) * 1000


def render_scale(result: dict[str, Any]) -> str:
    """Return the tables that people read."""
    rounds = result["plan"]["rounds"]
    parts = [f"scale: median (lowest–highest) of {rounds} rounds; processor time includes that of child processes"]
    for one in result["sizes"]:
        head = f"{one['models']:,} models × {one['versions']} versions, {one['records']} records each"
        parts.append(f"{head}; made in {one['made_s']:.0f} s")
        rows = [_line(row) for row in one["rows"]]
        parts.append(render_table(["what", "ms", "CPU ms", "storage calls"], rows))
        rows = [
            [
                row["what"],
                *(_text(row[key]) for key in ("ready_s", "start_cpu_s", "idle_cpu_ms_per_s", "status_ms")),
            ]
            for row in one["daemons"]
        ]
        parts.append(render_table(["a daemon follows", "ready after s", "CPU s", "idle, CPU ms/s", "status ms"], rows))
    return "\n\n".join(parts)


def _line(row: dict[str, Any]) -> list[str]:
    calls = _text(row["calls"]) if row["calls"] is not None else ""
    return [row["what"], _text(row["wall_ms"]), _text(row["cpu_ms"]), calls]


def _text(value: dict[str, float]) -> str:
    digits = 0 if value["median"] >= 100 or value["median"] == int(value["median"]) else 1
    low, high = f"{value['low']:,.{digits}f}", f"{value['high']:,.{digits}f}"
    return f"{value['median']:,.{digits}f}" + (f" ({low}–{high})" if low != high else "")


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=100)
    parser.add_argument("--follow", type=int, default=100, help="models that a daemon follows")
    parser.add_argument("--records", type=int, default=100_000, help="records of the long ledger")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, required=True, help="where the registry is made, or found")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")
    options = parser.parse_args()
    plan = Plan(
        sizes=(Size(options.models, options.versions, loaded=20),),
        followed=options.follow,
        long_records=options.records,
        rounds=options.rounds,
    )
    machine = describe_machine()
    for label, text in machine.items():
        print(f"{label:12} {text}")
    result = run_scale(options.folder, plan)
    print(f"\n{render_scale(result)}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "scale": result}, indent=2, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
