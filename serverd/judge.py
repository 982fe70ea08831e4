"""Whether a rollout's candidate has crossed a limit: counts of a sliding window against the rollout's limits. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clipperfs.serverd.counters import BATCH_BOUNDS

from clipperfs.documents import RolloutLimits

WINDOW_S: Final = 60.0
"""So far back the counts reach that a judgement rests on."""
NOISE_US: Final = 1000.0
"""Predict times that differ by less on average are not told apart: the machine's own noise is as large."""
COMPARED_BATCHES: Final = 20
"""Fewer batches of the candidate whose size the active version has had as well are not judged by their time."""

PLAIN: Final = ("queries", "errors", "defaults", "moved", "batches", "predict_us", "agree", "differ", "shadow_dropped")
BY_SIZE: Final = ("batch_sizes", "size_predict_us")

NO_SIZES: Final = (0,) * (len(BATCH_BOUNDS) + 1)


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened to one version, as ``counters.VersionCounter`` counts it."""

    queries: int = 0
    errors: int = 0
    defaults: int = 0
    moved: int = 0
    batches: int = 0
    predict_us: int = 0
    agree: int = 0
    differ: int = 0
    shadow_dropped: int = 0
    batch_sizes: tuple[int, ...] = NO_SIZES
    size_predict_us: tuple[int, ...] = NO_SIZES

    @classmethod
    def of(cls, counts: Mapping[str, Any]) -> Figures:
        """Return the figures of a counter's snapshot."""
        fields: dict[str, Any] = {name: int(counts.get(name, 0)) for name in PLAIN}
        fields |= {name: tuple(counts.get(name, NO_SIZES)) for name in BY_SIZE}
        return cls(**fields)

    def __add__(self, other: Figures) -> Figures:
        """Return the sum, field by field."""
        return self._combine(other, 1)

    def __sub__(self, other: Figures) -> Figures:
        """Return what has come since ``other``."""
        return self._combine(other, -1)

    def to_plain(self) -> dict[str, int]:
        """Return what people want to see."""
        return {name: getattr(self, name) for name in PLAIN}

    def _combine(self, other: Figures, sign: int) -> Figures:
        plain = {name: getattr(self, name) + sign * getattr(other, name) for name in PLAIN}
        return Figures(
            **plain,
            batch_sizes=_combine(self.batch_sizes, other.batch_sizes, sign),
            size_predict_us=_combine(self.size_predict_us, other.size_predict_us, sign),
        )


def _combine(one: tuple[int, ...], other: tuple[int, ...], sign: int) -> tuple[int, ...]:
    return tuple(mine + sign * its for mine, its in zip(one, other, strict=True))


@dataclass(frozen=True, slots=True)
class Sides:
    """A candidate and what it is compared with, over the same time."""

    candidate: Figures = Figures()
    active: Figures = Figures()

    def __add__(self, other: Sides) -> Sides:
        """Return the sum, side by side."""
        return Sides(self.candidate + other.candidate, self.active + other.active)

    def __sub__(self, other: Sides) -> Sides:
        """Return what has come since ``other``."""
        return Sides(self.candidate - other.candidate, self.active - other.active)


class Window:
    """The counts of the last ``WINDOW_S``, from counters of several processes that only grow while a process lives."""

    def __init__(self) -> None:
        self.total = Sides()
        self._last: dict[int, Sides] | None = None
        self._parts: deque[tuple[float, Sides]] = deque()

    def add(self, now_s: float, counters: Mapping[int, Sides]) -> None:
        """Take in counters by process. The first ones are where counting begins; a new process begins at nothing."""
        if self._last is None:
            self._last = dict(counters)
            return
        part = Sides()
        for process, sides in counters.items():
            part += sides - self._last.get(process, Sides())
        self._last.update(counters)
        self._parts.append((now_s, part))
        self.total += part
        while self._parts and self._parts[0][0] <= now_s - WINDOW_S:
            self.total -= self._parts.popleft()[1]


def judge(kind: str, limits: RolloutLimits, sides: Sides) -> str | None:
    """Return which limit the candidate has crossed, with the figures, or ``None``.

    Args:
        kind: ``canary`` or ``shadow``.
        limits: the rollout's.
        sides: the window's counts.
    """
    one = sides.candidate
    queries = max(one.queries, one.errors + one.defaults)
    if queries < limits.min_queries:
        return None
    if one.errors > limits.max_error_rate * queries:
        return _crossed("failed", one.errors, queries, "queries", limits.max_error_rate)
    if one.defaults > limits.max_default_rate * queries:
        return _crossed("did not answer in time", one.defaults, queries, "queries", limits.max_default_rate)
    compared = one.agree + one.differ
    allowed = limits.max_differ_rate
    if kind == "shadow" and allowed is not None and compared >= limits.min_queries and one.differ > allowed * compared:
        return _crossed("differs in", one.differ, compared, "outputs", allowed)
    times = compare_times(sides)
    if times is not None and times[0] > limits.max_latency_ratio * times[1] and times[0] > times[1] + NOISE_US:
        mine_ms, other_ms = times[0] / 1000, times[1] / 1000
        return (
            f"it takes {mine_ms:.3g} ms for a batch, the active version {other_ms:.3g} ms for one of that size: "
            f"{mine_ms / max(other_ms, 1e-6):.3g} times, limit {limits.max_latency_ratio:g}"
        )
    return None


def _crossed(verb: str, count: int, of: int, what: str, limit: float) -> str:
    return f"it {verb} {count} of {of} {what} ({100 * count / of:.3g} %), limit {100 * limit:g} %"


def compare_times(sides: Sides) -> tuple[float, float] | None:
    """Return the candidate's mean predict time of a batch, and what the active version takes for such batches, in
    microseconds; ``None`` when too few can be compared.

    A larger batch takes longer, and a candidate with a small share has smaller ones. So each of its batches is held
    against the active version's mean for that size, or for the nearest larger size that it has had: which can only be
    in the candidate's favour.
    """
    one, other = sides.candidate, sides.active
    batches = mine_us = 0
    its_us = 0.0
    for size, count in enumerate(one.batch_sizes):
        mean_us = _mean_us_from(other, size)
        if count and mean_us is not None:
            batches += count
            mine_us += one.size_predict_us[size]
            its_us += count * mean_us
    if batches < COMPARED_BATCHES:
        return None
    return mine_us / batches, its_us / batches


def _mean_us_from(figures: Figures, size: int) -> float | None:
    sizes: Sequence[int] = figures.batch_sizes
    nearest = next((larger for larger in range(size, len(sizes)) if sizes[larger]), None)
    return None if nearest is None else figures.size_predict_us[nearest] / sizes[nearest]
