"""Everything that a daemon holds: it carries out what the reconciler decides and reports what comes of it.

Everything happens on the event loop; fetching and verifying happen on threads.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

from clipperfs.serverd.desired import ACTIVE, Desired, WantedVersion
from clipperfs.serverd.events import Events
from clipperfs.serverd.frontends import FrontendPool
from clipperfs.serverd.holding import Holding
from clipperfs.serverd.loader import prepare, warm_up
from clipperfs.serverd.reconciler import (
    BACKOFF_LAST_S,
    Action,
    Begin,
    Forget,
    Held,
    Remove,
    Serve,
    Shrink,
    Start,
    Stop,
    after_crash,
    next_wake_s,
    reconcile,
)
from clipperfs.serverd.spares import spares_wanted
from clipperfs.serverd.supervisor import Replica, Supervisor
from clipperfs.serverd.turns import Turn, Turns, turns_at_once

from clipperfs.errors import (
    ActivationRefused,
    ClipperfsError,
    IncompleteVersion,
    NotFound,
    ReplicaLost,
    StorageError,
)
from clipperfs.replica.spec import ReplicaSpec, new_identity
from clipperfs.workspace import Workspace

FETCH_AGAIN_S = 15.0
"""After this long a version that was not there or not signed, or that the storage kept back, is asked for again."""
EASED_SHARE = 0.5
"""A load that has used so much of its time limit runs beside what serves: on a full host it might never end."""
RETIRE_S = 0.2
"""How long after the last frontend dropped a replica from its table a message to it may still be on its way."""

SpawnTask = Callable[[Coroutine[Any, Any, Any], str], Any]


class Fleet:
    """The held versions of all models, and which of them answers under which name.

    Args:
        on_change: called whenever :meth:`reconcile` may have something new to do or the table may differ.
    """

    def __init__(
        self,
        *,
        workspace: Workspace,
        supervisor: Supervisor,
        frontends: FrontendPool,
        executor: Executor,
        events: Events,
        log_dir: Path,
        endpoints: tuple[str, ...],
        spawn_task: SpawnTask,
        on_change: Callable[[], None],
    ) -> None:
        self.desired = Desired()
        self.holdings: dict[str, Holding] = {}
        self.serving: dict[tuple[str, str], str] = {}
        self.needs_epoch = 0
        """Number of a table that must be sent though it may differ in nothing: somebody waits for it to be applied."""
        self.restarts = 0
        self.switches = 0
        self._workspace = workspace
        self._supervisor = supervisor
        self._frontends = frontends
        self._executor = executor
        self._events = events
        self._log_dir = log_dir
        self._endpoints = endpoints
        self._spawn_task = spawn_task
        self._on_change = on_change
        self._numbers = itertools.count(1)
        self._cores = len(os.sched_getaffinity(0))
        self._turns = Turns(turns_at_once(self._cores))
        self._is_closing = False

    # What others ask

    def held(self) -> list[Held]:
        """Return everything held, as the reconciler sees it."""
        return [
            one.held(
                is_released=one.phase == "leaving"
                and (not one.was_routed or self._frontends.is_released(one.key, one.left_epoch))
            )
            for one in self.holdings.values()
        ]

    def answering(self, model: str, name: str = ACTIVE) -> Holding | None:
        """Return what answers under a name."""
        return self.holdings.get(self.serving.get((model, name), ""))

    def find(self, model: str, load: str) -> Holding | None:
        """Return the furthest holding of a load, or ``None``."""
        found = [one for one in self.holdings.values() if one.model == model and one.wanted.load == load]
        order = ("ready", "loading", "fetching", "failed", "leaving", "stopping")
        return min(found, key=lambda one: order.index(one.phase), default=None)

    def is_settled(self, model: str) -> bool:
        """Say whether everything that the model's newest record asks for is in effect or has failed."""
        wanted = self.desired.models.get(model)
        if wanted is None:
            return True
        for load in wanted.loads:
            one = self.find(model, load)
            if one is None or one.phase in ("fetching", "loading", "leaving", "stopping"):
                return False
            if one.phase == "failed" and one.wanted.fuse != wanted.loads[load].fuse:
                return False  # it is about to be tried again
        for name, load in wanted.names.items():
            one = self.find(model, load)
            if one is not None and one.phase == "ready" and self.serving.get((model, name)) != one.key:
                return False
        return True

    def replicas_wanted(self, one: Holding) -> int:
        """Return how many replicas a held version should have."""
        wanted = self.desired.models.get(one.model)
        if wanted is None:
            return 0
        count = wanted.loads[one.wanted.load].replicas if one.wanted.load in wanted.loads else 0
        if self.serving.get((one.model, ACTIVE)) == one.key:
            count = max(count, wanted.policy.replicas)
        return count

    # What the controller has done

    def reconcile(self, now_s: float) -> float | None:
        """Do what there is to do now; return when there may be more though nothing happens."""
        if self._is_closing:
            return None
        for _ in range(20):  # an action may make room for the next; a handful of rounds settles it
            actions = reconcile(self.desired.models, self.held(), self.serving, now_s)
            for action in actions:
                self._apply(action, now_s)
            if not actions:
                break
        wanted = (one.policy.replicas for one in self.desired.models.values() if one.loads)
        self._supervisor.keep_spares(spares_wanted(wanted, self._cores))
        return next_wake_s(self.desired.models, self.held(), now_s)

    def replace_hanging(self, identity: str, batch_s: float) -> None:
        """Take a replica that does not answer its batch out of service and stop it."""
        replica = self._supervisor.find(identity)
        if replica is None or replica.hang_reason is not None:
            return
        self._supervisor.abort(replica, f"it hangs: a batch is out for {batch_s:.1f} s")
        self._on_change()

    def close(self) -> None:
        """Do nothing any more: the daemon is ending."""
        self._is_closing = True
        self._supervisor.spares.close()
        for one in self.holdings.values():
            self._end_waiting(one)

    def take_exit(self, replica: Replica) -> None:
        """Note that a replica's process has ended. The supervisor calls this."""
        one = self.holdings.get(replica.key)
        if one is None:
            return
        one.replicas.pop(replica.identity, None)
        one.retiring.discard(replica.identity)
        if one.phase == "stopping" and not one.replicas:
            self._drop(one)
        elif not replica.is_leaving and one.phase in ("loading", "ready") and not self._is_closing:
            self._take_crash(one, replica, replica.ended.result())
        self._on_change()

    def _apply(self, action: Action, now_s: float) -> None:
        match action:
            case Begin(model=model, wanted=wanted):
                self._begin(model, wanted)
            case Start(key=key, count=count):
                for _ in range(count):
                    self._start(self.holdings[key])
            case Shrink(key=key, starting=starting, ready=ready):
                self._shrink(self.holdings[key], starting, ready)
            case Serve(model=model, name=name, key=serving_key):
                self._serve(model, name, serving_key, now_s)
            case Remove(key=key):
                one = self.holdings[key]
                one.enter("leaving", one.reason)
                one.left_since_s, one.left_epoch = now_s, self._next_epoch()
                self._end_waiting(one)
                self._on_change()
            case Stop(key=key):
                self._stop(self.holdings[key])
            case Forget(key=key):
                self._drop(self.holdings[key])

    def _begin(self, model: str, wanted: WantedVersion) -> None:
        one = Holding(f"{wanted.manifest[:16]}-{next(self._numbers)}", model, wanted, self.desired.models[model].policy)
        self.holdings[one.key] = one
        self._events.tell("loading", model=model, version=wanted.version, manifest=wanted.manifest)
        self._spawn_task(self._fetch(one), f"fetch {model}/{wanted.version}")

    async def _fetch(self, one: Holding) -> None:
        loop = asyncio.get_running_loop()
        try:
            prepared = await loop.run_in_executor(
                self._executor, prepare, self._workspace, one.model, one.wanted, one.policy
            )
        except (StorageError, NotFound, IncompleteVersion, ActivationRefused) as error:  # a signature may yet come
            self._fail(one, error.message, error.hint)
            loop.call_later(FETCH_AGAIN_S * (1 + random.random()), self._fetch_again, one)  # noqa: S311
            return
        except ClipperfsError as error:
            self._fail(one, error.message, error.hint)
            return
        if one.phase != "fetching":
            prepared.release()
            return
        one.prepared = prepared
        one.enter("loading")
        self._on_change()

    def _fetch_again(self, one: Holding) -> None:
        if self.holdings.get(one.key) is one and one.phase == "failed" and not self._is_closing:
            self._drop(one)
            self._on_change()

    def _start(self, one: Holding) -> None:
        """Start a replica when its turn has come."""
        # Nothing answers for the version until this replica does, so it waits for no other load.
        is_urgent = one.is_down and one.key in self.serving.values()
        turn = self._turns.ask(partial(self._launch, one), is_urgent=is_urgent)
        if not turn.is_here:
            one.waiting.append(turn)
            self._events.tell("waiting", model=one.model, version=one.version, reason="its turn to load has not come")

    def _launch(self, one: Holding, turn: Turn) -> None:
        if turn in one.waiting:
            one.waiting.remove(turn)
            self._on_change()
        assert one.prepared is not None
        spec = ReplicaSpec(
            identity=new_identity(),
            endpoints=self._endpoints,
            path=str(one.prepared.path),
            model=one.model,
            version=one.version,
            wrapper_kind=one.prepared.wrapper_kind,
            input_type=one.prepared.input_type,
            options=one.prepared.options,
            allow_code=self._allows_code(one),
        )
        log_path = self._log_dir / f"{one.model}@{one.version}.log"
        try:
            replica = self._supervisor.launch(
                one.key, spec, log_path, one.policy.predict_timeout_s, is_missed=one.was_ready
            )
        except ClipperfsError as error:
            turn.end()
            self._take_crash(one, None, error.message)
            return
        one.replicas[replica.identity] = replica
        self._spawn_task(self._bring_up(one, replica, turn), f"bring up {replica.label}")

    async def _bring_up(self, one: Holding, replica: Replica, turn: Turn) -> None:
        enough_s = EASED_SHARE * one.policy.load_timeout_s
        enough = asyncio.get_running_loop().call_later(enough_s, self._supervisor.restore, replica)
        try:
            await self._await_ready(one, replica)
        finally:
            enough.cancel()
            turn.end()

    async def _await_ready(self, one: Holding, replica: Replica) -> None:
        assert one.prepared is not None
        try:
            await warm_up(
                self._supervisor,
                replica,
                one.prepared,
                load_timeout_s=one.policy.load_timeout_s,
                predict_timeout_s=one.policy.predict_timeout_s,
            )
        except ReplicaLost:
            return  # take_exit hears of it, too
        except ClipperfsError as error:
            if replica.is_leaving:
                return
            if one.was_ready or one.phase != "loading":
                self._events.tell("failed", model=one.model, version=one.version, reason=error.message)
                self._supervisor.kill(replica)
            else:
                self._fail(one, error.message, error.hint)
            return
        if replica.is_leaving or replica.ended.done() or one.phase not in ("loading", "ready"):
            return
        self._supervisor.restore(replica)
        replica.is_ready = True
        replica.life.get_ready(time.monotonic())
        if one.phase == "loading":
            one.was_ready = True
            one.enter("ready")
        event = "restarted" if one.deaths_s or one.reason else "ready"
        one.reason = None
        self._events.tell(event, model=one.model, version=one.version, pid=replica.process.pid)
        self._on_change()

    def _take_crash(self, one: Holding, replica: Replica | None, how: str) -> None:
        now_s = asyncio.get_running_loop().time()
        self.restarts += 1
        is_foul = replica is not None and replica.was_killed and replica.life.was_worth_its_start(time.monotonic())
        if not is_foul:  # what somebody else did to a replica that worked says nothing about its version
            one.deaths_s.append(now_s)
        pid = replica.process.pid if replica is not None else None
        tail = replica.process.log_tail(400).rpartition("\n")[2] if replica is not None else ""
        self._events.tell(
            "crashed", model=one.model, version=one.version, pid=pid, reason=how, last_words=tail[:300] or None
        )
        one.reason = how
        if is_foul:
            one.next_start_s = now_s
            self._on_change()
            return
        after = after_crash(one.deaths_s, now_s, was_ready=one.was_ready, jitter=random.random())  # noqa: S311
        if after.is_given_up and not one.ready:
            self._fail(
                one, f"it {after.reason}; the last time {how}", "mend it and publish it under a new version name"
            )
            return
        one.next_start_s = now_s + (BACKOFF_LAST_S if after.is_given_up else after.wait_s)
        self._on_change()

    def _fail(self, one: Holding, reason: str, hint: str | None) -> None:
        if one.phase not in ("fetching", "loading", "ready"):
            return
        one.enter("failed", reason, hint)
        self._end_waiting(one)
        self._events.tell("failed", model=one.model, version=one.version, reason=reason, hint=hint)
        for replica in one.replicas.values():
            replica.is_leaving = True
            if replica.hang_reason is None:
                self._supervisor.kill(replica)
        if one.prepared is not None:
            one.prepared.release()
        self._on_change()

    def _shrink(self, one: Holding, starting: int, ready: int) -> None:
        unstarted = one.waiting[-starting:] if starting else []
        for turn in unstarted:
            one.waiting.remove(turn)
            turn.end()
        for replica in one.starting[: starting - len(unstarted)]:
            self._supervisor.stop(replica)
        for replica in one.ready[:ready]:
            one.retiring.add(replica.identity)
            self._spawn_task(self._retire(replica, self._next_epoch()), f"retire {replica.label}")
        self._on_change()

    async def _retire(self, replica: Replica, epoch: int) -> None:
        """Stop a replica when no frontend sends to it any more."""
        give_up_s = asyncio.get_running_loop().time() + replica.predict_timeout_s
        while not self._frontends.has_applied(epoch) and asyncio.get_running_loop().time() < give_up_s:
            await asyncio.sleep(0.02)
        await asyncio.sleep(RETIRE_S)
        self._supervisor.stop(replica)

    def _serve(self, model: str, name: str, key: str | None, now_s: float) -> None:
        before = self.answering(model, name)
        if key is None:
            self.serving.pop((model, name), None)
        else:
            self.serving[model, name] = key
        after = self.answering(model, name)
        if before is not None and before.key not in self.serving.values():
            before.idle_since_s = now_s
        if after is not None:
            after.idle_since_s = None
        if before is not None:
            self.switches += 1
        wanted = self.desired.models.get(model)
        self._events.tell(
            "switched",
            model=model,
            alias=name or None,
            version=after.version if after else "none",
            previous=before.version if before else None,
            seq=wanted.seq if wanted else None,
        )
        self._on_change()

    def _stop(self, one: Holding) -> None:
        one.enter("stopping", one.reason)
        for replica in one.replicas.values():
            self._supervisor.stop(replica)
        if not one.replicas:
            self._drop(one)

    def _end_waiting(self, one: Holding) -> None:
        waiting, one.waiting = one.waiting, []
        for turn in waiting:
            turn.end()

    def _next_epoch(self) -> int:
        """Return the number of the next table, and see to it that there is one."""
        self.needs_epoch = self._frontends.table.epoch + 1
        return self.needs_epoch

    def _drop(self, one: Holding) -> None:
        was_served = one.phase == "stopping"
        self._frontends.forget(one.key)
        self.holdings.pop(one.key, None)
        if one.prepared is not None:
            one.prepared.release()
        if was_served:
            self._events.tell("drained", model=one.model, version=one.version)

    def _allows_code(self, one: Holding) -> bool:
        wanted = self.desired.models.get(one.model)
        return (wanted.policy if wanted else one.policy).allow_code
