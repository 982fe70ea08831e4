"""``python -m benchmarks.run``: run the benchmarks, print their tables. They inform; they never gate."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
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


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)} (all when none is given)")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: does it work, not how fast is it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark is called {min(unknown)!r}; there are {', '.join(BENCHMARKS)}")
    names = [name for name in BENCHMARKS if not options.names or name in options.names]
    try:
        for name in names:
            for tool in BENCHMARKS[name][2]:
                require_tool(tool)
    except ToolMissing as error:
        print(error, file=sys.stderr)
        return 1
    results: dict[str, Any] = {"machine": describe_machine(), "quick": options.quick}
    for label, text in results["machine"].items():
        print(f"{label:12} {text}")
    if machine_is_busy():
        print("\nThe machine is busy with something else: trust ratios and processor time, not rates and latencies.")
    for name in names:
        run, render, _ = BENCHMARKS[name]
        began_s = time.monotonic()
        place = Path(tempfile.mkdtemp(prefix="clipperfs-bench-"))
        try:
            results[name] = run(place, options.quick)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        results[name]["took_s"] = round(time.monotonic() - began_s, 1)
        print(f"\n{render(results[name])}\n({results[name]['took_s']:.0f} s)", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
