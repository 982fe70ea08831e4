"""``python -m benchmarks.run``: run the benchmarks, print their tables. They inform; they never gate.

One that fails, or whose tools are missing, is told of, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    batching,
    bodies,
    eviction,
    footprint,
    kills,
    overload,
    poll,
    predict,
    publish,
    restart,
    scale,
    slo,
    stages,
    switch,
    switches,
    verify,
)
from benchmarks.machine import describe_machine, machine_is_busy
from benchmarks.tools import ToolMissing, require_tool

BENCHMARKS: dict[
    str, tuple[Callable[[Path, bool], dict[str, Any]], Callable[[dict[str, Any]], str], tuple[str, ...]]
] = {
    "predict": (
        lambda folder, quick: predict.run_predict(folder, predict.QUICK if quick else predict.Plan()),
        predict.render_predict,
        ("wrk", "nginx"),
    ),
    "stages": (
        lambda folder, quick: stages.run_stages(folder, stages.QUICK if quick else stages.Plan()),
        stages.render_stages,
        (),
    ),
    "batching": (
        lambda folder, quick: batching.run_batching(folder, batching.QUICK if quick else batching.Plan()),
        batching.render_batching,
        (),
    ),
    "switch": (
        lambda folder, quick: switch.run_switch(folder, switch.QUICK if quick else switch.Plan()),
        switch.render_switch,
        (),
    ),
    "switches": (
        lambda folder, quick: switches.run_switches(folder, switches.QUICK if quick else switches.Plan()),
        switches.render_switches,
        (),
    ),
    "restart": (
        lambda folder, quick: restart.run_restart(folder, restart.QUICK if quick else restart.Plan()),
        restart.render_restart,
        (),
    ),
    "publish": (
        lambda folder, quick: publish.run_publish(folder, publish.QUICK if quick else publish.Plan()),
        publish.render_publish,
        (),
    ),
    "poll": (
        lambda folder, quick: poll.run_poll(folder, poll.QUICK if quick else poll.Plan()),
        poll.render_poll,
        (),
    ),
    "eviction": (
        lambda folder, quick: eviction.run_eviction(folder, eviction.QUICK if quick else eviction.Plan()),
        eviction.render_eviction,
        (),
    ),
    "verify": (
        lambda folder, quick: verify.run_verify(folder, verify.QUICK if quick else verify.Plan()),
        verify.render_verify,
        (),
    ),
    "slo": (
        lambda folder, quick: slo.run_slo(folder, slo.QUICK if quick else slo.Plan()),
        slo.render_slo,
        (),
    ),
    "overload": (
        lambda folder, quick: overload.run_overload(folder, overload.QUICK if quick else overload.Plan()),
        overload.render_overload,
        (),
    ),
    "kills": (
        lambda folder, quick: kills.run_kills(folder, kills.QUICK if quick else kills.Plan()),
        kills.render_kills,
        (),
    ),
    "footprint": (
        lambda folder, quick: footprint.run_footprint(folder, footprint.QUICK if quick else footprint.Plan()),
        footprint.render_footprint,
        ("wrk",),
    ),
    "scale": (
        lambda folder, quick: scale.run_scale(folder, scale.QUICK if quick else scale.Plan()),
        scale.render_scale,
        (),
    ),
    "bodies": (
        lambda folder, quick: bodies.run_bodies(folder, bodies.QUICK if quick else bodies.Plan()),
        bodies.render_bodies,
        (),
    ),
}
"""Of each: how it runs, how it prints, and the programs that it needs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code: 1 when a benchmark failed or was not run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)} (all when none is given)")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: does it work, not how fast is it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark is called {min(unknown)!r}; there are {', '.join(BENCHMARKS)}")
    names = [name for name in BENCHMARKS if not options.names or name in options.names]
    not_run = missing_tools(names)  # before anything is measured: whoever would install them need not wait for the rest
    results: dict[str, Any] = {"machine": describe_machine(), "quick": options.quick}
    for label, text in results["machine"].items():
        print(f"{label:12} {text}")
    if machine_is_busy():
        print("\nThe machine is busy with something else: trust ratios and processor time, not rates and latencies.")
    try:
        for name in names:
            if name in not_run:
                results[name] = {"error": not_run[name]}
            else:
                run_one(name, options.quick, results)
    finally:  # an interrupt ends the run here, with what was measured
        if options.json:
            options.json.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    errors = {name: results[name]["error"] for name in names if "error" in results[name]}
    for name, error in errors.items():
        print(f"{name}: {error}", file=sys.stderr)
    return 1 if errors else 0


def missing_tools(names: Sequence[str]) -> dict[str, str]:
    """Return which benchmarks cannot be run, and why. Says so at once too."""
    found: dict[str, str] = {}
    for name in names:
        try:
            for tool in BENCHMARKS[name][2]:
                require_tool(tool)
        except ToolMissing as error:
            found[name] = f"not run: {error}"
            print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def run_one(name: str, quick: bool, results: dict[str, Any]) -> None:
    """Run one benchmark, print its table, and add what it measured to ``results``, or the ``error`` that it raised."""
    run, render, _ = BENCHMARKS[name]
    began_s = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="clipperfs-bench-"))
    try:
        results[name] = run(place, quick)
        results[name]["took_s"] = round(time.monotonic() - began_s, 1)
        print(f"\n{render(results[name])}\n({results[name]['took_s']:.0f} s)", flush=True)
    except Exception as error:  # whatever it is: the other benchmarks have nothing to do with it
        traceback.print_exc()
        results.setdefault(name, {})["error"] = f"failed: {type(error).__name__}: {error}"
        print(f"\n{name}: {results[name]['error']}", flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
