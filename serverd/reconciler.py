"""Desired state × what is held → the next actions. Pure: no clock, no I/O, no memory.

The rules, in order of weight:

1. What answers under a name (the active pointer or an alias) goes on answering until its successor has all its
   replicas, or has at least one and no other is on its way. The number of replicas that answer never goes from one or
   more to zero by an action, unless the policy asks for zero.
2. A load that failed is not tried again until its fuse changes (:class:`~clipperfs.serverd.desired.WantedVersion`).
3. What has answered stays warm for ``keep_previous_s``; it leaves the routing table first and is stopped only when no
   frontend has a query of it left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from clipperfs.serverd.desired import ACTIVE, WantedModel, WantedVersion

Phase: TypeAlias = Literal["fetching", "loading", "ready", "failed", "leaving", "stopping"]
"""fetching: no files yet · loading: files, no replica has answered yet · ready: at least one has answered once ·
failed: given up, see the fuse · leaving: out of the routing table · stopping: its replicas are being stopped."""

BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 30.0
CRASH_WINDOW_S = 60.0
CRASHES_IN_WINDOW = 5
CRASHES_BEFORE_READY = 3
"""A version that never got ready is given up after this many deaths, however long each took."""


@dataclass(frozen=True, slots=True)
class Held:
    """One load of one version, as the reconciler sees it. Times are of the caller's monotonic clock, in seconds."""

    key: str
    model: str
    load: str
    fuse: str
    phase: Phase
    ready: int = 0
    starting: int = 0
    next_start_s: float = 0.0
    """No replica is started before; the back-off after a crash."""
    idle_since_s: float | None = None
    """Since when it answers under no name after it did; ``None`` when it does, or never did."""
    left_since_s: float = 0.0
    """When it left the routing table (phase leaving)."""
    is_released: bool = False
    """Every frontend has let go of it (phase leaving)."""
    drain_limit_s: float = 60.0
    """How long it may take the frontends to let go before it is stopped regardless."""

    @property
    def is_alive(self) -> bool:
        """Say whether it can answer, now or soon."""
        return self.phase in ("fetching", "loading", "ready")


@dataclass(frozen=True, slots=True)
class Begin:
    """Fetch a version and load it."""

    model: str
    wanted: WantedVersion


@dataclass(frozen=True, slots=True)
class Start:
    """Start replicas of a held version."""

    key: str
    count: int


@dataclass(frozen=True, slots=True)
class Shrink:
    """Stop some replicas of a held version: those still starting at once, ready ones after they left the table."""

    key: str
    starting: int
    ready: int


