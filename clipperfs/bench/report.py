"""From a load run's sample to figures, and to a plot for the terminal. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clipperfs.bench.plan import LoadPlan, Sample

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
BAR = " ▏▎▍▌▋▊▉█"
LATE_S = 0.01
"""A generator that fell behind by more than this has measured itself as well."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a run measured. Latencies in milliseconds, rates in queries a second."""

    asked_rate: float
    answered_rate: float
    seconds: float
    sent: int
    answered: int
    predictions: int
    """Answers that are no default output."""
    within_slo: float | None
    """The share of all queries that got a prediction within the SLO; ``None`` when no SLO is known."""
    latency_ms: Mapping[str, float]
    defaults: Mapping[str, int]
    failures: Mapping[str, int]
    unfinished: int
    connections: int
    """How many were open at most."""
    waited: int
    """Queries that had to wait for a connection."""
    late_ms: float
    """How far the generator itself fell behind its schedule at worst."""
    interrupted: bool


def summarise(plan: LoadPlan, sample: Sample, slo_s: float | None = None) -> LoadReport:
    """Return the figures of a run, without its warm-up."""
    ordered = sorted(sample.latency_s)
    defaults = sum(sample.defaults.values())
    failures = sum(sample.failures.values())
    seconds = max(1e-9, sample.elapsed_s - plan.warm_up_s)
    total = len(ordered) + failures + sample.unfinished
    within = None
    if slo_s is not None and total:
        within = max(0, sum(1 for latency in ordered if latency <= slo_s) - defaults) / total
    latency = {f"p{percent:g}": percentile(ordered, percent) * 1000 for percent in PERCENTILES}
    latency["max"] = (ordered[-1] if ordered else math.nan) * 1000
    latency["mean"] = (sum(ordered) / len(ordered) if ordered else math.nan) * 1000
    return LoadReport(
        asked_rate=plan.rate,
        answered_rate=len(ordered) / seconds,
        seconds=seconds,
        sent=sample.sent,
        answered=len(ordered),
        predictions=max(0, len(ordered) - defaults),
        within_slo=within,
        latency_ms=latency,
        defaults=dict(sample.defaults),
        failures=dict(sample.failures),
        unfinished=sample.unfinished,
        connections=sample.connections,
        waited=sample.waited,
        late_ms=sample.late_s * 1000,
        interrupted=sample.interrupted,
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least ``percent`` of an ordered sequence do not exceed; NaN of nothing."""
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, max(0, math.ceil(percent / 100 * len(ordered)) - 1))]


def draw(latency_s: Sequence[float], *, width: int = 40, slo_s: float | None = None) -> str:
    """Return a histogram of latencies for a terminal: a line for each bucket, which double every two lines."""
    if not latency_s:
        return ""
    low = max(min(latency_s), 1e-5)
    first = math.floor(math.log2(low) * 2)
    last = math.floor(math.log2(max(max(latency_s), low)) * 2)
    counts = [0] * (last - first + 1)
    for latency in latency_s:
        counts[min(last, max(first, math.floor(math.log2(max(latency, low)) * 2))) - first] += 1
    top = max(counts)
    lines = []
    for place, count in enumerate(counts):
        upper_s = 2 ** ((first + place + 1) / 2)
        eighths = round(count / top * width * 8)
        if count and not eighths:
            eighths = 1
        bar = "█" * (eighths // 8) + (BAR[eighths % 8] if eighths % 8 else "")
        mark = "  ← SLO" if slo_s is not None and upper_s / math.sqrt(2) < slo_s <= upper_s else ""
        lines.append(f"  ≤ {upper_s * 1000:9.2f} ms  {bar:<{width}} {count:>9,}{mark}")
    return "\n".join(lines)
