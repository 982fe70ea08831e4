"""Probe a filesystem: race for fresh names, look at what is there afterwards, and say whether history is safe on it.

Source of what is asked of it: ``registry_layout.md`` §3. A probe can show that a filesystem is not exclusive; that it
is, it can only make likely, which is why the report keeps how often and with how many it was tried.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Callable

from clipperfs import __version__, layout
from clipperfs.documents import ProbeReport, canonical_bytes, utc_now
from clipperfs.errors import ClipperfsError, StorageDenied, StorageUnavailable
from clipperfs.probe.plan import Order, ProbePlan, Racer, author_of, content
from clipperfs.probe.race import Race, open_race
from clipperfs.probe.tally import Tally
from clipperfs.store import Store

OPENER = "clipperfs.store:open_store"
LIMIT_BYTES = 1 << 20
WATCH_S = 5.0


def probe(
    store: Store, plan: ProbePlan, *, actor: str, opener: str = OPENER, tell: Callable[[str], None] | None = None
) -> ProbeReport:
    """Race for names below ``probe/`` and return what happened.

    What it wrote is gone afterwards, also after an interrupt.

    Args:
        opener: ``module:function`` that opens the same store in another process, given its address.
        tell: hears of progress.

    Raises:
        StorageError: the filesystem did not let the probe begin, or stopped answering.
    """
    scratch = layout.probe_scratch(secrets.token_hex(8))
    tally = Tally()
    began_s = time.monotonic()
    try:
        can_write = _try_single_calls(store, f"{scratch}/alone", plan, tally)
        if not can_write:
            tally.check("exclusive create", None, "not tried, because a single process could not do without errors")
        elif store.capabilities.exclusive_create:
            with open_race(opener, store.url, plan) as race:
                _race_for_files(store, race, scratch, plan, tally, tell)
                if store.capabilities.rename_folder:
                    _race_for_folders(store, race, scratch, plan, tally)
        else:
            tally.check(
                "exclusive create", None, "this store class has no exclusive create: there is nothing to race for"
            )
        if not store.capabilities.rename_folder:
            tally.check("exclusive rename of a folder", None, "not declared: versions are published in place")
    finally:
        _clean_up(store, scratch)
    return ProbeReport(
        store_class=store.store_class,
        plan=plan.effort,
        software=f"clipperfs {__version__}",
        host=socket.gethostname(),
        actor=actor,
        time=utc_now(),
        duration_s=round(time.monotonic() - began_s, 3),
        processes=plan.writers,
        rounds=tally.rounds,
        winners={str(number): count for number, count in sorted(tally.winners.items())},
        exclusive=tally.is_exclusive,
        checks=tally.checks,
        errors=dict(sorted(tally.errors.items())),
        latency=tally.latency(),
    )


def store_report(store: Store, report: ProbeReport) -> layout.Key:
    """Keep a report in the registry; return its key. Raises StorageError."""
    key = layout.probe_report(int(time.time() * 1000), secrets.token_hex(4))
    store.create(key, canonical_bytes(report))
    return key


def _try_single_calls(store: Store, folder: str, plan: ProbePlan, tally: Tally) -> bool:
    """Say whether the calls of one process went without errors.

    Raises:
        StorageDenied, StorageUnavailable: nothing was probed, and nothing is known of the filesystem.
    """
    try:
        _single_calls(store, folder, plan, tally)
    except (StorageDenied, StorageUnavailable):
        raise
    except ClipperfsError as error:
        tally.check("calls of one process", False, error.message, guards_history=True)
        return False
    return True


def _read(store: Store, key: str) -> bytes | None:
    return store.read(key, limit_bytes=LIMIT_BYTES)


def _names(store: Store, folder: str) -> list[str]:
    return [entry.name for entry in store.list(folder)]


def _single_calls(store: Store, folder: str, plan: ProbePlan, tally: Tally) -> None:
    """What one process must see of its own writes at once."""
    unseen, unlisted, retaken, changed, kept, stale = 0, 0, 0, 0, 0, 0
    for number in range(plan.single_calls):
        name = f"{number:04d}"
        key = f"{folder}/{name}"
        mine, other = content(name, 0), content(name, 1)
        kept += tally.timed("read absent", _read, store, key) is not None
        unseen += not tally.timed("create", store.create, key, mine)
        unseen += tally.timed("read", _read, store, key) != mine
        found = tally.timed("stat", store.stat, key)
        unseen += found is None or found.size != len(mine)
        unlisted += name not in tally.timed("list", _names, store, folder)
        retaken += tally.timed("create on a taken name", store.create, key, other)
        changed += _read(store, key) != mine
        tally.timed("replace", store.replace, key, other)
        stale += _read(store, key) != other
        if number % 2:
            tally.timed("delete", store.delete, key)
            kept += _read(store, key) is not None
    later = [entry.name for entry in store.list(folder, after="0001")]
    is_ordered = later == [f"{number:04d}" for number in range(2, plan.single_calls, 2)]
    of = f"of {plan.single_calls} names"
    tally.check(
        "read after write", not unseen, f"{unseen} {of} were not there at once" if unseen else "", guards_history=True
    )
    tally.check("list after write", not unlisted, f"{unlisted} {of} were not listed at once" if unlisted else "")
    tally.check("list after a name", is_ordered, "" if is_ordered else f"it gave {', '.join(later[:5]) or 'nothing'}")
    tally.check("replace", not stale, f"{stale} {of} still showed the old content" if stale else "")
    tally.check("delete", not kept, f"{kept} {of} were there although they should not be" if kept else "")
    tally.check(
        "create on a taken name",
        not retaken and not changed,
        f"it said yes for {retaken} {of} and changed {changed}" if retaken or changed else "",
        guards_history=True,
    )


def _race_for_files(
    store: Store, race: Race, scratch: str, plan: ProbePlan, tally: Tally, tell: Callable[[str], None] | None
) -> None:
    """All writers want one name while readers look at it; round after round on fresh names."""
    unlisted = 0
    for number in range(plan.rounds):
        key = f"{scratch}/files/{number:08d}"
        _read(store, key)  # whoever remembers that it was absent shows it below

        def order(racer: Racer, start_ns: int, key: str = key) -> Order:
            return Order("create" if racer.role == "writer" else "watch", key, start_ns, WATCH_S)

        answers = race.run(order)
        data = _read(store, key)
        unlisted += data is not None and f"{number:08d}" not in [entry.name for entry in store.list(f"{scratch}/files")]
        tally.round_of_files(answers, None if data is None else author_of(data) or "")
        if tell is not None and number % 16 == 15:
            tell(f"raced for {number + 1} of {plan.rounds} names")
    tally.end_of_files(plan)
    tally.check(
        "list after another's write", not unlisted, f"{unlisted} names were not listed at once" if unlisted else ""
    )


def _race_for_folders(store: Store, race: Race, scratch: str, plan: ProbePlan, tally: Tally) -> None:
    """All writers rename a folder of their own to one name: one may win, and its files alone may lie there."""
    wrong = 0
    for number in range(plan.folder_rounds):
        target = f"{scratch}/folders/{number:04d}"
        for writer in range(plan.writers):
            store.create(f"{target}-{writer}/in/side", content("folder", writer))

        def order(racer: Racer, start_ns: int, target: str = target) -> Order | None:
            if racer.role == "reader":
                return None
            return Order("rename_folder", target, start_ns, WATCH_S, source=f"{target}-{racer.number}")

        winners = [answer for answer in race.run(order) if tally.noted("rename_folder", answer).outcome == "won"]
        there = [entry.name for entry in store.walk(target)]
        data = _read(store, f"{target}/in/side")
        is_whole = (
            there == ["in/side"] and data is not None and author_of(data) == str(winners[0].number if winners else "")
        )
        wrong += len(winners) != 1 or not is_whole
    tally.check(
        "exclusive rename of a folder",
        not wrong,
        f"in {wrong} of {plan.folder_rounds} rounds not exactly one writer's files lay under the name" if wrong else "",
        guards_history=True,
    )


def _clean_up(store: Store, scratch: str) -> None:
    """Remove what the probe wrote. What this cannot remove, a collector does when it is a day old."""
    with contextlib.suppress(ClipperfsError):
        store.delete_folder(scratch)
