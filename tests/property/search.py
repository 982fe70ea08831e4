"""Decides whether a history is linearizable by trying every order: the oracle of ``clipperfs.testing.history``.

Source: J. Wing and C. Gong, "Testing and verifying concurrent objects", J. Parallel Distrib. Comput. 17, 1993.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from clipperfs.testing.history import Operation


def has_order(operations: Sequence[Operation], writers: Sequence[str]) -> bool:
    """Say whether one order explains the history: of a compare-and-set register whose final log has these writers.

    An operation may come next when no other one that has yet to come returned before it was called. A write that is
    next in the log takes effect; a read must see the number of writes so far; an unknown one may also never come.
    """
    waiting = [operation for operation in operations if operation.outcome != "refused"]
    if any(operation.name in writers for operation in operations if operation.outcome == "refused"):
        return False

    @cache
    def search(left: frozenset[int], written: int) -> bool:
        if written == len(writers) and all(waiting[index].outcome == "unknown" for index in left):
            return True
        ends = [waiting[index].returned_ns for index in left if waiting[index].outcome != "unknown"]
        first_end = min((end for end in ends if end is not None), default=float("inf"))
        for index in left:
            operation = waiting[index]
            if operation.invoked_ns > first_end:
                continue
            if operation.outcome == "saw":
                if operation.seq == written and search(left - {index}, written):
                    return True
            elif written < len(writers) and writers[written] == operation.name:
                is_told = operation.outcome == "unknown" or operation.seq == written + 1
                if is_told and search(left - {index}, written + 1):
                    return True
        return False

    return search(frozenset(range(len(waiting))), 0)
