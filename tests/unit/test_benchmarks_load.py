"""The arithmetic of the benchmarks under load: capacity, shares within the SLO, whose connections were cut, slopes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks import kills, overload, slo
from benchmarks.growth import Sample, slope_bytes
from benchmarks.kills import Kill, was_cut_by
from benchmarks.open_loop import Answers, Loss, find_capacity

REFUSED = "Too many queries are waiting for model m"
MISSED = "Failed to retrieve a prediction response within the specified latency SLO"


def answers(rows: list[tuple[float, int]], *, failures: int = 0, losses: tuple[Loss, ...] = ()) -> Answers:
    """Return answers of (latency, number of the default's explanation), a hundredth of a second apart."""
    latency_s, number = zip(*rows, strict=True)
    return Answers(
        rate=100.0,
        seconds=len(rows) / 100,
        due_s=50.0 + np.arange(len(rows)) / 100,
        latency_s=np.array(latency_s),
        default_number=np.array(number, dtype=np.uint8),
        defaults={REFUSED: sum(one == 1 for one in number), MISSED: sum(one == 2 for one in number)},
        failures={"status 503": failures} if failures else {},
        unfinished=0,
        losses=losses,
        late_s=0.001,
    )


def test_only_predictions_within_the_slo_are_good() -> None:
    found = answers([(0.01, 0)] * 6 + [(0.2, 0)] + [(0.002, 1)] * 2, failures=1)
    assert found.asked == 10
    assert found.good(0.1) == 6
    assert found.share_good(0.1) == pytest.approx(0.6)
    assert found.latency_ms(100) == pytest.approx(200)
    assert found.latency_ms(100, found.is_default) == pytest.approx(2)


def bears(limit: float, asked: list[float]) -> Callable[[float], bool]:
    def try_rate(rate: float) -> bool:
        asked.append(rate)
        return rate <= limit

    return try_rate


@pytest.mark.parametrize("limit", [2.0, 30.0, 990.0, 1000.0, 1500.0, 17_777.0])
def test_capacity_is_borne_and_near_the_limit(limit: float) -> None:
    asked: list[float] = []
    found = find_capacity(bears(limit, asked), 1000.0, steps=6)
    assert limit * 0.95 <= found <= limit
    assert len(asked) < 40


def test_rate_that_fails_once_is_tried_again() -> None:
    asked: list[float] = []

    def hiccup(rate: float) -> bool:
        asked.append(rate)
        return rate <= 4000 and asked.count(rate) > 1

    assert find_capacity(hiccup, 1000.0, steps=0) == 4000


def test_nothing_that_bears_a_query_a_second_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="not even one"):
        find_capacity(lambda rate: False, 1000.0)


def test_refusals_are_told_from_queries_that_missed_their_deadline() -> None:
    found = overload.summarise_load([answers([(0.01, 0)] * 4 + [(0.003, 1)] * 4 + [(0.1, 2)] * 2)], 0.1)
    assert found["goodput"]["median"] == pytest.approx(40)
    assert found["refused"]["median"] == pytest.approx(40)
    assert found["missed"] == 2
    assert found["refusal_p99_ms"]["median"] == pytest.approx(3)


def test_slo_row_counts_defaults_and_answers_after_the_deadline() -> None:
    runs = [slo.Run(answers([(0.01, 0)] * 98 + [(0.1, 2), (0.2, 0)]), hedges=2, late=1)]
    found = slo.summarise_runs(runs)
    assert found["share_good"]["median"] == pytest.approx(0.98)
    assert found["share_predicted"]["median"] == pytest.approx(0.99)
    assert (found["after_deadline"], found["defaults"], found["hedges"], found["late"]) == (1, 1, 2, 1)


KILLED = Kill(50.0, 1, 0.4)


@pytest.mark.parametrize(
    ("loss", "is_cut"),
    [
        (Loss(50.01, True, (1 << 46) + 5), True),
        (Loss(50.01, True, 5), False),  # it was on the other frontend
        (Loss(50.01, True, None), True),  # nobody knows on which
        (Loss(51.0, True, (1 << 46) + 5), False),  # later
        (Loss(49.9, True, (1 << 46) + 5), False),  # before
    ],
)
def test_connection_belongs_to_the_killed_frontend_by_its_last_answer(loss: Loss, is_cut: bool) -> None:
    assert was_cut_by(loss, [KILLED]) is is_cut
    assert not was_cut_by(loss, [Kill(50.0, -1, 0.4)]), "replicas hold no connections of clients"


def test_kills_row_takes_p99_by_the_time_between_kills() -> None:
    losses = (Loss(50.01, True, 1 << 46), Loss(50.01, False, 1 << 46), Loss(50.01, True, 0))
    run = answers([(0.001, 0)] * 100 + [(0.05, 0)] * 100, failures=2, losses=losses)
    found = kills.summarise(run, [KILLED, Kill(51.0, 0, None)], 1.0)
    assert found["window_p99_ms"] == pytest.approx({"median": 25.5, "low": 1.0, "high": 50.0})
    assert (found["failed"], found["failed_on_killed"]) == (2, 1)
    assert (found["cut_on_killed"], found["cut_on_others"]) == (2, 1)
    assert (found["whole_ms"]["median"], found["never_whole"]) == (400, 1)


def test_slope_is_of_the_line_through_the_samples() -> None:
    samples = [Sample(count, {"frontend": 1000 + 3 * count, "replica": 7}, 40) for count in (0, 100, 200)]
    assert slope_bytes(samples, "frontend") == pytest.approx(3)
    assert slope_bytes(samples, "replica") == pytest.approx(0, abs=1e-9)
    assert np.isnan(slope_bytes(samples[:1], "frontend"))
