"""Replica processes as the controller sees them: started, spoken to over ZeroMQ, noticed when they die, ended.

The controller owns one ROUTER socket. A replica's death is noticed through its pidfd, well before ZeroMQ would tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipperfs.serverd.control import controller_endpoint
from clipperfs.serverd.easing import ease, restore
from clipperfs.serverd.life import Life
from clipperfs.serverd.spares import Spares
from clipperfs.serverd.transport import ReplicaTransport

from clipperfs import wire
from clipperfs.errors import LoadFailed, PredictFailed, ReplicaLost, TimedOut
from clipperfs.replica.encode import pack_batch
from clipperfs.replica.process import ReplicaProcess, exit_reason, spawn
from clipperfs.replica.session import split_outputs
from clipperfs.replica.spec import ReplicaSpec, split_reason

LOG = logging.getLogger("clipperfs.serverd")

STACKS_S = 1.0
"""How long a hanging replica has to write its stacks before it is killed."""
STOP_S = 5.0
"""How long a replica that was told to stop may take to finish its batch, beyond the model's own predict timeout."""
LOG_LIMIT_BYTES = 16 * 1024 * 1024
PULSE_S = 5.0
"""How often a replica is asked for a sign of life."""
RESTORE_AGAIN_S = 0.11
"""The kernel takes a session's nice value ten times a second."""


class Replica:
    """One replica process of one held version."""

    def __init__(self, key: str, spec: ReplicaSpec, process: ReplicaProcess, predict_timeout_s: float) -> None:
        self.key = key
        """Of the held version that it belongs to."""
        self.spec = spec
        self.process = process
        self.predict_timeout_s = predict_timeout_s
        self.is_ready = False
        """It has loaded and answered its warm-up."""
        self.is_eased = True
        """It runs behind what serves."""
        self.is_leaving = False
        """It was told to stop, or is being killed: its death is no crash."""
        self.hang_reason: str | None = None
        self.life = Life(time.monotonic())
        self.killing: asyncio.TimerHandle | None = None
        """What kills it when it does not end by itself after it was told to stop."""
        self.was_killed = False
        """It ended by SIGKILL, and neither we nor the kernel's want of memory sent that."""
        self.loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """How the process ended, once it has."""
        self.batches: dict[int, asyncio.Future[list[Any]]] = {}
        self.warm_up: list[tuple[int, float]] = []
        """How many inputs each batch of its warm-up had, and how long predicting them took."""
        self.answered_s = time.monotonic()
        self.asked_s: float | None = None
        """When it was asked for a sign of life that it has not given yet."""

    @property
    def identity(self) -> str:
        """Return its ZeroMQ routing id in hexadecimal."""
        return self.spec.identity

    @property
    def label(self) -> str:
        """Return what people call it."""
        return f"{self.spec.model}/{self.spec.version} (pid {self.process.pid})"