@dataclass(frozen=True, slots=True)
class Serve:
    """Let a held version answer under a name; ``None``: nothing answers under it any more."""

    model: str
    name: str
    key: str | None


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a held version out of the routing table."""

    key: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop every replica of a held version that nobody uses any more."""

    key: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the memory of a load that failed."""

    key: str


Action: TypeAlias = Begin | Start | Shrink | Serve | Remove | Stop | Forget

Serving: TypeAlias = Mapping[tuple[str, str], str]
"""(model, name) → key of the held version that answers."""


def reconcile(models: Mapping[str, WantedModel], held: Sequence[Held], serving: Serving, now_s: float) -> list[Action]:
    """Return the actions that bring what is held nearer to what is wanted. No action: nothing to do before
    :func:`next_wake_s`.

    Guarantees: actions hold in the order given; a caller that applies some of them and asks again gets the rest.
    """
    actions: list[Action] = []
    by_model: dict[str, list[Held]] = {name: [] for name in models}
    for one in held:
        by_model.setdefault(one.model, []).append(one)
    current: dict[str, dict[str, str]] = {}
    for (model, name), key in serving.items():
        current.setdefault(model, {})[name] = key
    for model, of_model in by_model.items():
        actions += _reconcile_model(model, models.get(model), of_model, current.get(model, {}), now_s)
    return actions


def _reconcile_model(
    model: str, wanted: WantedModel | None, held: list[Held], current: dict[str, str], now_s: float
) -> list[Action]:
    actions: list[Action] = []
    loads = dict(wanted.loads) if wanted else {}
    by_key = {one.key: one for one in held}
    fallback = _needed_fallback(wanted, held, current)
    if fallback is not None:
        loads.setdefault(fallback.load, fallback)

    # 1. Everything wanted is held once. A failed load counts as held until its fuse changes.
    matched: dict[str, Held] = {}
    for load, version in loads.items():
        one = _best(load, held)
        if one is not None and one.phase == "failed" and one.fuse != version.fuse:
            one = None  # step 4 forgets it
        if one is None:
            actions.append(Begin(model, version))
        else:
            matched[load] = one

    # 2. Names move to what is ready; they never move to what is not.
    after = _names_after(wanted, loads, matched, by_key, current, fallback)
    for name in sorted(set(current) | set(after)):
        if after.get(name) != current.get(name):
            actions.append(Serve(model, name, after.get(name)))

    # 3. Each held version that is wanted has the replicas it should. 4. The rest leaves.
    serving_keys = set(after.values())
    for one in held:
        is_wanted = matched.get(one.load) is one
        if one.is_alive and (is_wanted or one.key in serving_keys):
            actions += _size(one, _replicas_of(one, wanted, loads, after), now_s)
        elif one.phase == "failed" and not is_wanted:
            actions.append(Forget(one.key))
        elif one.is_alive:
            if not _is_kept_warm(one, wanted, now_s, has_moved=one.key in current.values()):
                actions.append(Remove(one.key))
        elif one.phase == "leaving" and (one.is_released or now_s >= one.left_since_s + one.drain_limit_s):
            actions.append(Stop(one.key))
    return actions


def _needed_fallback(wanted: WantedModel | None, held: list[Held], current: dict[str, str]) -> WantedVersion | None:
    """Return the previous version when the active one has failed and nothing else answers in its place."""
    if wanted is None or wanted.fallback is None or ACTIVE not in wanted.names:
        return None
    active = wanted.loads[wanted.names[ACTIVE]]
    one = _best(active.load, held)
    if one is None or one.phase != "failed" or one.fuse != active.fuse:
        return None
    answering = next((other for other in held if other.key == current.get(ACTIVE)), None)
    if answering is not None and answering.is_alive and answering.load != wanted.fallback.load:
        return None
    return wanted.fallback


def _names_after(
    wanted: WantedModel | None,
    loads: Mapping[str, WantedVersion],
    matched: Mapping[str, Held],
    by_key: Mapping[str, Held],
    current: Mapping[str, str],
    fallback: WantedVersion | None,
) -> dict[str, str]:
    if wanted is None:
        return {}
    after: dict[str, str] = {}
    for name, load in wanted.names.items():
        successor = matched.get(load)
        answering = by_key.get(current.get(name, ""))
        if answering is not None and not answering.is_alive:
            answering = None
        if successor is not None and _may_take_over(successor, loads[load].replicas, answering):
            after[name] = successor.key
        elif answering is not None:
            after[name] = answering.key
        elif name == ACTIVE and successor is not None and successor.phase == "failed" and fallback is not None:
            stand_in = matched.get(fallback.load)
            if stand_in is not None and stand_in.ready > 0:
                after[name] = stand_in.key
    return after


def _may_take_over(successor: Held, replicas: int, answering: Held | None) -> bool:
    """Say whether a name may move to ``successor``: it has all its replicas, or all it will get for now."""
    if successor.phase != "ready":
        return False
    if answering is None or answering.key == successor.key:
        return True
    return successor.ready >= replicas or (successor.ready > 0 and (successor.starting == 0 or answering.ready == 0))


def _replicas_of(
    one: Held, wanted: WantedModel | None, loads: Mapping[str, WantedVersion], after: Mapping[str, str]
) -> int:
    """Return how many replicas a version that stays should have: what answers as the active one has full width."""
    count = loads[one.load].replicas if one.load in loads else 1
    if wanted is not None and one.key == after.get(ACTIVE):
        count = max(count, wanted.policy.replicas)
    return max(count, 1)


def _size(one: Held, count: int, now_s: float) -> list[Action]:
    if one.phase == "fetching":
        return []
    missing = count - one.ready - one.starting
    if missing > 0:
        return [Start(one.key, missing)] if now_s >= one.next_start_s else []
    if missing < 0:
        from_ready = max(0, one.ready - count)
        from_starting = min(one.starting, -missing - from_ready)
        return [Shrink(one.key, from_starting, from_ready)]
    return []


def _is_kept_warm(one: Held, wanted: WantedModel | None, now_s: float, *, has_moved: bool) -> bool:
    if wanted is None or wanted.is_off or one.phase != "ready":
        return False
    if has_moved:  # it answers until this very round's actions are carried out
        return wanted.policy.keep_previous_s > 0
    return one.idle_since_s is not None and now_s < one.idle_since_s + wanted.policy.keep_previous_s


def _best(load: str, held: Iterable[Held]) -> Held | None:
    """Return the held version of a load that is furthest on its way, or ``None``."""
    order: tuple[Phase, ...] = ("ready", "loading", "fetching", "failed")
    candidates = [one for one in held if one.load == load and one.phase in order]
    return min(candidates, key=lambda one: order.index(one.phase), default=None)


def next_wake_s(models: Mapping[str, WantedModel], held: Iterable[Held], now_s: float) -> float | None:
    """Return when :func:`reconcile` may have something new to say though nothing happens, or ``None`` for never."""
    times: list[float] = []
    for one in held:
        if one.is_alive and one.next_start_s > now_s:
            times.append(one.next_start_s)
        if one.phase == "ready" and one.idle_since_s is not None and one.model in models:
            times.append(one.idle_since_s + models[one.model].policy.keep_previous_s)
        if one.phase == "leaving":
            times.append(one.left_since_s + one.drain_limit_s)
    return min((time for time in times if time > now_s), default=None)


@dataclass(frozen=True, slots=True)
class AfterCrash:
    """What follows from a replica's death."""

    wait_s: float
    is_given_up: bool
    reason: str


def after_crash(deaths_s: Sequence[float], now_s: float, *, was_ready: bool, jitter: float) -> AfterCrash:
    """Decide what follows when a replica has died.

    Args:
        deaths_s: when replicas of this load died, oldest first, this death included.
        now_s: the present, on the same clock.
        was_ready: whether the load ever got ready.
        jitter: 0 ≤ jitter < 1, from the caller's random source; spreads restarts by up to a quarter.
    """
    recent = sum(1 for time in deaths_s if time > now_s - CRASH_WINDOW_S)
    if not was_ready and len(deaths_s) >= CRASHES_BEFORE_READY:
        return AfterCrash(0.0, True, f"died {len(deaths_s)} times before it was ready")
    if recent >= CRASHES_IN_WINDOW:
        return AfterCrash(0.0, True, f"died {recent} times within {CRASH_WINDOW_S:.0f} s")
    wait_s = min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2 ** max(0, recent - 1))
    return AfterCrash(wait_s * (1 + jitter / 4), False, "")
