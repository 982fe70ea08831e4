"""The controller: one process a host that reads the registry, decides what runs, and never sees a query.

One task group owns every task; everything but blocking I/O happens on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from clipperfs.serverd import control
from clipperfs.serverd.admin import AdminServer
from clipperfs.serverd.adopter import Adopter
from clipperfs.serverd.answering import answering_versions, describe_changes, served_versions
from clipperfs.serverd.event_waiter import EventWaiter
from clipperfs.serverd.events import Events
from clipperfs.serverd.fleet import Fleet
from clipperfs.serverd.frontends import FrontendPool
from clipperfs.serverd.guard import Guard, read_brakes
from clipperfs.serverd.heap import set_start_aside
from clipperfs.serverd.herald import Herald
from clipperfs.serverd.memory import Memory
from clipperfs.serverd.metrics import CONTENT_TYPE, render
from clipperfs.serverd.progress import Progress
from clipperfs.serverd.reader import Look, RegistryReader
from clipperfs.serverd.settings import DaemonSettings, default_name
from clipperfs.serverd.shared_page import SharedPage
from clipperfs.serverd.statedir import StateDir
from clipperfs.serverd.status import describe, failed_versions, replica_status
from clipperfs.serverd.succession import Succession
from clipperfs.serverd.supervisor import Supervisor
from clipperfs.serverd.take_over import Offer
from clipperfs.serverd.tasks import Tasks
from clipperfs.serverd.upkeep import Upkeep
from clipperfs.serverd.watcher import Watcher

import clipperfs
from clipperfs.documents import ReplicaStatus, utc_now
from clipperfs.errors import ClipperfsError, DaemonStartFailed, NotFound
from clipperfs.registry import Registry

LOG = logging.getLogger("clipperfs.serverd")

LOOK_THREADS = 3
"""For looks at the registry, the status file and the snapshot: short work, which never waits behind a long fetch."""
FETCH_THREADS = 4
"""For fetching and verifying versions, and for adopting copies."""
FRONTENDS_READY_S = 30.0


class Controller:
    """One daemon, from its settings to its end.

    Args:
        settings: what the starter said.
        state: its state folder, locked.
        tell_starter: passes a JSON object on to whoever started the daemon.
        offer: what the daemon that it takes over from has sent; ``None``: it takes over from nobody.
    """

    def __init__(
        self, settings: DaemonSettings, state: StateDir, tell_starter: Any, offer: Offer | None = None
    ) -> None:
        self.settings = settings
        host = socket.gethostname()
        self.name = settings.name or default_name(host, settings)
        self._host = host
        self._state = state
        self._tell_starter = tell_starter
        self._registry = Registry(
            settings.registry,
            cache_dir=settings.cache_dir,
            actor=settings.actor or f"serverd@{host}",
            trusted_keys=settings.trusted_keys,
        )
        self._started = utc_now()
        self._admin_port: int | None = None
        self._tasks: Tasks
        self._changed = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._drain_s = settings.drain_s
        self._stop_now = asyncio.Event()
        self._is_stopping = False
        self._executor = ThreadPoolExecutor(LOOK_THREADS, thread_name_prefix="look")
        self._slow_executor = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")
        self._events = Events()
        self._memory = Memory(state, self._events, settings.models, asyncio.get_running_loop().time)
        self._herald = Herald(
            self.name,
            self._registry.store,
            self._executor,
            self._replica_status,
            lambda: self._memory.is_reachable,
            settings.status_s,
        )
        self._succession = Succession(
            settings,
            state,
            offer,
            self._events,
            self._herald,
            self._spawn,
            stop=self.stop,
            hurry=self._hurry,
            serving=lambda: served_versions(self._fleet),
            started=self._started,
            on_taken=self._take_brakes,
            tell_starter=tell_starter,
        )
        self._runtime = self._succession.runtime
        self._brakes = read_brakes(state)
        self._adopter = Adopter(self._registry, self._events, settle_s=settings.poll_s)
        self._watcher = self._make_watcher()
        self._waiter = self._make_waiter()

    # The life of a daemon, in order

    async def run(self) -> None:
        """Live until told to stop. Raises ClipperfsError when the daemon cannot start; nothing is left running then."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._take_signal)
        self._runtime.make(anew=not self._succession.has_predecessor)
        self._frontends = FrontendPool(
            count=self.settings.frontend_count,
            host=self.settings.host,
            port=self.settings.port,
            runtime_dir=str(self._runtime.own),
            options=self.settings.frontend_options,
            is_heir=self._succession.has_predecessor,
            events=self._events,
            on_change=self._changed.set,
            on_replica=self._take_replica_word,
            answer=SharedPage(self.metrics, CONTENT_TYPE).answer,
            spawn_task=self._spawn,
        )
        self._admin = AdminServer(self, self._events, self._spawn)
        try:
            self._admin_port = self._succession.bind(self._frontends, self._admin)
            if not self._frontends.is_loopback:
                LOG.warning("queries are answered on %s: anybody who reaches it may ask", self.settings.host)
        except BaseException:
            self._frontends.kill()
            self._admin.close()
            self._runtime.remove(with_common=not self._succession.has_predecessor)
            raise
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = Tasks(tasks)
                await self._serve()
                raise _Done
        except BaseExceptionGroup as group:
            # Not except*: before Python 3.11.4 what it raises arrives wrapped in a group.
            if (failures := group.split(_Done)[1]) is not None:
                named, others = failures.split(ClipperfsError)
                raise failures if named is None or others is not None else named.exceptions[0] from None
        finally:
            for executor in (self._executor, self._slow_executor):
                executor.shutdown(wait=False, cancel_futures=True)

    async def _serve(self) -> None:
        self._supervisor = Supervisor(str(self._runtime.own), lambda replica: self._fleet.take_exit(replica))
        self._fleet = Fleet(
            workspace=self._registry.workspace,
            supervisor=self._supervisor,
            frontends=self._frontends,
            executor=self._slow_executor,
            events=self._events,
            log_dir=self._state.replica_logs,
            endpoints=control.replica_endpoints(str(self._runtime.own), self.settings.frontend_count),
            spawn_task=self._spawn,
            on_change=self._changed.set,
        )
        self._guard = Guard(
            self._registry,
            self._state,
            self._events,
            self._executor,
            self._fleet,
            records=lambda: self._memory.models,
            collect=self._frontends.collect,
            routed=self._has_rollout,
            on_brake=self._want,
            brakes=self._brakes,
        )
        self._progress = Progress(self._fleet, self._frontends, lambda: dict(self._adopter.refusals))
        try:
            await self._succession.begin()  # handles find the daemon from here on, or from when it has taken over
            self._spawn(self._supervisor.watch_pulse(), "replicas' pulse", vital=True)
            self._spawn(self._frontends.watch_pulse(), "frontends' pulse", vital=True)
            upkeep = Upkeep(self._state, self._registry.workspace, self._slow_executor, self.settings.cache_limit_bytes)
            self._spawn(upkeep.run(), "upkeep")
            self._spawn(self._reconcile_for_ever(), "reconcile", vital=True)
            if not await self._tasks.unless(self._stop_asked, self._read_first()):
                return
            self._frontends.start()
            self._watcher.follows = self.settings.watch
            self._spawn(self._watcher.run(), "watch", vital=True)
            if self._waiter is not None:
                self._waiter.start()
            self._spawn(self._herald.run(), "status", vital=True)
            self._spawn(self._guard.run(), "rollouts", vital=True)
            self._spawn(self._announce_ready(), "announce", vital=True)
            await self._stop_asked.wait()
        finally:
            await self._end()

    def _make_watcher(self) -> Watcher:
        reader = RegistryReader(self._registry.workspace, self._state, self.settings.models)
        return Watcher(
            reader,
            self._adopter,
            self._executor,
            self._slow_executor,
            self._events,
            models=self.settings.models,
            poll_s=self.settings.poll_s,
            sweep_s=self.settings.sweep_s,
            on_look=self._take_look,
            on_failure=self._memory.take_failure,
        )

    def _make_waiter(self) -> EventWaiter | None:
        """Return what waits for the events of the registry's bucket, where it has a queue. Raises InvalidSetting."""
        if self.settings.event_queue is None:
            return None
        from clipperfs.store.s3_events import EventQueue

        return EventWaiter(
            EventQueue(self.settings.event_queue, self._registry.url),
            on_subject=self._watcher.reader.tell,
            on_copy=self._adopter.tell,
            poke=self._watcher.poke_from_thread,
        )

    async def _read_first(self) -> None:
        """Read the registry, on top of what the last run knew. Raises what the registry said when neither is there."""
        has_memory = self._memory.restore()
        try:
            await self._watcher.look(full=True)
        except ClipperfsError as error:
            if not has_memory:
                raise
            self._events.tell("restarted from memory", models=len(self._memory.models), reason=error.message)
        self._want()

    async def _announce_ready(self) -> None:
        """Tell the starter when the daemon is ready, and every frontend that it accepts."""
        follows_another = self._succession.has_predecessor
        await self._await_frontends(
            lambda: self._frontends.have_joined if follows_another else self._frontends.are_ready
        )
        told: set[str] = set()

        def is_loaded() -> bool:
            waiting = self._progress.unsettled()
            for name in sorted(set(waiting) - told):
                self._tell_starter({"state": "loading", "model": name})
            told.update(waiting)
            return not waiting

        await self._progress.until(is_loaded)
        await self._succession.ask_to_accept(failed_versions(self._fleet))
        self._progress.is_ready = True
        self._changed.set()
        await self._progress.until(lambda: self._frontends.table.accepting and self._progress.is_routed())
        await self._await_frontends(lambda: self._frontends.are_ready)
        await self._succession.take_place()
        set_start_aside()
        self._events.tell("daemon ready", pid=os.getpid(), port=self._frontends.port, admin_port=self._admin_port)
        self._tell_starter(
            {
                "state": "ready",
                "pid": os.getpid(),
                "port": self._frontends.port,
                "admin_port": self._admin_port,
                "failed": failed_versions(self._fleet),
            }
        )

    async def _await_frontends(self, condition: Callable[[], bool]) -> None:
        if not await self._progress.until(condition, FRONTENDS_READY_S):
            raise DaemonStartFailed("the frontends did not get ready", hint="the daemon's log says why")

    async def _end(self) -> None:
        """Drain: readiness fails, the frontends finish, the replicas stop. A second signal cuts it short."""
        self._is_stopping = True
        if self._waiter is not None:
            self._waiter.stop()
        self._progress.is_ready = self._succession.is_succeeded  # by whom all is answered that still comes here
        self._succession.begin_end(self._drain_s, is_asked=self._stop_asked.is_set())
        self._fleet.close()
        self._events.tell("daemon stopping", drain_s=self._drain_s)
        draining = asyncio.ensure_future(self._drain())
        cutting = asyncio.ensure_future(self._stop_now.wait())
        await asyncio.wait({draining, cutting}, return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, cutting):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await draining
        self._frontends.kill()
        is_cut = self._stop_now.is_set() or self._succession.is_waiting
        await self._supervisor.close(0.0 if is_cut else 5.0)
        self._events.tell("daemon stopped")
        if self._stop_now.is_set():
            self._succession.begin_end(0.0, is_asked=True)
            await self._succession.await_others(0.0)
        self._succession.end()

    async def _drain(self) -> None:
        self._progress.publish()
        await self._frontends.drain(self._drain_s, self._succession.heirs or ())
        if self._state.is_ours and not self._succession.is_succeeded:
            await self._herald.withdraw()
        await self._succession.await_others(self._drain_s)

    # What the registry says

    def _take_look(self, look: Look) -> None:
        self._memory.take_look(look)
        if look.changed:
            self._want()
            self._executor.submit(self._memory.snapshot(self._registry.workspace.registry_id))

    def _want(self) -> None:
        """Go by the records that are known now."""
        self._fleet.desired = self._memory.desired({model: brake.seq for model, brake in self._brakes.items()})
        self._changed.set()

    # What the daemon does about it

    async def _reconcile_for_ever(self) -> None:
        wake_s: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(wake_s):
                    await self._changed.wait()
            self._changed.clear()
            if self._is_stopping:
                return
            wake_s = self._fleet.reconcile(self._loop_time())
            self._progress.publish()
            self._progress.note_applied()
            self._herald.tell_soon()
            await self._progress.tell()

    def _take_replica_word(self, kind: str, identity: str, message: control.Message) -> None:
        if kind == control.HANG:
            self._fleet.replace_hanging(identity, float(message.get("batch_s", 0)))
        elif (replica := self._supervisor.find(identity)) is not None:
            LOG.warning("a frontend cannot reach replica %s", replica.label)

    # What people ask (the admin interface)

    @property
    def is_ready(self) -> bool:
        """Say whether the daemon is ready."""
        return self._progress.is_ready

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        daemon = {
            "pid": os.getpid(),
            "name": self.name,
            "software": clipperfs.__version__,
            "started": self._started,
            "host": self.settings.host,
            "port": self._frontends.port,
            "admin_port": self._admin_port,
            "state_dir": str(self._state.path),
            "ready": self.is_ready,
            "stopping": self._is_stopping,
            "epoch": self._progress.epoch,
            "spares": self._supervisor.spares.pids,
        }
        return describe(
            daemon,
            self._memory.describe(self.settings.registry, following=self._watcher.follows)
            | {"event_queue": self._waiter.failure if self._waiter is not None else None},
            self._frontends,
            self._fleet,
            self._progress.applied,
            dict(self._adopter.refusals),
            self._guard,
        )

    async def metrics(self) -> bytes:
        """Return the metrics of the whole daemon."""
        extra = {
            "replica_restarts": float(self._fleet.restarts),
            "frontend_restarts": float(self._frontends.restarts),
            "switches": float(self._fleet.switches),
        }
        return render(await self._frontends.collect_totals(), self.status(), extra)

    async def reload(self, model: str | None) -> dict[str, Any]:
        """Read the registry now, try again what has failed, and wait until all of it is loaded or has failed."""
        if model is not None and model not in self._fleet.desired.models and not self._memory.follows(model):
            raise NotFound(f"this daemon does not serve model {model}", hint="'clipperfs status' lists those it does")
        before = answering_versions(self._fleet)
        self._adopter.retry()
        look = await self._watcher.look(full=True)
        names = [model] if model is not None else list(look.models)
        if model is not None and model not in look.models:
            raise NotFound(f"the registry has no records of model {model}", hint="'clipperfs list' shows its models")
        for name in names:
            self._memory.try_again(name)
        self._want()
        mine = set(names)
        await self._progress.until(lambda: self._is_stopping or not mine.intersection(self._progress.unsettled()))
        await self._progress.until(lambda: self._is_stopping or self._progress.is_routed())
        changes = describe_changes(before, answering_versions(self._fleet), names)
        return {"changes": changes, "failed": [one for one in failed_versions(self._fleet) if one["model"] in names]}

    def follow(self, follow: bool) -> None:
        """Follow the registry from now on, or no longer."""
        self._watcher.follow(follow)

    def stop(self, drain_s: float) -> None:
        """Drain and end; called again: end at once."""
        if self._stop_asked.is_set():
            self._stop_now.set()
        self._drain_s = drain_s
        self._stop_asked.set()

    def successor_settings(self) -> dict[str, Any]:
        """Return the settings with which another daemon would go on in this one's place."""
        return self.settings.for_successor(
            port=self._frontends.port, admin_port=self._admin_port, watch=self._watcher.follows
        )

    def _take_brakes(self) -> None:
        """Know of the rollouts that the daemon before has stopped meanwhile."""
        self._brakes.update(read_brakes(self._state))
        self._want()

    def _has_rollout(self, model: str) -> bool:
        """Say whether the frontends know of a model's rollout: its candidate is ready."""
        route = self._frontends.table.models.get(model)
        return route is not None and route.rollout is not None

    # What the daemon says of itself

    def _replica_status(self, expires_unix_s: float) -> ReplicaStatus:
        return replica_status(
            self._fleet,
            self._progress.applied,
            name=self.name,
            host=self._host,
            pid=os.getpid(),
            software=f"clipperfs {clipperfs.__version__}",
            time=utc_now(),
            expires=expires_unix_s,
        )

    # Plumbing

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str, *, vital: bool = False) -> asyncio.Task[Any]:
        return self._tasks.spawn(work, name, vital=vital)

    def _hurry(self, drain_s: float) -> None:
        asyncio.get_running_loop().call_later(drain_s, self._stop_now.set)

    def _take_signal(self) -> None:
        self.stop(self._drain_s)

    def _loop_time(self) -> float:
        return asyncio.get_running_loop().time()


class _Done(Exception):
    """The daemon has ended as it should."""
