"""Are a server's answers the model's own? Asked one by one, and many at once so that batches form."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.peers.peer import NotRun, Peer
from benchmarks.peers.served.answers import FEATURES, load
from benchmarks.server import post

ALONE, AT_ONCE = 8, 96
CLIENTS = 16


def inputs_of(model: str, count: int) -> list[list[float]]:
    """Return inputs of four digits, the same every time, of which neighbours have different answers."""
    numbers = random.Random(7)
    return [[round(numbers.uniform(-1, 1), 4) for _ in range(FEATURES[model])] for _ in range(count)]


def check_answers(peer: Peer, model: str, folder: Path) -> None:
    """Compare the running server's answers with those of the model called here; its weights are in ``folder``.

    Raises:
        NotRun: an answer is missing or differs.
    """
    inputs = inputs_of(model, ALONE + AT_ONCE)
    expected = load(model, folder)(inputs)
    found = [_ask(peer, features) for features in inputs[:ALONE]]
    with ThreadPoolExecutor(CLIENTS) as clients:
        found += clients.map(lambda features: _ask(peer, features), inputs[ALONE:])
    compare(found, expected)


def compare(found: Sequence[int], expected: Sequence[int]) -> None:
    """Raise NotRun when answers differ from the model's own."""
    wrong = [at for at, (own, other) in enumerate(zip(expected, found, strict=True)) if own != other]
    if wrong:
        first = wrong[0]
        raise NotRun(
            f"{len(wrong)} of {len(expected)} answers are not the model's own: "
            f"input {first} gave {found[first]}, the model says {expected[first]}"
        )


def _ask(peer: Peer, features: Sequence[float]) -> int:
    try:
        return peer.answer(post(peer.url, peer.body(features), timeout_s=30)[0])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise NotRun(f"a query had no answer: {error}") from error
