"""A synchronous conversation with one replica, for hooks, comparisons and activation: no daemon needed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import zmq

from clipperfs import wire
from clipperfs.errors import InvalidInput, LoadFailed, PredictFailed, ReplicaLost, ServingError, TimedOut
from clipperfs.replica.batch import MAX_INPUTS
from clipperfs.replica.encode import pack_batch
from clipperfs.replica.process import ReplicaProcess, exit_reason, spawn
from clipperfs.replica.spec import ReplicaSpec, new_identity, split_reason
from clipperfs.wrapper import LoadContext

_LONGEST_SOCKET_PATH = 100
"""Bytes; the kernel's limit is 107 (``sockaddr_un``)."""
_LAST_WORDS_MS = 50
"""How long a message of a process that has just died may still be on its way."""


class ReplicaSession:
    """One replica process, its private socket and its log, for as long as a ``with`` block.

    Guarantees: after :meth:`close` (or the end of the block) the process, everything it started and every file of the
    session are gone, whatever happened before. Not thread-safe; the thread that calls :meth:`start` must outlive it.
    """

    def __init__(
        self,
        context: LoadContext,
        wrapper_kind: str,
        *,
        load_timeout_s: float = 60.0,
        predict_timeout_s: float = 30.0,
        threads: int = 1,
        max_batch: int | None = None,
    ) -> None:
        """Describe the session; nothing is started yet.

        Args:
            context: what the wrapper is told (``context.path`` must be a local, verified copy).
            wrapper_kind: the wrapper's entry-point name.
            load_timeout_s: how long the wrapper may take to load.
            predict_timeout_s: how long one batch may take.
            threads: how many threads the numeric libraries may use.
            max_batch: the largest batch that is sent; more inputs go in several. ``None``: always one batch.
        """
        self.context = context
        self.wrapper_kind = wrapper_kind
        self.load_timeout_s = load_timeout_s
        self.predict_timeout_s = predict_timeout_s
        self.threads = threads
        self.max_batch = max_batch
        self._folder: Path | None = None
        self._zmq: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._process: ReplicaProcess | None = None
        self._identity = b""
        self._batch = 0
        self._ended = "it has not been started"

    def __enter__(self) -> ReplicaSession:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process(self) -> ReplicaProcess | None:
        """The replica process, or ``None`` outside :meth:`start` … :meth:`close`."""
        return self._process

    def start(self) -> None:
        """Start the process and wait until the wrapper has loaded. On an error everything is cleaned up.

        Raises:
            LoadFailed: the wrapper does not load, or its process died while loading.
            TimedOut: it took longer than ``load_timeout_s``.
        """
        if self._process is not None:
            return
        try:
            self._open()
            self._await_ready()
        except BaseException as error:
            self._close(f"it did not start: {error}")
            raise

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """Return one output for each input, as a client of the daemon would parse it from JSON.

        Args:
            inputs: as JSON would give them (``docs/wrappers.md``), or numpy arrays; of the context's input type.

        Raises:
            InvalidInput: an input does not fit the input type, or there is none.
            PredictFailed: the wrapper raised, or returned the wrong number or type of outputs. The session lives on.
            ReplicaLost: the process died, now or before.
            TimedOut: a batch took longer than ``predict_timeout_s``; the process is killed.
        """
        return self.predict_timed(inputs)[0]

    def predict_timed(self, inputs: Sequence[Any]) -> tuple[list[Any], float]:
        """Like :meth:`predict`; also return how long the wrapper took, in milliseconds, without transport."""
        if not len(inputs):
            raise InvalidInput("a batch holds at least one input")
        step = self.max_batch or MAX_INPUTS
        outputs: list[Any] = []
        spent_us = 0
        for at in range(0, len(inputs), step):
            part, part_us = self._predict_batch(inputs[at : at + step])
            outputs += part
            spent_us += part_us
        return outputs, spent_us / 1000

    def log_tail(self) -> str:
        """Return the last lines of what the wrapper printed."""
        return self._process.log_tail() if self._process is not None else ""

    def close(self) -> None:
        """Kill the process and remove every trace of the session. Idempotent."""
        self._close("the session is closed")

    def _open(self) -> None:
        self._folder = _private_folder()
        endpoint = f"ipc://{self._folder}/s"
        self._zmq = zmq.Context()
        socket = self._socket = self._zmq.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_BODY_BYTES)
        socket.bind(endpoint)
        context = self.context
        spec = ReplicaSpec(
            identity=new_identity(),
            endpoints=(endpoint,),
            path=str(context.path),
            model=context.model,
            version=context.version,
            wrapper_kind=self.wrapper_kind,
            input_type=context.input_type,
            options=context.options,
            allow_code=context.allow_code,
            threads=self.threads,
        )
        self._identity = spec.identity_bytes
        self._process = spawn(spec, log_path=self._folder / "log")

    def _await_ready(self) -> None:
        deadline = time.monotonic() + self.load_timeout_s
        while True:
            frames = self._receive(deadline)
            if frames is None:
                raise self._timed_out("did not load", self.load_timeout_s)
            fields = wire.unpack_header(frames[0])
            if fields[0] == wire.HELLO and fields[1] != wire.MAJOR:
                raise LoadFailed(f"the replica speaks protocol {fields[1]}, not {wire.MAJOR}")
            if fields[0] == wire.STATE and fields[1] == wire.READY:
                return
            if fields[0] == wire.STATE and fields[1] == wire.FAILED:
                message, hint = split_reason(fields[2])
                raise LoadFailed(message, hint=hint, log=self.log_tail())

    def _predict_batch(self, inputs: Sequence[Any]) -> tuple[list[Any], int]:
        if self._process is None or self._socket is None:
            raise ReplicaLost(f"the replica of {self._label} is not there: {self._ended}")
        lengths, body = pack_batch(inputs, self.context.input_type)
        self._batch += 1
        code = wire.INPUT_TYPES.index(self.context.input_type)
        header = wire.pack_header(wire.PREDICT, self._batch, code, len(inputs), lengths)
        try:
            self._socket.send_multipart([self._identity, header, body], zmq.NOBLOCK)
        except zmq.Again:
            raise self._lost("does not take any more") from None
        deadline = time.monotonic() + self.predict_timeout_s
        while True:
            frames = self._receive(deadline)
            if frames is None:
                raise self._timed_out("did not answer a batch", self.predict_timeout_s)
            fields = wire.unpack_header(frames[0])
            if fields[0] == wire.FAULT and fields[1] == self._batch:
                message, hint = split_reason(fields[2])
                raise PredictFailed(message, hint=hint, log=self.log_tail())
            if fields[0] == wire.OUTPUT and fields[1] == self._batch:
                return split_outputs(fields[3], frames[1]), fields[2]

    def _receive(self, deadline: float) -> list[bytes] | None:
        """Return the frames of the replica's next message; ``None`` at the deadline; raise when its process is dead."""
        assert self._socket is not None and self._process is not None
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._process.pidfd(), zmq.POLLIN)
        while True:
            left_ms = max(0, int((deadline - time.monotonic()) * 1000) + 1)
            ready = dict(poller.poll(left_ms))
            if self._socket in ready:
                frames = self._socket.recv_multipart()
                if frames[0] == self._identity and len(frames) > 1 and frames[1]:
                    return frames[1:]
            elif ready and not self._socket.poll(_LAST_WORDS_MS):
                raise self._lost("died")
            elif time.monotonic() >= deadline:
                return None

    def _lost(self, what: str) -> ServingError:
        assert self._process is not None
        tail, loading = self.log_tail(), self._batch == 0
        code = self._process.wait(1.0)
        how = what if code is None else exit_reason(code)
        message = f"the replica process of {self._label} {how}" + (" while it was loading" if loading else "")
        self._close(f"it {how}")
        kind = LoadFailed if loading else ReplicaLost
        last = tail.rpartition("\n")[2][:300]
        return kind(message, hint=f"the last line of its log is: {last}" if last else None, log=tail)

    def _timed_out(self, what: str, limit_s: float) -> TimedOut:
        assert self._process is not None
        self._process.dump_stacks()
        self._process.wait(1.0)
        tail = self.log_tail()
        message = f"the wrapper of {self._label} {what} within {limit_s:g} s"
        self._close(f"{message} and was stopped")
        return TimedOut(message, hint="its stacks are in the log; raise the limit if it is merely slow", log=tail)

    @property
    def _label(self) -> str:
        return f"{self.context.model}/{self.context.version}"

    def _close(self, why: str) -> None:
        if self._process is not None:
            self._ended = why
            self._process.close()
            self._process = None
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None
        if self._zmq is not None:
            self._zmq.term()
            self._zmq = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def split_outputs(lengths: Sequence[int], body: bytes) -> list[Any]:
    """Return the outputs of an OUTPUT message, parsed. Raises PredictFailed when the message is not sound."""
    outputs = []
    at = 0
    try:
        for length in lengths:
            outputs.append(msgspec.json.decode(body[at : at + length]))
            at += length
    except (msgspec.DecodeError, RecursionError) as error:
        raise PredictFailed(f"an output of the replica is not JSON: {error}") from error
    if at != len(body):
        raise PredictFailed(f"the replica's outputs should have {at} bytes but have {len(body)}")
    return outputs


def _private_folder() -> Path:
    """Make a folder that only we can enter, with a path short enough for a socket."""
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"):  # noqa: S108  (made 0700)
        if base and len(os.fsencode(base)) + 32 <= _LONGEST_SOCKET_PATH and os.access(base, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix="clipperfs-s-", dir=base))
    return Path(tempfile.mkdtemp(prefix="clipperfs-s-"))
