"""Watches this daemon's rollouts: judges each candidate, stops the one that crosses a limit, and has it recorded.

The brake comes first and needs nothing but this host; the record comes after, as soon as the registry takes it. What
was stopped here stays stopped over a restart, until the registry shows that this rollout is over.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from typing import Any

from clipperfs.serverd.desired import WantedRollout
from clipperfs.serverd.events import Events
from clipperfs.serverd.fleet import Fleet
from clipperfs.serverd.judge import WINDOW_S, Figures, Sides, Window, judge
from clipperfs.serverd.statedir import StateDir

from clipperfs.documents import ModelRecord
from clipperfs.errors import ClipperfsError, StorageError
from clipperfs.limits import LIMITS
from clipperfs.registry import Registry

LOG = logging.getLogger("clipperfs.serverd")

LOOK_S = 0.5
"""How often the counters are looked at while there is a rollout."""
RECORD_AGAIN_S = 30.0
"""After this long a stop that could not be recorded is tried again."""
BRAKES_FILE = "brakes.json"

Snapshots = Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class Brake:
    """A rollout that this daemon has stopped. ``seq`` is that of the record which made its candidate one."""

    seq: int
    version: str
    kind: str
    reason: str
    is_recorded: bool = False
    problem: str | None = None
    """Why it could not be recorded."""
    next_try_s: float = 0.0


@dataclass(slots=True)
class Trial:
    """What is known of one rollout: its window begins anew when anything that is compared changes."""

    identity: tuple[int, str, str]
    told: tuple[str, float] | None = None
    window: Window = field(default_factory=Window)


class Guard:
    """Judges and stops rollouts. Everything happens on the event loop but what blocks.

    Args:
        registry: with the daemon's own actor.
        records: returns the newest record of each model.
        collect: returns the counters of every frontend.
        on_brake: called when a rollout was stopped, or counts again: the desired state differs.
    """

    def __init__(
        self,
        registry: Registry,
        state: StateDir,
        events: Events,
        executor: Executor,
        fleet: Fleet,
        *,
        records: Callable[[], Mapping[str, ModelRecord]],
        collect: Callable[[], Awaitable[Snapshots]],
        routed: Callable[[str], bool],
        on_brake: Callable[[], None],
        brakes: dict[str, Brake],
    ) -> None:
        self.brakes = brakes
        self._registry = registry
        self._state = state
        self._events = events
        self._executor = executor
        self._fleet = fleet
        self._records = records
        self._collect = collect
        self._routed = routed
        self._on_brake = on_brake
        self._trials: dict[str, Trial] = {}

    async def run(self) -> None:
        """Look for ever. What cannot be judged must not end what is served."""
        while True:
            try:
                await asyncio.sleep(LOOK_S)
                await self.look()
            except Exception:
                LOG.exception("the rollouts could not be judged")
                await asyncio.sleep(RECORD_AGAIN_S)

    async def look(self) -> None:
        """Judge every rollout by what the frontends have counted, and record what is not recorded yet."""
        if self._release():
            await self._keep()
        wanted = {name: one.rollout for name, one in self._fleet.desired.models.items() if one.rollout is not None}
        for model in [model for model in self._trials if model not in wanted]:
            trial = self._trials.pop(model)
            self._events.tell("rollout ended", model=model, version=trial.identity[1])
        if wanted:
            snapshots = await self._collect()
            for model, rollout in wanted.items():
                reason = self._judge(model, rollout, snapshots)
                if reason is not None and model not in self.brakes:
                    await self._stop(model, rollout, reason)
        now_s = asyncio.get_running_loop().time()
        for model, brake in list(self.brakes.items()):
            if not brake.is_recorded and now_s >= brake.next_try_s:
                await self._record(model, brake)

    def describe(self, model: str) -> dict[str, Any] | None:
        """Return one model's rollout as plain data for the status document, or ``None``."""
        wanted = self._fleet.desired.models.get(model)
        brake = self.brakes.get(model)
        if brake is not None:
            stopped = {"seq": brake.seq, "version": brake.version, "kind": brake.kind, "percent": 0.0}
            recorded = brake.problem or ("recorded" if brake.is_recorded else "not recorded yet")
            return {**stopped, "state": "stopped", "reason": f"{brake.reason}; {recorded}", **self._figures(model)}
        if wanted is None or wanted.rollout is None:
            return None
        rollout = wanted.rollout
        is_routed = self._routed(model)
        holding = self._fleet.find(model, rollout.load)
        return {
            "seq": rollout.seq,
            "version": rollout.version,
            "kind": rollout.kind,
            "percent": rollout.percent,
            "state": "running" if is_routed else "waiting",
            "reason": None if is_routed else (holding.reason if holding else None) or "the candidate is not ready",
            **self._figures(model),
        }

    def faults(self) -> list[str]:
        """Return what is wrong: rollouts that were stopped here, and could not be aborted for everybody."""
        return [
            f"the rollout of version {brake.version} of model {model} was stopped on this host only ({brake.reason}); "
            f"it could not be recorded: {brake.problem}"
            for model, brake in sorted(self.brakes.items())
            if brake.problem is not None and not brake.is_recorded
        ]

    def _figures(self, model: str) -> dict[str, Any]:
        trial = self._trials.get(model)
        answering = self._fleet.answering(model)
        sides = trial.window.total if trial else Sides()
        return {
            "active": answering.version if answering else None,
            "window_s": WINDOW_S,
            "figures": {"candidate": sides.candidate.to_plain(), "active": sides.active.to_plain()},
        }

    def _judge(self, model: str, rollout: WantedRollout, snapshots: Snapshots) -> str | None:
        holding = self._fleet.find(model, rollout.load)
        answering = self._fleet.answering(model)
        if holding is not None and holding.phase == "failed" and holding.was_ready:
            return f"it was given up: {holding.reason}"
        if answering is None or answering.version == rollout.version:
            return None
        trial = self._trials.get(model)
        identity = (rollout.seq, rollout.version, f"{rollout.kind}/{answering.version}")
        if trial is None or trial.identity != identity:
            trial = self._trials[model] = Trial(identity)
        if self._routed(model) and trial.told != (rollout.kind, rollout.percent):
            trial.told = (rollout.kind, rollout.percent)
            self._events.tell(
                "rollout", model=model, version=rollout.version, kind=rollout.kind, percent=rollout.percent
            )
        counters = {
            int(snapshot["pid"]): Sides(
                _figures_of(snapshot, model, rollout.version), _figures_of(snapshot, model, answering.version)
            )
            for snapshot in snapshots
        }
        trial.window.add(asyncio.get_running_loop().time(), counters)
        return judge(rollout.kind, rollout.limits, trial.window.total)

    async def _stop(self, model: str, rollout: WantedRollout, reason: str) -> None:
        brake = Brake(rollout.seq, rollout.version, rollout.kind, reason)
        self.brakes[model] = brake
        self._on_brake()
        self._events.tell("rollout stopped", model=model, version=brake.version, kind=brake.kind, reason=reason)
        await self._keep()

    async def _record(self, model: str, brake: Brake) -> None:
        """Abort the rollout for everybody. Another daemon may have done so, which is as good."""
        loop = asyncio.get_running_loop()
        try:
            is_mine = await loop.run_in_executor(self._executor, self._abort, model, brake)
        except ClipperfsError as error:
            if brake.problem != error.message:
                self._events.tell("rollout not aborted", model=model, version=brake.version, reason=error.message)
            brake.problem = error.message
            brake.next_try_s = loop.time() + RECORD_AGAIN_S
            return
        brake.is_recorded, brake.problem = True, None
        if is_mine:
            self._events.tell("rollout aborted", model=model, version=brake.version, reason=brake.reason)
        await self._keep()

    def _abort(self, model: str, brake: Brake) -> bool:
        if self._registry.workspace.is_single_writer:
            raise StorageError("this registry has one declared writer, and a daemon is not it")
        reason = f"automatic: version {brake.version} as a {brake.kind}: {brake.reason}"[: LIMITS.reason_chars]
        return self._registry.abort(model, candidate_seq=brake.seq, reason=reason).changed

    def _release(self) -> bool:
        """Forget the brakes of rollouts that the registry no longer shows; say whether there were any."""
        records = self._records()
        over = []
        for model, brake in self.brakes.items():
            record = records.get(model)
            rollout = record.state.rollout if record is not None else None
            if record is not None and (rollout is None or rollout.candidate.seq != brake.seq):
                over.append(model)
        for model in over:
            del self.brakes[model]
        if over:
            self._on_brake()
        return bool(over)

    async def _keep(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, self._state_write)

    def _state_write(self) -> None:
        kept = {model: asdict(brake) for model, brake in sorted(self.brakes.items())}
        try:
            self._state.write(BRAKES_FILE, (json.dumps(kept, indent=2, sort_keys=True) + "\n").encode())
        except StorageError as error:
            self._events.tell(
                "alarm", subject=BRAKES_FILE, reason=f"a stopped rollout may start again: {error.message}"
            )


def read_brakes(state: StateDir) -> dict[str, Brake]:
    """Return the rollouts that an earlier life of this daemon has stopped. Raises StorageError."""
    data = state.read(BRAKES_FILE)
    try:
        kept: dict[str, Any] = json.loads(data) if data else {}
        return {
            model: Brake(int(one["seq"]), str(one["version"]), str(one["kind"]), str(one["reason"]))
            for model, one in kept.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def _figures_of(snapshot: Mapping[str, Any], model: str, version: str) -> Figures:
    counts = [one for one in snapshot["versions"] if (one["model"], one["version"]) == (model, version)]
    return Figures.of(counts[0]) if counts else Figures()
