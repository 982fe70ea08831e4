"""overload: what is left of the goodput when more is asked than can be answered, and who gets it.

The model takes 10 ms for a batch of at most 8, so that it is the limit and neither the HTTP path nor the generator.
Goodput is predictions within the SLO, counted from when each query was due, a second. Four parts: one application at
multiples of the capacity; two on one model, of which one asks for too much; applications with limits of their own; and
the highest multiple once more where several frontends share the replica.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import memory_bytes
from benchmarks.open_loop import Answers, offer, plan_load
from benchmarks.serving import add_model, noop_files, run_daemon
from benchmarks.table import render_table, spread
from clipperfs import Daemon, Registry

BATCH_MS = 10.0
MAX_BATCH = 8
SLO_S = 0.1
CONNECTIONS = 512
"""More than queries can wait for the model within the SLO, so that none waits for a connection."""
MAX_RATE = 200.0
MAX_CONCURRENT = 4
FRONTENDS = 2
"""In the last part: the batches of one wait for those of the other."""
LIMITED = "limit of queries"
REFUSED = "Too many queries"
"""What the explanations of default outputs say."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked, how often and how long."""

    factors: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    rounds: int = 3
    seconds: float = 3.0


QUICK = Plan(factors=(1.0, 3.0), rounds=1, seconds=1.0)


