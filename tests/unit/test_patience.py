"""When a process looks for what comes next before it sleeps."""

from __future__ import annotations

from random import Random

from clipperfs.patience import MOST_CREDIT, TRY_AGAIN, Patience


def looks(patience: Patience, found: bool, waits: int) -> int:
    """Return before how many of so many waits it looked, each with the same result."""
    count = 0
    for _ in range(waits):
        if patience.should_look():
            count += 1
            patience.note(found)
    return count


def test_process_that_is_asked_again_and_again_looks_each_time() -> None:
    patience = Patience()
    assert looks(patience, True, TRY_AGAIN) == 1
    assert looks(patience, True, 1000) == 1000


def test_process_that_is_asked_now_and_then_hardly_looks() -> None:
    patience = Patience()
    looks(patience, True, 1000)
    assert looks(patience, False, MOST_CREDIT) == MOST_CREDIT // 2
    assert looks(patience, False, 100 * TRY_AGAIN) <= 101


def test_looking_that_is_worth_it_seldom_is_given_up() -> None:
    random = Random(7)
    often, seldom = Patience(), Patience()
    counts = [0, 0]
    for _ in range(10_000):
        for index, (patience, chance) in enumerate(((often, 0.9), (seldom, 0.4))):
            if patience.should_look():
                counts[index] += 1
                patience.note(random.random() < chance)
    assert counts[0] > 9_000
    assert counts[1] < 2_000
