"""Wait until daemons serve a record: what ``--wait`` does. The judgement is pure, the loop around it is thin."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from clipperfs import layout
from clipperfs.documents import ModelRecord, Pointer, ReplicaStatus, parse_document
from clipperfs.errors import InvalidDocument, TimedOut
from clipperfs.limits import LIMITS
from clipperfs.store import Store

POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Answer:
    """What one daemon's status says about a record."""

    replica: str
    serves: bool
    why: str
    """Why not, or an empty text."""


def judge(status: ReplicaStatus, record: ModelRecord, pointer: Pointer | None = None) -> Answer:
    """Say whether a daemon has applied ``record`` and has loaded ``pointer``, by default the active version. Pure."""
    model = status.models.get(record.model)
    if model is None:
        return Answer(status.replica, False, f"does not serve model {record.model}")
    active = pointer or record.state.active
    mine = [loaded for loaded in model.versions if active is not None and loaded.manifest == active.manifest]
    refusals = [loaded.reason or loaded.state for loaded in mine if loaded.state in ("failed", "quarantined")]
    if refusals:
        return Answer(status.replica, False, f"refused version {mine[0].version}: {refusals[0]}")
    if model.applied_seq < record.seq:
        return Answer(status.replica, False, f"has applied record {model.applied_seq}, not yet {record.seq}")
    if model.applied_seq == record.seq and active is not None and not any(loaded.state == "ready" for loaded in mine):
        return Answer(status.replica, False, f"has not loaded version {active.version} yet")
    return Answer(status.replica, True, "")


def read_statuses(store: Store, *, now_unix_s: float) -> Iterable[ReplicaStatus]:
    """Yield the status of every daemon that has not expired; what does not parse is not a status."""
    for entry in list(store.list(layout.REPLICAS)):
        if entry.kind != "file" or not entry.name.endswith(".json"):
            continue
        try:
            data = store.read(f"{layout.REPLICAS}/{entry.name}", limit_bytes=LIMITS.status_bytes)
            status = parse_document(ReplicaStatus, data, limit_bytes=LIMITS.status_bytes) if data is not None else None
        except InvalidDocument:
            continue
        if status is not None and status.expires_unix_s > now_unix_s:
            yield status


def wait_for_daemons(
    store: Store,
    record: ModelRecord,
    *,
    pointer: Pointer | None = None,
    count: int,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] | None = None,
) -> list[str]:
    """Return the names of the daemons that serve ``record`` once there are ``count`` of them.

    Args:
        pointer: what of the record they must have loaded; by default the active version.

    Raises:
        TimedOut: there are not, after ``timeout_s``; the message says of each other daemon why not.
    """
    pause = pause or threading.Event().wait
    deadline = clock() + timeout_s
    while True:
        answers = [judge(status, record, pointer) for status in read_statuses(store, now_unix_s=time.time())]
        serving = [answer.replica for answer in answers if answer.serves]
        if len(serving) >= count:
            return serving
        left_s = deadline - clock()
        if left_s <= 0:
            break
        pause(min(POLL_S, left_s))
    waiting = [f"{answer.replica} {answer.why}" for answer in answers if not answer.serves]
    raise TimedOut(
        f"{len(serving)} of {count} daemons serve record {record.seq} of model {record.model} after {timeout_s:g} s"
        + (f": {'; '.join(waiting)}" if waiting else "; no other daemon reports to this registry"),
        hint="the record stands; look at: clipperfs status, clipperfs logs",
        serving=serving,
        waiting={answer.replica: answer.why for answer in answers if not answer.serves},
        seq=record.seq,
    )