def run_overload(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure the four parts; return plain data."""
    registry = Registry.init(str(folder / "registry"), cache_dir=folder / "cache")
    files = noop_files(folder / "files", max_batch=MAX_BATCH, delay_ms=BATCH_MS)
    add_model(registry, "large", files, slo_us=int(SLO_S * 1e6), cache="off")
    for app, limits in (
        ("small", {}),
        ("rated", {"max_rate": MAX_RATE}),
        ("narrow", {"max_concurrent": MAX_CONCURRENT}),
    ):
        registry.app_register(
            app, input_type="floats", default_output="no answer", slo_us=int(SLO_S * 1e6), link="large", **limits
        )
    with run_daemon(registry, folder / "state") as daemon:
        theory = MAX_BATCH / BATCH_MS * 1000
        [saturated] = offer(_load(daemon, "large", 1.2 * theory, plan.seconds))
        capacity = saturated.good(SLO_S) / plan.seconds
        before_bytes = _frontend_bytes(daemon)
        runs: dict[float, list[Answers]] = {factor: [] for factor in plan.factors}
        for _ in range(plan.rounds):
            for factor in plan.factors:
                runs[factor] += offer(_load(daemon, "large", factor * capacity, plan.seconds))
        rows = [{"factor": factor, **summarise_load(found, plan.seconds)} for factor, found in runs.items()]
        after_bytes = _frontend_bytes(daemon)
        pairs = [
            offer(
                _load(daemon, "large", 3 * capacity, plan.seconds), _load(daemon, "small", capacity / 10, plan.seconds)
            )
            for _ in range(plan.rounds)
        ]
        limited = {
            app: [offer(_load(daemon, app, rate, plan.seconds))[0] for _ in range(plan.rounds)]
            for app, rate in (("rated", 3 * MAX_RATE), ("narrow", capacity))
        }
    most = max(plan.factors)
    with run_daemon(registry, folder / "state-frontends", frontends=FRONTENDS) as daemon:
        offer(_load(daemon, "large", capacity, plan.seconds))
        sharing = [offer(_load(daemon, "large", most * capacity, plan.seconds))[0] for _ in range(plan.rounds)]
    return {
        "plan": asdict(plan),
        "capacity": capacity,
        "peak": max(row["goodput"]["median"] for row in rows),
        "frontend_bytes": [before_bytes, after_bytes],
        "rows": rows,
        "shared": [
            {"app": "large", "factor": 3.0, **summarise_load([pair[0] for pair in pairs], plan.seconds)},
            {"app": "small", "factor": 0.1, **summarise_load([pair[1] for pair in pairs], plan.seconds)},
        ],
        "limited": [
            {"app": app, "limit": limit, **summarise_load(limited[app], plan.seconds)}
            for app, limit in (("rated", f"{MAX_RATE:g} a second"), ("narrow", f"{MAX_CONCURRENT} at a time"))
        ],
        "sharing": {"frontends": FRONTENDS, "factor": most, **summarise_load(sharing, plan.seconds)},
    }


def _load(daemon: Daemon, app: str, rate: float, seconds: float) -> Any:
    return plan_load(daemon.port, app, rate, seconds, connections=CONNECTIONS)


def _frontend_bytes(daemon: Daemon) -> int:
    return sum(memory_bytes(one["pid"]) for one in daemon.status()["frontends"])


def summarise_load(runs: list[Answers], seconds: float) -> dict[str, Any]:
    """Return the figures of the same load in all rounds."""
    waits_ms = [_refusal_ms(run, 99) for run in runs]
    return {
        "asked": spread([run.asked / seconds for run in runs]).document(),
        "goodput": spread([run.good(SLO_S) / seconds for run in runs]).document(),
        "share_good": spread([run.share_good(SLO_S) for run in runs]).document(),
        "refused": spread([_refusals(run) / seconds for run in runs]).document(),
        "missed": sum(int(run.is_default.sum()) - _refusals(run) for run in runs),
        "failed": sum(run.failed for run in runs),
        "p50_ms": spread([run.latency_ms(50, ~run.is_default) for run in runs]).document(),
        "p99_ms": spread([run.latency_ms(99, ~run.is_default) for run in runs]).document(),
        "refusal_p50_ms": max((_refusal_ms(run, 50) for run in runs), default=math.nan),
        "refusal_p99_ms": spread(waits_ms).document() if all(wait == wait for wait in waits_ms) else None,
        "in_flight": sum(float(run.latency_s[~run.is_default].sum()) for run in runs) / seconds / len(runs),
        "max_ms": max(run.latency_ms(100) for run in runs),
        "late_ms": max(run.late_s for run in runs) * 1000,
    }


def _refusals(run: Answers) -> int:
    return int((run.explained(REFUSED) | run.explained(LIMITED)).sum())


def _refusal_ms(run: Answers, percent: float) -> float:
    return run.latency_ms(percent, run.explained(REFUSED) | run.explained(LIMITED))


def render_overload(result: dict[str, Any]) -> str:
    """Return the tables that people read."""
    plan = result["plan"]
    before, after = (size / 2**20 for size in result["frontend_bytes"])
    head = (
        f"overload: median (lowest–highest) of {plan['rounds']} rounds of {plan['seconds']:g} s, open loop; a batch of "
        f"at most {MAX_BATCH} takes {BATCH_MS:g} ms, SLO {SLO_S * 1000:g} ms; capacity {result['capacity']:,.0f}/s, "
        f"the frontend's memory {before:.1f} MiB before and {after:.1f} MiB after"
    )
    columns = [
        "asked for",
        "queries/s",
        "goodput/s",
        "of the peak",
        "in time",
        "p50 ms",
        "p99 ms",
        "refused/s",
        "refusal p99 ms",
        "missed",
        "failed",
        "max ms",
        "generator late ms",
    ]
    labelled = [
        *((f"{row['factor']:g} × capacity", row) for row in result["rows"]),
        *((f"{row['app']} beside, {row['factor']:g} × capacity", row) for row in result["shared"]),
        *((f"{row['app']}: {row['limit']} (mean {row['in_flight']:.1f})", row) for row in result["limited"]),
        *((f"{row['factor']:g} × capacity, {row['frontends']} frontends", row) for row in [result["sharing"]]),
    ]
    rows = [
        [
            label,
            f"{row['asked']['median']:,.0f}",
            "{median:,.0f} ({low:,.0f}–{high:,.0f})".format(**row["goodput"]),
            f"{row['goodput']['median'] / result['peak']:.1%}",
            "{median:.2%} ({low:.2%}–{high:.2%})".format(**row["share_good"]),
            f"{row['p50_ms']['median']:.1f}",
            "{median:.1f} ({low:.1f}–{high:.1f})".format(**row["p99_ms"]),
            f"{row['refused']['median']:,.0f}",
            "{median:.1f} ({low:.1f}–{high:.1f})".format(**row["refusal_p99_ms"]) if row["refusal_p99_ms"] else "",
            row["missed"],
            row["failed"],
            f"{row['max_ms']:.0f}",
            f"{row['late_ms']:.0f}",
        ]
        for label, row in labelled
    ]
    return f"{head}\n\n{render_table(columns, rows)}"