class Supervisor:
    """All replica processes. Everything happens on the event loop's thread, which the processes die with.

    Args:
        runtime_dir: where the sockets are.
        on_exit: called with a replica when its process has ended, whatever the reason.
    """

    def __init__(self, runtime_dir: str, on_exit: Callable[[Replica], None]) -> None:
        self._on_exit = on_exit
        self.spares = Spares()
        self._replicas: dict[bytes, Replica] = {}
        self._batch = 0
        self._ping = 0
        self._transport = ReplicaTransport(controller_endpoint(runtime_dir), self._hear)

    def find(self, identity: str) -> Replica | None:
        """Return the replica of a routing id in hexadecimal, if it lives."""
        try:
            return self._replicas.get(bytes.fromhex(identity))
        except ValueError:
            return None

    def __len__(self) -> int:
        return len(self._replicas)

    def launch(
        self, key: str, spec: ReplicaSpec, log_path: Path, predict_timeout_s: float, *, is_missed: bool = True
    ) -> Replica:
        """Start a replica process, from a spare if there is one; return at once.

        Args:
            is_missed: there should be one already. Until :meth:`restore` it lets others go first; if it is not missed,
                it also gets only a small share of a full host.

        Raises:
            LoadFailed: there can be none.
        """
        process = self.spares.take(spec, log_path) or spawn(spec, log_path=log_path)
        replica = Replica(key, spec, process, predict_timeout_s)
        if is_missed:
            restore(process.pid)  # a spare is ready for the other case
        ease(process.pid, is_short=is_missed)
        self._replicas[spec.identity_bytes] = replica
        asyncio.get_running_loop().add_reader(process.pidfd(), self._reap, replica)
        return replica

    def restore(self, replica: Replica) -> None:
        """Let a replica run beside what serves, at once or as soon as the kernel lets it."""
        if not replica.is_eased or replica.ended.done():
            return
        if restore(replica.process.pid):
            replica.is_eased = False
        else:
            asyncio.get_running_loop().call_later(RESTORE_AGAIN_S, self.restore, replica)

    def keep_spares(self, count: int) -> None:
        """Keep so many warm spares, made while nothing loads. Call it whenever something may have changed."""
        is_calm = all(one.is_ready or one.is_leaving for one in self._replicas.values())
        self.spares.keep(count, is_calm=is_calm)

    async def await_loaded(self, replica: Replica, timeout_s: float) -> None:
        """Wait until the wrapper has loaded. Raises LoadFailed, ReplicaLost, TimedOut (the process is then stopped)."""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(replica.loaded)
        except TimeoutError as error:
            self.abort(replica, f"it did not load within {timeout_s:g} s")
            raise TimedOut(
                f"it did not load within {timeout_s:g} s",
                hint=f"the stacks are in {replica.process.log_path}; a slow model needs a larger load_timeout_s",
            ) from error

    async def predict(self, replica: Replica, inputs: Sequence[Any], timeout_s: float) -> list[Any]:
        """Have a replica answer a batch, for its warm-up.

        Raises InvalidInput, PredictFailed, ReplicaLost, TimedOut (the process is then stopped).
        """
        lengths, body = pack_batch(inputs, replica.spec.input_type)
        self._batch += 1
        batch = self._batch
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        replica.batches[batch] = answer
        code = wire.INPUT_TYPES.index(replica.spec.input_type)
        try:
            async with asyncio.timeout(timeout_s):
                if not self._send(replica, wire.pack_header(wire.PREDICT, batch, code, len(inputs), lengths), body):
                    raise ReplicaLost(f"replica {replica.label} cannot be reached")
                return await answer
        except TimeoutError as error:
            self.abort(replica, f"it did not answer a batch of {len(inputs)} within {timeout_s:g} s")
            raise TimedOut(
                f"it did not answer a batch of {len(inputs)} of its sample within {timeout_s:g} s",
                hint=f"the stacks are in {replica.process.log_path}; a slow model needs a larger predict_timeout_s",
            ) from error
        finally:
            replica.batches.pop(batch, None)

    def stop(self, replica: Replica) -> None:
        """Have a replica finish what has arrived and end; kill it when it does not."""
        if replica.is_leaving:
            return
        replica.is_leaving = True
        limit_s = replica.predict_timeout_s + STOP_S
        replica.killing = asyncio.get_running_loop().call_later(limit_s, self.kill, replica)
        if not self._send(replica, wire.pack_header(wire.STOP)):
            replica.process.terminate()

    def abort(self, replica: Replica, reason: str) -> None:
        """Have a hanging replica write its stacks to its log, then kill it."""
        if replica.hang_reason is not None or replica.ended.done():
            return
        replica.hang_reason = reason
        LOG.error("replica %s is stopped: %s; its stacks are in %s", replica.label, reason, replica.process.log_path)
        replica.process.dump_stacks()
        asyncio.get_running_loop().call_later(STACKS_S, self.kill, replica)

    def kill(self, replica: Replica) -> None:
        """Kill a replica and everything it started."""
        if not replica.ended.done():
            replica.process.kill_group()

    async def watch_pulse(self) -> None:
        """Ask every ready replica for a sign of life now and then; stop one that gives none."""
        while True:
            await asyncio.sleep(PULSE_S)
            now_s = time.monotonic()
            for replica in list(self._replicas.values()):
                replica.process.trim_log(LOG_LIMIT_BYTES)
                if not replica.is_ready or replica.is_leaving:
                    continue
                if replica.asked_s is None:
                    self._ping += 1
                    replica.asked_s = now_s
                    self._send(replica, wire.pack_header(wire.PING, self._ping))
                elif now_s - replica.asked_s > replica.predict_timeout_s + PULSE_S:
                    self.abort(replica, f"it gave no sign of life for {now_s - replica.asked_s:.0f} s")

    async def close(self, timeout_s: float) -> None:
        """End every replica: ask, wait at most ``timeout_s``, kill."""
        self.spares.close()
        for replica in list(self._replicas.values()):
            self.stop(replica)
        waiting = [replica.ended for replica in self._replicas.values()]
        if waiting and timeout_s > 0:
            await asyncio.wait(waiting, timeout=timeout_s)
        for replica in list(self._replicas.values()):
            self.kill(replica)
        waiting = [replica.ended for replica in self._replicas.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=5.0)
        self._transport.close()

    def _take(self, replica: Replica, frames: list[bytes]) -> None:
        fields = wire.unpack_header(frames[0])
        replica.answered_s = time.monotonic()
        match fields[0]:
            case wire.HELLO if fields[1] != wire.MAJOR:
                self._fail_load(replica, LoadFailed(f"its wrapper speaks protocol {fields[1]}, not {wire.MAJOR}"))
            case wire.STATE if fields[1] == wire.READY:
                if not replica.loaded.done():
                    replica.loaded.set_result(None)
            case wire.STATE if fields[1] == wire.FAILED:
                message, hint = split_reason(str(fields[2]))
                self._fail_load(replica, LoadFailed(message, hint=hint))
            case wire.OUTPUT | wire.FAULT:
                answer = replica.batches.get(fields[1])
                if answer is None or answer.done():
                    return
                if fields[0] == wire.FAULT:
                    message, hint = split_reason(str(fields[2]))
                    answer.set_exception(PredictFailed(message, hint=hint))
                else:
                    if isinstance(fields[2], int) and fields[2] > 0:
                        replica.warm_up.append((len(fields[3]), fields[2] / 1e6))
                    answer.set_result(split_outputs(fields[3], frames[1]))
            case wire.PONG:
                replica.asked_s = None

    def _fail_load(self, replica: Replica, error: LoadFailed) -> None:
        if not replica.loaded.done():
            replica.loaded.set_exception(error)
            replica.loaded.exception()  # retrieved here: nobody may be waiting for it any more

    def _hear(self, identity: bytes, frames: list[bytes]) -> None:
        """Take a message; the empty one with which a connection begins says nothing."""
        replica = self._replicas.get(identity)
        if replica is None or not frames[0]:
            return
        try:
            self._take(replica, frames)
        except (wire.WireError, PredictFailed, ValueError, TypeError, IndexError) as error:
            LOG.warning("a message of replica %s is passed over: %s", replica.label, error)

    def _send(self, replica: Replica, header: bytes, body: bytes = b"") -> bool:
        sent = self._transport.send(replica.spec.identity_bytes, header, body)
        self._transport.settle()
        return sent

    def _reap(self, replica: Replica) -> None:
        """Take leave of a process that has ended."""
        code = replica.process.poll()
        if code is None:
            return
        asyncio.get_running_loop().remove_reader(replica.process.pidfd())
        self._replicas.pop(replica.spec.identity_bytes, None)
        if replica.killing is not None:
            replica.killing.cancel()  # else it would keep all that it knew of the replica for half a minute
        is_killed = code == -signal.SIGKILL and replica.hang_reason is None
        replica.was_killed = is_killed and not replica.life.met_the_oom_killer()
        how = replica.hang_reason or f"its process {exit_reason(code)}"
        with contextlib.suppress(asyncio.InvalidStateError):
            replica.ended.set_result(how)
        lost = ReplicaLost(how)
        if not replica.loaded.done():
            replica.loaded.set_exception(lost)
            replica.loaded.exception()  # retrieved here: nobody may be waiting for it any more
        for answer in replica.batches.values():
            if not answer.done():
                answer.set_exception(lost)
        replica.is_ready = False
        replica.process.close()
        self._on_exit(replica)
