"""Wait until daemons serve a record: what ``--wait`` does. ``cluster.judge`` judges; this is the loop around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from clipperfs.cluster import Judgement, judge
from clipperfs.documents import ModelRecord, Pointer
from clipperfs.errors import Degraded, TimedOut
from clipperfs.presence import read_presences
from clipperfs.store import Store

POLL_S = 0.2
SETTLE_S = 5.0
"""Refusals must stand for so long before the wait is given up: another daemon may be about to report."""


def wait_for_daemons(
    store: Store,
    record: ModelRecord,
    *,
    pointer: Pointer | None = None,
    count: int,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> list[str]:
    """Return the names of the daemons that serve ``record`` once there are ``count`` of them.

    Args:
        store: the registry's filesystem.
        record: what is to be served.
        pointer: what of the record they must have loaded; by default the active version.
        count: by how many daemons.
        timeout_s: how long to wait for them.
        clock: seconds that only grow.
        pause: waits for some seconds.
        say: is told how far it is, whenever that changes.

    Raises:
        Degraded: daemons refused the version, no other one is on its way, and too few are left.
        TimedOut: there are too few after ``timeout_s``.
        Both say of each daemon that does not serve the record why not. The record stands.
    """
    pause = pause or threading.Event().wait
    deadline = clock() + timeout_s
    told, settled_since = "", None
    while True:
        judged = [judge(status, record, pointer) for status in read_presences(store, now_unix_s=time.time()).live]
        serving = [one.replica for one in judged if one.serves]
        if (line := progress_line(judged, count)) != told:
            told = line
            say(line)
        if len(serving) >= count:
            return serving
        refused = [one.replica for one in judged if one.answer == "refused"]
        is_settled = bool(refused) and all(one.answer != "pending" for one in judged)
        settled_since = (settled_since if settled_since is not None else clock()) if is_settled else None
        left_s = deadline - clock()
        if settled_since is not None and clock() - settled_since >= min(SETTLE_S, timeout_s):
            break
        if left_s <= 0:
            break
        pause(min(POLL_S, left_s))
    others = {one.replica: one.why for one in judged if not one.serves}
    said = f"{len(serving)} of {count} daemons serve record {record.seq} of model {record.model}"
    reasons = "; ".join(f"{replica} {why}" for replica, why in others.items())
    fields = {"serving": serving, "waiting": others, "refused": refused, "seq": record.seq}
    if settled_since is not None:
        raise Degraded(
            f"{said}, and no other is on its way: {reasons}",
            hint="the record stands; mend what they name and run 'clipperfs reload' there, or 'clipperfs rollback'",
            **fields,
        )
    raise TimedOut(
        f"{said} after {timeout_s:g} s" + (f": {reasons}" if others else "; no other daemon reports to this registry"),
        hint="the record stands; look at: clipperfs status --cluster, clipperfs logs",
        **fields,
    )


def progress_line(judged: list[Judgement], count: int) -> str:
    """Return how far it is, in a line."""
    serving = sum(one.serves for one in judged)
    others = "".join(f"; {one.replica} {one.why}" for one in judged if not one.serves)
    return f"{serving} of {count} serve it{others}"
