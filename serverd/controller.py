"""The controller: one process a host that reads the registry, decides what runs, and never sees a query.

One task group owns every task; everything but blocking I/O happens on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from clipperfs.serverd import control
from clipperfs.serverd.admin import AdminServer
from clipperfs.serverd.adopter import Adopter
from clipperfs.serverd.desired import ACTIVE, Snapshot, desired_state, parse_snapshot
from clipperfs.serverd.events import Events
from clipperfs.serverd.fleet import Fleet, endpoints_of
from clipperfs.serverd.frontends import FrontendPool
from clipperfs.serverd.metrics import render
from clipperfs.serverd.reader import Look, RegistryReader
from clipperfs.serverd.settings import DaemonSettings
from clipperfs.serverd.statedir import StateDir, make_runtime_dir
from clipperfs.serverd.status import describe_model, find_faults, replica_status
from clipperfs.serverd.supervisor import Supervisor
from clipperfs.serverd.table import build_table
from clipperfs.serverd.watcher import Watcher

import clipperfs
from clipperfs import layout
from clipperfs.daemon_files import ADMIN_SOCKET, DESIRED_FILE, DaemonDocument, runtime_dir, start_ticks
from clipperfs.documents import canonical_bytes, utc_now
from clipperfs.errors import ClipperfsError, DaemonStartFailed, InvalidDocument, NotFound, StorageError
from clipperfs.registry import Registry

LOG = logging.getLogger("clipperfs.serverd")

THREADS = 8
"""For looks at the registry, fetches, adoptions and the status file; never more at once."""
FRONTENDS_READY_S = 30.0
STATUS_LIFETIMES = 3
"""A status in the registry expires after this many of its periods."""


class Controller:
    """One daemon, from its settings to its end.

    Args:
        settings: what the starter said.
        state: its state folder, locked.
        tell_starter: passes a JSON object on to whoever started the daemon.
    """

    def __init__(self, settings: DaemonSettings, state: StateDir, tell_starter: Any) -> None:
        self.settings = settings
        self.is_ready = False
        host = socket.gethostname()
        self.name = settings.name or _daemon_name(host, settings)
        self._host = host
        self._state = state
        self._tell_starter = tell_starter
        self._registry = Registry(
            settings.registry, cache_dir=settings.cache_dir, actor=settings.actor or f"serverd@{host}"
        )
        self._runtime = runtime_dir(state.path)
        self._started = utc_now()
        self._records: Look = Look({}, {}, (), {})
        self._tries: dict[str, int] = {}
        self._applied: dict[str, int] = {}
        self._epoch = 0
        self._alarms: dict[str, str] = {}
        self._unreachable_s: float | None = None
        self._admin_port: int | None = None
        self._tasks: asyncio.TaskGroup
        self._changed = asyncio.Event()
        self._settled = asyncio.Condition()
        self._status_due = asyncio.Event()
        self._status_lock = asyncio.Lock()
        self._stop_asked = asyncio.Event()
        self._drain_s = settings.drain_s
        self._stop_now = asyncio.Event()
        self._is_stopping = False
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="registry")
        self._events = Events()
        self._adopter = Adopter(self._registry, self._events, settle_s=settings.poll_s)
        self._watcher = self._make_watcher()

    # The life of a daemon, in order

    async def run(self) -> None:
        """Live until told to stop. Raises ClipperfsError when the daemon cannot start; nothing is left running then."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._take_signal)
        make_runtime_dir(self._runtime)
        self._frontends = FrontendPool(
            count=self.settings.frontend_count,
            host=self.settings.host,
            port=self.settings.port,
            runtime_dir=str(self._runtime),
            events=self._events,
            on_change=self._changed.set,
            on_replica=self._take_replica_word,
            answer=self._answer_client,
            spawn_task=self._spawn,
        )
        self._admin = AdminServer(self, self._events, self._spawn)
        try:
            self._frontends.bind()
            self._admin_port = self._admin.bind(self.settings.admin_port)
        except BaseException:
            self._frontends.kill()
            self._admin.close()
            raise
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                await self._serve()
                raise _Done
        except* _Done:
            pass
        except* ClipperfsError as group:
            raise group.exceptions[0] from None
        finally:
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def _serve(self) -> None:
        self._supervisor = Supervisor(str(self._runtime), lambda replica: self._fleet.take_exit(replica))
        self._fleet = Fleet(
            workspace=self._registry.workspace,
            supervisor=self._supervisor,
            frontends=self._frontends,
            executor=self._executor,
            events=self._events,
            log_dir=self._state.replica_logs,
            endpoints=endpoints_of(str(self._runtime), self.settings.frontend_count),
            spawn_task=self._spawn,
            on_change=self._changed.set,
        )
        try:
            socket_path = str(self._runtime / ADMIN_SOCKET)
            await self._admin.start(socket_path)
            self._state.write_daemon(self._document(socket_path))  # from here on handles find the daemon
            self._spawn(self._supervisor.watch_pulse(), "pulse", vital=True)
            self._spawn(self._reconcile_for_ever(), "reconcile", vital=True)
            if self.settings.lifeline_fd is not None:
                asyncio.get_running_loop().add_reader(self.settings.lifeline_fd, self._take_lifeline)
            await self._read_first()
            self._frontends.start()
            self._watcher.follows = self.settings.watch
            self._spawn(self._watcher.run(), "watch", vital=True)
            self._spawn(self._write_status_for_ever(), "status", vital=True)
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
            self._events,
            models=self.settings.models,
            poll_s=self.settings.poll_s,
            sweep_s=self.settings.sweep_s,
            on_look=self._take_look,
            on_failure=self._take_failure,
        )

    async def _read_first(self) -> None:
        """Read the registry, on top of what the last run knew. Raises what the registry said when neither is there."""
        snapshot = self._read_snapshot()
        if snapshot is not None:
            models = {record.model: record for record in snapshot.models if self._is_followed(record.model)}
            self._records = Look(models, {record.app: record for record in snapshot.apps}, (), {})
        try:
            await self._watcher.look(full=True)
        except ClipperfsError as error:
            if snapshot is None:
                raise
            self._events.tell("restarted from memory", models=len(snapshot.models), reason=error.message)
        self._take_records(self._records)

    def _read_snapshot(self) -> Snapshot | None:
        data = self._state.read(DESIRED_FILE)
        try:
            return parse_snapshot(data) if data is not None else None
        except InvalidDocument as error:
            self._events.tell("alarm", subject=DESIRED_FILE, reason=error.message)
            return None

    async def _announce_ready(self) -> None:
        """Tell the starter when the daemon is ready, and every frontend that it accepts."""
        told: set[str] = set()
        async with asyncio.timeout(None) as limit:
            limit.reschedule(asyncio.get_running_loop().time() + FRONTENDS_READY_S)
            try:
                while not self._frontends.are_ready:
                    await self._wait_settled()
            except TimeoutError:
                raise DaemonStartFailed("the frontends did not get ready; see the daemon's log") from None
            limit.reschedule(None)
            while True:
                waiting = [name for name in self._fleet.desired.models if not self._fleet.is_settled(name)]
                if not waiting:
                    break
                for name in sorted(set(waiting) - told):
                    self._tell_starter({"state": "loading", "model": name})
                told.update(waiting)
                await self._wait_settled()
        self.is_ready = True
        self._changed.set()
        while not self._frontends.has_applied(self._epoch) or not self._frontends.table.accepting:
            await self._wait_settled()
        self._events.tell("daemon ready", pid=os.getpid(), port=self._frontends.port, admin_port=self._admin_port)
        self._tell_starter(
            {
                "state": "ready",
                "pid": os.getpid(),
                "port": self._frontends.port,
                "admin_port": self._admin_port,
                "failed": self._failed(),
            }
        )

    async def _end(self) -> None:
        """Drain: readiness fails, the frontends finish, the replicas stop. A second signal cuts it short."""
        self._is_stopping = True
        self.is_ready = False
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
        await self._supervisor.close(0.0 if self._stop_now.is_set() else 5.0)
        self._events.tell("daemon stopped")
        self._admin.close()
        for child in ("c.ipc", ADMIN_SOCKET, *(f"f{index}.ipc" for index in range(self.settings.frontend_count))):
            with contextlib.suppress(OSError):
                os.unlink(self._runtime / child)
        with contextlib.suppress(OSError):
            os.rmdir(self._runtime)

    async def _drain(self) -> None:
        self._publish()
        await self._frontends.drain(self._drain_s)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0), self._status_lock:
                await asyncio.get_running_loop().run_in_executor(
                    self._executor, self._registry.store.delete, layout.replica_status(self.name)
                )

    # What the registry says

    def _take_look(self, look: Look) -> None:
        if self._unreachable_s is not None:
            self._events.tell("registry back", after_s=round(self._loop_time() - self._unreachable_s, 1))
            self._unreachable_s = None
        for subject, alarm in look.alarms.items():
            if self._alarms.get(subject) != alarm:
                self._events.tell("alarm", subject=subject, reason=alarm)
        self._alarms = dict(look.alarms)
        if look.changed:
            self._take_records(look)
            self._keep_snapshot()

    def _take_failure(self, error: ClipperfsError) -> None:
        if self._unreachable_s is None:
            self._unreachable_s = self._loop_time()
            self._events.tell("registry unreachable", reason=error.message)

    def _take_records(self, look: Look) -> None:
        # A ledger that this look does not know, because its log is gone, stays as it was: absence never unloads.
        self._records = Look({**self._records.models, **look.models}, {**self._records.apps, **look.apps}, (), {})
        self._fleet.desired = desired_state(
            self._records.models.values(), self._records.apps.values(), tries=self._tries
        )
        self._changed.set()

    def _keep_snapshot(self) -> None:
        snapshot = Snapshot(
            registry_id=self._registry.workspace.registry_id,
            models=[self._records.models[name] for name in sorted(self._records.models)],
            apps=[self._records.apps[name] for name in sorted(self._records.apps)],
        )
        data = canonical_bytes(snapshot)

        def write() -> None:
            try:
                self._state.write(DESIRED_FILE, data)
            except StorageError as error:
                self._events.tell("alarm", subject=DESIRED_FILE, reason=error.message)

        self._executor.submit(write)

    def _is_followed(self, model: str) -> bool:
        return self.settings.models is None or model in self.settings.models

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
            self._publish()
            self._note_applied()
            async with self._settled:
                self._settled.notify_all()

    def _publish(self) -> None:
        """Send the frontends a new table if it differs from the last one, or if somebody waits for one."""
        table = build_table(
            self._fleet.desired,
            [one.view() for one in self._fleet.holdings.values()],
            self._fleet.serving,
            {key: hook for key, (hook, _) in dict(self._adopter.refusals).items() if hook},
            epoch=self._epoch + 1,
            accepting=self.is_ready,
        )
        before = self._frontends.table
        is_same = (table.apps, table.models, table.accepting) == (before.apps, before.models, before.accepting)
        if is_same and self._epoch and self._fleet.needs_epoch <= self._epoch:
            return
        self._epoch += 1
        for one in self._fleet.holdings.values():
            one.was_routed = one.was_routed or one.phase in ("loading", "ready")
        self._frontends.publish(table)

    def _note_applied(self) -> None:
        """Note which records are in effect, and have the status in the registry say so."""
        for name, wanted in self._fleet.desired.models.items():
            if self._applied.get(name) == wanted.seq or not self._fleet.is_settled(name):
                continue
            active = self._fleet.answering(name)
            load = wanted.names.get(ACTIVE)
            if load is None or (active is not None and active.wanted.load == load):
                self._applied[name] = wanted.seq
        self._status_due.set()

    def _take_replica_word(self, kind: str, identity: str, message: control.Message) -> None:
        if kind == control.HANG:
            self._fleet.replace_hanging(identity, float(message.get("batch_s", 0)))
        elif (replica := self._supervisor.find(identity)) is not None:
            LOG.warning("a frontend cannot reach replica %s", replica.label)

    # What people ask (the admin interface)

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        unreachable_s = self._unreachable_s
        failure = self._watcher.failure
        registry: dict[str, Any] = {
            "url": self.settings.registry,
            "state": "reachable" if unreachable_s is None else "unreachable",
            "stale_seconds": 0.0 if unreachable_s is None else round(self._loop_time() - unreachable_s, 1),
            "reason": failure.message if failure is not None else None,
            "following": self._watcher.follows,
            "alarms": dict(self._alarms),
        }
        table, fleet = self._frontends.table, self._fleet
        models = {
            name: describe_model(fleet, wanted, self._applied.get(name, 0), table)
            for name, wanted in sorted(fleet.desired.models.items())
        }
        frontends = self._frontends.describe()
        faults = find_faults(models, registry, frontends) if self.is_ready else ["the daemon is not ready"]
        refusals = dict(self._adopter.refusals)
        return {
            "daemon": {
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
                "epoch": self._epoch,
            },
            "registry": registry,
            "frontends": frontends,
            "models": models,
            "apps": {
                name: {
                    "seq": app.seq,
                    "input_type": app.input_type,
                    "slo_us": app.slo_us,
                    "default_output": app.default_output,
                    "model": app.model,
                }
                for name, app in sorted(fleet.desired.apps.items())
            },
            "quarantined": self._failed(),
            "refused": [
                {"model": model, "version": version, "hook": hook or None, "reason": reason}
                for (model, version), (hook, reason) in sorted(refusals.items())
            ],
            "degraded": bool(faults),
            "reasons": faults,
        }

    async def metrics(self) -> bytes:
        """Return the metrics of the whole daemon."""
        extra = {
            "replica_restarts": float(self._fleet.restarts),
            "frontend_restarts": float(self._frontends.restarts),
            "switches": float(self._fleet.switches),
        }
        return render(await self._frontends.collect(), self.status(), extra)

    async def reload(self, model: str | None) -> dict[str, Any]:
        """Read the registry now, try again what has failed, and wait until all of it is loaded or has failed."""
        if model is not None and model not in self._fleet.desired.models and not self._is_followed(model):
            raise NotFound(f"this daemon does not serve model {model}", hint="'clipperfs status' lists those it does")
        before = self._answering()
        self._adopter.retry()
        look = await self._watcher.look(full=True)
        names = [model] if model is not None else list(look.models)
        if model is not None and model not in look.models:
            raise NotFound(f"the registry has no records of model {model}", hint="'clipperfs list' shows its models")
        for name in names:
            self._tries[name] = self._tries.get(name, 0) + 1
        self._take_records(look)
        while not all(self._fleet.is_settled(name) for name in names) and not self._is_stopping:
            await self._wait_settled()
        after = self._answering()
        changes = [
            {"model": name, "alias": alias or None, "from": before.get((name, alias)), "to": after.get((name, alias))}
            for name, alias in sorted({*before, *after})
            if name in names and before.get((name, alias)) != after.get((name, alias))
        ]
        return {"changes": changes, "failed": [one for one in self._failed() if one["model"] in names]}

    def follow(self, follow: bool) -> None:
        """Follow the registry from now on, or no longer."""
        self._watcher.follow(follow)

    def stop(self, drain_s: float) -> None:
        """Drain and end; called again: end at once."""
        if self._stop_asked.is_set():
            self._stop_now.set()
        self._drain_s = drain_s
        self._stop_asked.set()

    def _answering(self) -> dict[tuple[str, str], str]:
        return {
            (model, name): self._fleet.holdings[key].version
            for (model, name), key in self._fleet.serving.items()
            if key in self._fleet.holdings
        }

    def _failed(self) -> list[dict[str, Any]]:
        return [
            {"model": one.model, "version": one.version, "reason": one.reason, "hint": one.hint, "since": one.since}
            for one in self._fleet.holdings.values()
            if one.phase == "failed"
        ]

    async def _answer_client(self, what: str) -> tuple[int, str, bytes]:
        if what not in ("metrics", "status"):
            return 404, "application/json", b"{}"
        return await self._admin.page(what)

    # What the daemon says of itself

    async def _write_status_for_ever(self) -> None:
        """Write the daemon's status into the registry on every change, and now and then. Best effort."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.status_s):
                    await self._status_due.wait()
            await asyncio.sleep(min(0.05, self.settings.status_s))  # one file for a burst of changes
            self._status_due.clear()
            if self._unreachable_s is not None:
                continue
            status = replica_status(
                self._fleet,
                self._applied,
                name=self.name,
                host=self._host,
                pid=os.getpid(),
                software=f"clipperfs {clipperfs.__version__}",
                time=utc_now(),
                expires=time.time() + STATUS_LIFETIMES * self.settings.status_s,
            )
            async with self._status_lock:
                if self._is_stopping:
                    return
                with contextlib.suppress(StorageError):
                    await loop.run_in_executor(
                        self._executor,
                        self._registry.store.replace,
                        layout.replica_status(self.name),
                        canonical_bytes(status),
                    )

    def _document(self, socket_path: str) -> DaemonDocument:
        ticks = start_ticks(os.getpid())
        assert ticks is not None
        return DaemonDocument(
            pid=os.getpid(),
            started_ticks=ticks,
            started=self._started,
            host=self.settings.host,
            port=self._frontends.port,
            admin_port=self._admin_port,
            admin_socket=socket_path,
            registry=self.settings.registry,
        )

    # Plumbing

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str, *, vital: bool = False) -> asyncio.Task[Any]:
        """Start a task that the task group owns. The failure of one that is not vital is logged, and that is all."""
        return self._tasks.create_task(work if vital else self._guarded(work, name), name=name)

    async def _guarded(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        try:
            await work
        except Exception:
            LOG.exception("task %r failed", name)

    async def _wait_settled(self) -> None:
        async with self._settled:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await self._settled.wait()

    def _take_signal(self) -> None:
        self.stop(self._drain_s)

    def _take_lifeline(self) -> None:
        assert self.settings.lifeline_fd is not None
        asyncio.get_running_loop().remove_reader(self.settings.lifeline_fd)
        self._events.tell("starter gone")
        if not self._stop_asked.is_set():
            self.stop(self._drain_s)

    def _loop_time(self) -> float:
        return asyncio.get_running_loop().time()


class _Done(Exception):
    """The daemon has ended as it should."""


def _daemon_name(host: str, settings: DaemonSettings) -> str:
    """Return a name for the daemon that follows the grammar and differs for each state folder of a host."""
    tag = runtime_dir(settings.state_dir).name.rpartition("-")[2]
    bare = re.sub(r"[^a-z0-9-]+", "-", host.lower()).strip("-")[:50] or "host"
    return f"{bare}-{tag}"
