"""One process of a race: ``python -P -m clipperfs.probe.racer``. Reads orders from stdin, answers on stdout.

It ends when stdin does, so that no racer outlives the probe; it ignores an interrupt, which is its parent's to handle.
"""

from __future__ import annotations

import signal
import sys
import time
from importlib import import_module

from clipperfs.errors import ClipperfsError
from clipperfs.probe.plan import Answer, Order, Racer, author_of, content, parse, spell
from clipperfs.store import Store

LIMIT_BYTES = 1 << 20
MORE_LOOKS = 3


def main() -> int:
    """Run orders until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders, answers = sys.stdin.buffer, sys.stdout.buffer
    racer: Racer = parse(Racer, orders.readline())
    module, _, name = racer.opener.partition(":")
    store: Store = getattr(import_module(module), name)(racer.url)
    answers.write(b"ready\n")
    answers.flush()
    while line := orders.readline():
        order: Order = parse(Order, line)
        time.sleep(max(0.0, (order.start_ns - time.monotonic_ns()) / 1e9))
        answers.write(spell(_run(store, racer, order)))
        answers.flush()
    return 0


def _run(store: Store, racer: Racer, order: Order) -> Answer:
    if order.call == "watch":
        return _watch(store, racer, order)
    nonce = order.key.rpartition("/")[2]
    began_ns = time.monotonic_ns()
    try:
        if order.call == "create":
            has_won = store.create(order.key, content(nonce, racer.number))
        else:
            has_won = store.rename_folder(order.source, order.key)
    except Exception as error:  # whatever a filesystem raises is a finding, not the end of the probe
        return Answer(racer.number, "error", _ms_since(began_ns), _class_of(error))
    return Answer(racer.number, "won" if has_won else "lost", _ms_since(began_ns))


def _watch(store: Store, racer: Racer, order: Order) -> Answer:
    """Look at the name until something is there, and some more: it may never be partial, nor change, nor vanish."""
    faults: list[str] = []
    seen: str | None = None
    looks = 0
    longest_ms = 0.0
    give_up_ns = time.monotonic_ns() + int(order.give_up_s * 1e9)
    while looks < MORE_LOOKS and time.monotonic_ns() < give_up_ns:
        began_ns = time.monotonic_ns()
        try:
            data = store.read(order.key, limit_bytes=LIMIT_BYTES)
        except Exception as error:  # as above
            return Answer(racer.number, "error", _ms_since(began_ns), _class_of(error), faults, seen)
        longest_ms = max(longest_ms, _ms_since(began_ns))
        if data is None:
            if seen is not None:
                faults.append("vanished")
                looks += 1
            continue
        looks += 1
        author = author_of(data)
        if author is None:
            faults.append("empty" if not data else "partial")
        elif seen is not None and author != seen:
            faults.append("changed")
        seen = author or seen
    return Answer(racer.number, "seen" if looks else "unseen", longest_ms, "", faults, seen)


def _class_of(error: Exception) -> str:
    kind = type(error)
    return kind.__name__ if isinstance(error, ClipperfsError) else f"{kind.__module__}.{kind.__name__}"


def _ms_since(began_ns: int) -> float:
    return (time.monotonic_ns() - began_ns) / 1e6


if __name__ == "__main__":
    sys.exit(main())
