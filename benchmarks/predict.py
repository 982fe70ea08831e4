"""predict: what one prediction costs, beside nginx and a raw echo that answer the same requests with a constant.

Every cell (a model at a number of connections) is measured in rounds; a round runs every server once, in an order that
turns from round to round, so that a slow minute of the machine hits all of them alike. Ratios are taken within a round.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import Measurement, measure
from benchmarks.server import Target, run_echo, run_nginx
from benchmarks.serving import (
    add_model,
    answers_defaulted,
    clipperfs_target,
    linear_files,
    noop_files,
    run_daemon,
    warm_up,
)
from benchmarks.table import render_table, spread
from clipperfs import Registry


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure."""

    rounds: int = 5
    duration_s: float = 1.5
    connections: tuple[int, ...] = (1, 32, 128)


QUICK = Plan(rounds=2, duration_s=0.4, connections=(1, 128))

Cell = dict[str, list[Measurement]]
"""Measurements by server, one a round."""


def run_predict(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure all cells; return plain data."""
    bodies = {"noop": _body_file(folder / "noop.json", 10), "linear": _body_file(folder / "linear.json", 784)}
    registry = Registry.init(str(folder / "registry"), cache_dir=folder / "cache")
    add_model(registry, "noop", noop_files(folder / "noop"), cache="off")
    add_model(registry, "noop-cached", noop_files(folder / "noop-cached"), cache="on")
    add_model(registry, "linear", linear_files(folder / "linear"), cache="off", allow_code=True)
    rows: list[dict[str, Any]] = []
    with (
        run_echo() as echo,
        run_nginx(folder / "nginx") as nginx,
        run_daemon(registry, folder / "state") as daemon,
    ):
        for model, body in bodies.items():
            targets = [echo, nginx, clipperfs_target(daemon, model, "clipperfs")]
            if model == "noop":
                targets.append(clipperfs_target(daemon, "noop-cached", "clipperfs, cache hit"))
            for target in targets:
                warm_up(target, body.read_bytes())
            for connections in plan.connections:
                before = answers_defaulted(daemon)
                cell = measure_cell(targets, body, connections=connections, plan=plan)
                defaulted = answers_defaulted(daemon) - before
                rows += summarise_cell(model, connections, cell, defaulted)
            for target in targets:
                warm_up(target, body.read_bytes())
    return {"plan": {"rounds": plan.rounds, "duration_s": plan.duration_s}, "rows": rows}


def measure_cell(targets: list[Target], body: Path, *, connections: int, plan: Plan) -> Cell:
    """Measure every target once a round, each round beginning with another one."""
    cell: Cell = defaultdict(list)
    for target in targets:
        measure(target, body, connections=connections, duration_s=min(0.3, plan.duration_s))
    for turn in range(plan.rounds):
        start = turn % len(targets)
        for target in targets[start:] + targets[:start]:
            cell[target.name].append(measure(target, body, connections=connections, duration_s=plan.duration_s))
    return cell


def summarise_cell(model: str, connections: int, cell: Cell, defaulted: float) -> list[dict[str, Any]]:
    """Return one row a server: medians with extremes, and the ratio to the echo of the same round."""
    echo = cell["echo"]
    return [
        {
            "model": model,
            "connections": connections,
            "server": name,
            "requests_per_s": spread([run.requests_per_s for run in runs]).document(),
            "ratio_to_echo": spread(
                [run.requests_per_s / own.requests_per_s for run, own in zip(runs, echo, strict=True)]
            ).document(),
            "p50_ms": spread([run.p50_ms for run in runs]).document(),
            "p99_ms": spread([run.p99_ms for run in runs]).document(),
            "cpu_us": spread([run.cpu_us for run in runs]).document(),
            "failed": sum(run.failed for run in runs),
            "defaulted": defaulted if name.startswith("clipperfs") else 0,
        }
        for name, runs in cell.items()
    ]


def render_predict(result: dict[str, Any]) -> str:
    """Return the table that people read."""
    columns = ["model, connections", "server", "req/s", ": echo", "p50 ms", "p99 ms", "CPU µs/req", "failed", "default"]
    rows = [
        [
            f"{row['model']}, {row['connections']}",
            row["server"],
            _text(row["requests_per_s"], 0),
            _text(row["ratio_to_echo"], 2),
            f"{row['p50_ms']['median']:.2f}",
            f"{row['p99_ms']['median']:.2f}",
            f"{row['cpu_us']['median']:.0f}",
            row["failed"],
            f"{row['defaulted']:.0f}",
        ]
        for row in result["rows"]
    ]
    plan = result["plan"]
    head = f"predict: median (lowest–highest) of {plan['rounds']} rounds of {plan['duration_s']} s, servers in turn"
    return f"{head}\n\n{render_table(columns, rows)}"


def _text(value: dict[str, float], digits: int) -> str:
    return f"{value['median']:,.{digits}f} ({value['low']:,.{digits}f}–{value['high']:,.{digits}f})"


def _body_file(path: Path, features: int) -> Path:
    numbers = random.Random(7)
    path.write_text(json.dumps({"input": [round(numbers.random(), 4) for _ in range(features)]}))
    return path
