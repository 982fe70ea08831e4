"""A process that appends to one model's log: ``writer.py URL CACHE NUMBER COUNT``. Adds one to a counter each time."""

from __future__ import annotations

import sys

from clipperfs import Registry
from clipperfs.errors import Conflict


def main() -> None:
    url, cache, number, count = sys.argv[1:]
    registry = Registry(url, cache_dir=cache, actor=f"writer-{number}")
    done = 0
    while done < int(count):
        head = registry.head("m")
        assert head is not None
        try:
            registry.policy("m", {"grace_s": head.record.state.policy.grace_s + 1}, expect_seq=head.seq)
        except Conflict:
            continue
        done += 1


main()
