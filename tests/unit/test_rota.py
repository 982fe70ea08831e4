"""Whose turn it is: everybody's within a bound that follows from the numbers, and no more than so many at once."""

from __future__ import annotations

from math import ceil

import pytest
from clipperfs.serverd.rota import COPIES_AT_ONCE, MODELS_AT_ONCE, PATIENCE, Rota, next_look_s


@pytest.mark.parametrize("count", [0, 1, MODELS_AT_ONCE, MODELS_AT_ONCE + 1, 103])
def test_every_model_has_its_turn_within_the_bound(count: int) -> None:
    rota, models = Rota(), [f"m{number}" for number in range(count)]
    for _ in range(3):
        turns = [rota.next_models(models) for _ in range(ceil(count / MODELS_AT_ONCE))]
        assert {name for turn in turns for name in turn} == set(models)
        assert all(len(turn) <= MODELS_AT_ONCE for turn in turns)


def test_models_that_come_and_go_keep_nobody_waiting() -> None:
    rota, models = Rota(), [f"m{number:03}" for number in range(40)]
    waiting = set(models)
    for turn in range(10):
        models = [name for name in models if not name.startswith("new")] + [f"new{turn}"]
        waiting -= set(rota.next_models(models))
    assert len(waiting) <= 4, "a name that is new at each turn may take a place, no more"


def test_copies_that_have_been_due_longest_come_first() -> None:
    rota = Rota()
    for number in range(10):
        rota.plan(("m", str(number)), 100.0 - number)
    assert rota.due_copies(90.0) == []
    assert rota.due_copies(100.0) == [("m", str(number)) for number in (9, 8, 7, 6)[:COPIES_AT_ONCE]]
    rota.drop(("m", "9"))
    rota.drop(("m", "9"))
    assert rota.due_copies(91.9) == []
    assert rota.knows(("m", "8")) and not rota.knows(("m", "9"))


def look(*, now_s: float = 50, since_s: float = 50, quiet_s: float | None = None, is_settling: bool = False) -> float:
    return next_look_s(now_s=now_s, first_s=10, since_s=since_s, settle_s=2, quiet_s=quiet_s, is_settling=is_settling)


def test_copy_that_looks_complete_is_looked_at_as_soon_as_it_may_be_adopted() -> None:
    assert look(is_settling=True) == 52
    assert look(is_settling=True, now_s=51) == 52


def test_copy_that_goes_by_quiescence_is_looked_at_when_it_may_be_quiet_and_now_and_then_before() -> None:
    assert look(quiet_s=10) == 52.5
    assert look(quiet_s=10, now_s=59) == 60
    assert look(quiet_s=1) == 52


def test_copy_that_goes_on_arriving_is_looked_at_the_more_rarely_the_longer_it_takes() -> None:
    assert look(now_s=11) == 13
    assert look(now_s=10 + 800) == 10 + 800 + 800 / PATIENCE
