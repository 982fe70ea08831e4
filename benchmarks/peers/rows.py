"""From measurements to rows, and from rows to the one table that people read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from benchmarks.load import Measurement
from benchmarks.table import render_table, spread

OURS = "clipperfs"
COLUMNS = ["model, connections", "server", "req/s", ": echo", f"{OURS} ×", "p50 ms", "p99 ms", "CPU µs/req", "errors"]

Pair = tuple[Measurement, Measurement]
"""The echo, and in the next moment the server."""


def summarise(server: str, model: str, connections: int, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return one row as plain data: medians with extremes, each ratio taken within its own pair."""
    runs = [run for _, run in pairs]
    return {
        "model": model,
        "connections": connections,
        "server": server,
        "requests_per_s": spread([run.requests_per_s for run in runs]).document(),
        "echo_per_s": spread([echo.requests_per_s for echo, _ in pairs]).document(),
        "ratio_to_echo": spread([run.requests_per_s / echo.requests_per_s for echo, run in pairs]).document(),
        "p50_ms": spread([run.p50_ms for run in runs]).document(),
        "p99_ms": spread([run.p99_ms for run in runs]).document(),
        "cpu_us": spread([run.cpu_us for run in runs]).document(),
        "failed": sum(run.failed for run in runs),
    }


def add_leads(rows: Sequence[dict[str, Any]]) -> None:
    """Add to each row how many times its ratio to the echo ours is; ``None`` where ours was not measured."""
    ours = {(row["model"], row["connections"]): row["ratio_to_echo"]["median"] for row in rows if row["server"] == OURS}
    for row in rows:
        own = ours.get((row["model"], row["connections"]))
        row["ours_is_times"] = None if own is None else own / row["ratio_to_echo"]["median"]


def render(rows: Sequence[Mapping[str, Any]], not_run: Collection[str], *, order: Sequence[str]) -> str:
    """Return the table as Markdown: cells grouped by model and connections, servers in ``order``, absent ones last."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    ordered = sorted(rows, key=lambda row: (models.index(row["model"]), row["connections"], order.index(row["server"])))
    cells = [_cells(row) for row in ordered]
    cells += [["–", name, "not run", *"–" * (len(COLUMNS) - 3)] for name in not_run]
    return render_table(COLUMNS, cells)


def _cells(row: Mapping[str, Any]) -> list[str]:
    lead = row["ours_is_times"]
    return [
        f"{row['model']}, {row['connections']}",
        row["server"],
        _text(row["requests_per_s"], 0),
        _text(row["ratio_to_echo"], 3),
        "–" if lead is None else f"{lead:.1f}",
        f"{row['p50_ms']['median']:.2f}",
        f"{row['p99_ms']['median']:.2f}",
        f"{row['cpu_us']['median']:,.0f}",
        f"{row['failed']:,}",
    ]


def _text(value: Mapping[str, float], digits: int) -> str:
    return f"{value['median']:,.{digits}f} ({value['low']:,.{digits}f}–{value['high']:,.{digits}f})"
