"""Runs one check on many inputs: with atheris and libFuzzer where it is installed, else with seeded mutation alone.

    python -m tests.fuzz.fuzz_http --runs 1000000 [--work FOLDER] [--seed N] [--engine atheris|plain] [FILE…]

FILEs are inputs to try once each, such as what an earlier run left. FOLDER (``.fuzz``) gets an input that breaks a
promise, as ``crash-<digest>``, and the command ends with its traceback; a subfolder keeps what reached something new.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from random import Random
from typing import Any

Check = Callable[[bytes], Any]
Make = Callable[[Random], bytes]
Change = Callable[[bytes, Random], bytes]
FRESH: float = 0.4
"""The share of inputs that are made anew; the others are changed from inputs that there are."""
POOL: int = 2000


def instrumented(*packages: str) -> AbstractContextManager[Any]:
    """Have atheris count the branches of what is imported inside this context. Without atheris: do nothing."""
    if not has_atheris() or "plain" in sys.argv or not Path(sys.argv[0]).name.startswith("fuzz_"):
        return nullcontext()
    import atheris

    context: AbstractContextManager[Any] = atheris.instrument_imports(include=list(packages))
    return context


def run(check: Check, make: Make, change: Change) -> None:
    """Run as the command line says.

    Args:
        check: raises for an input that breaks a promise.
        make: makes an input.
        change: makes an input from another.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(".fuzz"))
    parser.add_argument("--engine", choices=("atheris", "plain"), default="atheris" if has_atheris() else "plain")
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.files:
        for path in options.files:
            check(path.read_bytes())
        print(f"{len(options.files)} inputs, no finding")
    elif options.engine == "atheris":
        _run_atheris(check, make, change, options)
    else:
        _run_plain(check, make, change, options)


def has_atheris() -> bool:
    """Return whether atheris is installed."""
    try:
        import atheris  # noqa: F401
    except ImportError:
        return False
    return True


def _run_plain(check: Check, make: Make, change: Change, options: argparse.Namespace) -> None:
    random = Random(options.seed)
    pool: list[bytes] = [make(random)]
    begun = time.monotonic()
    for _ in range(options.runs):
        if random.random() < FRESH:
            data = make(random)
            if len(pool) < POOL:
                pool.append(data)
            else:
                pool[random.randrange(POOL)] = data
        else:
            data = change(random.choice(pool), random)
        try:
            check(data)
        except BaseException:
            path = options.work / f"crash-{hashlib.sha256(data).hexdigest()[:16]}"
            path.write_bytes(data)
            print(f"written: {path}", file=sys.stderr)
            raise
    taken_s = time.monotonic() - begun
    print(f"{options.runs} inputs, no finding, {taken_s:.0f} s, {options.runs / taken_s:.0f} a second")


def _run_atheris(check: Check, make: Make, change: Change, options: argparse.Namespace) -> None:
    import atheris

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        roll = random.random()
        if roll < FRESH:
            return make(random)[:max_size]
        if roll < 0.8:
            return change(data, random)[:max_size]
        mutated: bytes = atheris.Mutate(data, max_size)
        return mutated

    def try_input(data: bytes) -> None:
        check(data)

    # -timeout: an input that takes longer is a hang. -rss_limit_mb: one that takes more is a leak.
    flags = [f"-runs={options.runs}", f"-seed={options.seed}", "-max_len=12000", "-timeout=10", "-rss_limit_mb=2048"]
    flags += ["-print_final_stats=1", "-len_control=0", f"-artifact_prefix={options.work}/"]
    corpus = options.work / Path(sys.argv[0]).stem
    corpus.mkdir(exist_ok=True)
    flags.append(str(corpus))
    atheris.Setup([sys.argv[0], *flags], try_input, custom_mutator=mutate)
    atheris.Fuzz()
