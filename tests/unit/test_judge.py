"""When a rollout's candidate has crossed a limit, and when there is not enough to say so."""

from __future__ import annotations

from typing import Any

import pytest
from clipperfs.serverd.compare import PARSED_BYTES, Comparison, do_outputs_agree
from clipperfs.serverd.counters import BATCH_BOUNDS, VersionCounter
from clipperfs.serverd.judge import NO_SIZES, WINDOW_S, Figures, Sides, Window, compare_times, judge

from clipperfs.documents import RolloutLimits

LIMITS = RolloutLimits()


def batches(*given: tuple[int, int, int], **more: Any) -> Figures:
    """Return figures with batches given as (size, how many, microseconds each)."""
    counter = VersionCounter()
    for size, count, predict_us in given:
        for _ in range(count):
            counter.observe(size, 0.001, predict_us)
            counter.queries += size
    return Figures.of({**counter.snapshot(), **more})


@pytest.mark.parametrize(
    ("kind", "candidate", "words"),
    [
        ("canary", Figures(queries=99, errors=99), None),
        ("canary", Figures(queries=100, errors=5, defaults=5), None),
        ("canary", Figures(queries=100, errors=6), "it failed 6 of 100 queries (6 %), limit 5 %"),
        ("canary", Figures(queries=1000, defaults=51), "did not answer in time 51 of 1000"),
        ("canary", Figures(queries=0, errors=60, defaults=60), "failed 60 of 120"),
        ("canary", Figures(queries=100, differ=100), None),
        ("shadow", Figures(queries=100, differ=100), None),
        ("shadow", Figures(queries=100, errors=6), "failed 6 of 100"),
    ],
)
def test_rates_are_judged_on_enough_queries_only(kind: str, candidate: Figures, words: str | None) -> None:
    reason = judge(kind, LIMITS, Sides(candidate, Figures()))
    assert reason is None if words is None else words in (reason or "")


def test_outputs_that_differ_count_for_a_shadow_with_such_a_limit() -> None:
    limits = RolloutLimits(max_differ_rate=0.1)
    assert judge("shadow", limits, Sides(Figures(queries=200, agree=90, differ=10), Figures())) is None
    assert "differs in 11 of 100 outputs" in str(
        judge("shadow", limits, Sides(Figures(queries=200, agree=89, differ=11), Figures()))
    )
    assert judge("shadow", limits, Sides(Figures(queries=200, agree=49, differ=50), Figures())) is None
    assert judge("canary", limits, Sides(Figures(queries=200, differ=200), Figures())) is None
    none = RolloutLimits(max_differ_rate=0)
    assert judge("shadow", none, Sides(Figures(queries=200, agree=200), Figures())) is None
    assert judge("shadow", none, Sides(Figures(queries=200, agree=200, differ=1), Figures())) is not None


def test_slower_candidate_is_found_by_batches_of_one_size() -> None:
    sides = Sides(batches((1, 100, 25_000)), batches((1, 100, 10_000)))
    assert "it takes 25 ms for a batch, the active version 10 ms" in str(judge("canary", LIMITS, sides))
    assert judge("canary", RolloutLimits(max_latency_ratio=2.6), sides) is None


def test_small_batches_of_a_small_share_are_not_held_against_the_candidate() -> None:
    fixed = Sides(batches((1, 200, 10_000)), batches((16, 200, 11_000)))
    assert judge("canary", LIMITS, fixed) is None, "a fixed cost for each batch"
    linear = Sides(batches((1, 200, 1_000)), batches((16, 200, 16_000)))
    assert judge("canary", LIMITS, linear) is None, "a cost for each query"


def test_slower_than_even_larger_batches_of_the_active_version_is_slower() -> None:
    sides = Sides(batches((1, 200, 40_000)), batches((16, 200, 16_000)))
    assert judge("canary", LIMITS, sides) is not None


def test_times_are_not_judged_where_nothing_can_be_compared_or_told_apart() -> None:
    assert compare_times(Sides(batches((1, 19, 10_000)), batches((1, 100, 10)))) is None
    assert compare_times(Sides(batches((64, 100, 10_000)), batches((1, 100, 10)))) is None, "it never had larger ones"
    assert judge("canary", LIMITS, Sides(batches((1, 200, 900)), batches((1, 200, 50)))) is None, "noise"


def test_window_counts_from_its_first_look_and_forgets() -> None:
    window = Window()
    counters = {1: Sides(Figures(queries=1000, errors=900), Figures(queries=50))}
    window.add(0.0, counters)
    assert window.total == Sides(), "what was counted before is not of this rollout"
    counters[1] = Sides(Figures(queries=1010, errors=900), Figures(queries=55))
    window.add(1.0, counters)
    window.add(2.0, {2: Sides(Figures(queries=3, errors=3), Figures())})
    assert window.total == Sides(Figures(queries=13, errors=3), Figures(queries=5)), "a frontend that was started anew"
    window.add(1.5 + WINDOW_S, counters)
    assert window.total.candidate == Figures(queries=3, errors=3)
    window.add(3.0 + WINDOW_S, counters)
    assert window.total == Sides()


def test_figures_take_every_field_of_a_counter() -> None:
    counter = VersionCounter()
    counter.observe(3, 0.01, 500)
    counter.errors, counter.agree = 2, 7
    figures = Figures.of(counter.snapshot())
    assert (figures.errors, figures.agree, figures.batches, figures.predict_us) == (2, 7, 1, 500)
    assert figures.batch_sizes[BATCH_BOUNDS.index(4)] == 1 and figures.size_predict_us[BATCH_BOUNDS.index(4)] == 500
    assert Figures.of({}) == Figures() and len(NO_SIZES) == len(counter.batch_sizes)
    assert set(figures.to_plain()) < set(counter.snapshot())


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        (b"1", b"1", True),
        (b"not json", b"not json", True),
        (b"1", b"1.0", True),
        (b"1.0", b"1.0000001", True),
        (b"1.0", b"1.00001", False),
        (b"0", b"1e-9", False),
        (b"-5", b"5", False),
        (b"[1, 2.0]", b"[1,2]", True),
        (b"[1, 2]", b"[1, 2, 3]", False),
        (b"[[1],[2.0]]", b"[[1],[2.0000000001]]", True),
        (b'{"a": 1, "b": [2]}', b'{"b":[2.0],"a":1}', True),
        (b'{"a": 1}', b'{"b": 1}', False),
        (b'"cat"', b'"cat" ', True),
        (b'"cat"', b'"dog"', False),
        (b"true", b"1", False),
        (b"true", b"true ", True),
        (b"null", b"0", False),
        (b"1", b"nonsense", False),
        (b"[" * 5000, b"[" * 5001, False),
    ],
)
def test_outputs_agree_up_to_the_last_digits(one: bytes, other: bytes, agree: bool) -> None:
    assert do_outputs_agree(one, other) is agree
    assert do_outputs_agree(other, one) is agree


def test_comparison_holds_little_of_long_outputs() -> None:
    counter = VersionCounter()
    long = b"1" * (PARSED_BYTES + 1)
    same, other = Comparison(counter), Comparison(counter)
    same.take(long)
    assert len(same._first or b"") == 32
    same.take(bytes(long))
    other.take(long)
    other.take(long + b"2")
    assert (counter.agree, counter.differ) == (1, 1)
