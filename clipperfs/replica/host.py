"""The replica process: loads one version's wrapper, then predicts one batch at a time (``docs/wire.md``).

Started as ``python -P -m clipperfs.replica.host PARENT_PID`` with a ReplicaSpec on stdin.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn, cast

import zmq

from clipperfs import wire
from clipperfs.plugins import load_plugin
from clipperfs.replica.batch import unpack_batch
from clipperfs.replica.encode import OutputError, encode_outputs
from clipperfs.replica.spec import ReplicaSpec, failure_reason
from clipperfs.wrapper import LoadContext, Wrapper

_PR_SET_PDEATHSIG = 1
_LINGER_MS = 1000
_LARGE_BODY_BYTES = 32 * 1024
"""From here on a body is read in place instead of copied."""
_SAME_TRACEBACK_S = 10.0


class _Stop(Exception):  # noqa: N818  (a signal, not an error)
    """SIGTERM came while nothing was being predicted."""


class Replica:
    """The conversation with the peers. Everything happens on the main thread."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self.spec = spec
        self.stopping = False
        self.waiting = False
        self._context = zmq.Context()
        self._sockets = [self._connect(endpoint) for endpoint in spec.endpoints]
        self._last_fault = ("", 0.0)

    def _connect(self, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, self.spec.identity_bytes)
        socket.setsockopt(zmq.PROBE_ROUTER, 1)
        socket.setsockopt(zmq.LINGER, _LINGER_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_BODY_BYTES)
        socket.connect(endpoint)
        self._send(socket, wire.pack_header(wire.HELLO, wire.MAJOR, wire.MINOR, os.getpid()))
        return socket

    def tell_state(self, state: str, reason: str = "") -> None:
        """Tell the controlling peer how far this replica is."""
        self._send(self._sockets[0], wire.pack_header(wire.STATE, state, reason))

    def serve(self, wrapper: Wrapper) -> None:
        """Answer until a peer says STOP or SIGTERM comes."""
        bytes_as = getattr(wrapper, "bytes_as", "int8")
        poller = zmq.Poller()
        for socket in self._sockets:
            poller.register(socket, zmq.POLLIN)
        only = self._sockets[0] if len(self._sockets) == 1 else None
        try:
            while True:
                self.waiting = True  # before looking at the flag: a signal in between must not be slept over
                if self.stopping:
                    return
                if only is not None:
                    header = only.recv()
                    self.waiting = False
                    self._answer(only, header, wrapper, bytes_as)
                    continue
                ready = poller.poll()
                self.waiting = False
                for socket, _ in ready:
                    self._answer(socket, socket.recv(), wrapper, bytes_as)
        except _Stop:
            return

    def finish(self) -> None:
        """Send what is still to be sent, then let the sockets go."""
        self._context.destroy(_LINGER_MS)

    def _answer(self, socket: zmq.Socket[bytes], header: bytes, wrapper: Wrapper, bytes_as: Any) -> None:
        body: Any = b""
        more = socket.getsockopt(zmq.RCVMORE)
        try:
            fields = wire.unpack_header(header) if header else [0]
            kind = fields[0]
            if kind == wire.PREDICT and more:
                _, batch, code, count, lengths = fields
                large = isinstance(lengths, list) or count * lengths > _LARGE_BODY_BYTES
                body = socket.recv(copy=False).buffer if large else socket.recv()
                more = socket.getsockopt(zmq.RCVMORE)
                self._predict(socket, wrapper, bytes_as, batch, code, count, lengths, body)
            elif kind == wire.PING:
                self._send(socket, wire.pack_header(wire.PONG, fields[1]))
            elif kind == wire.STOP:
                self._stop(socket, wrapper, bytes_as)
        except (wire.WireError, ValueError, TypeError, IndexError) as error:
            print(f"clipperfs: a message was not understood and dropped: {error}", file=sys.stderr)
        while more:  # frames that this protocol version does not know
            socket.recv()
            more = socket.getsockopt(zmq.RCVMORE)

    def _predict(
        self,
        socket: zmq.Socket[bytes],
        wrapper: Wrapper,
        bytes_as: Any,
        batch: int,
        code: int,
        count: int,
        lengths: int | list[int],
        body: Any,
    ) -> None:
        try:
            inputs = unpack_batch(code, count, lengths, body, bytes_as)
            started_ns = time.perf_counter_ns()
            outputs = wrapper.predict(inputs)
            spent_us = (time.perf_counter_ns() - started_ns) // 1000
            texts = encode_outputs(outputs, count)
        except BaseException as error:
            self._send(socket, wire.pack_header(wire.FAULT, batch, self._fault_reason(error)))
            return
        self._send(socket, wire.pack_header(wire.OUTPUT, batch, spent_us, [*map(len, texts)]), b"".join(texts))

    def _fault_reason(self, error: BaseException) -> str:
        """Return what the peer is told; the whole traceback goes to the log, the same one not again and again."""
        reason = str(error) if isinstance(error, (OutputError, wire.WireError)) else failure_reason(error)
        last, told_at = self._last_fault
        now = time.monotonic()
        if reason != last or now - told_at > _SAME_TRACEBACK_S:
            self._last_fault = (reason, now)
            traceback.print_exception(error)
        return reason

    def _stop(self, asked_by: zmq.Socket[bytes], wrapper: Wrapper, bytes_as: Any) -> None:
        """Answer what has arrived at the other sockets, then leave."""
        already = self.stopping
        self.stopping = True
        if already:
            return
        for socket in self._sockets:
            while socket is not asked_by and socket.poll(0):
                self._answer(socket, socket.recv(), wrapper, bytes_as)

    @staticmethod
    def _send(socket: zmq.Socket[bytes], *frames: bytes) -> None:
        try:
            socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:  # a peer that has been gone for a thousand messages
            pass


def load_wrapper(spec: ReplicaSpec) -> Wrapper:
    """Return the version's wrapper, loaded. Raises whatever the wrapper raises, LoadFailed and InvalidSetting."""
    wrapper = cast("Wrapper", load_plugin("clipperfs.wrappers", spec.wrapper_kind)())
    wrapper.load(
        LoadContext(
            path=Path(spec.path),
            model=spec.model,
            version=spec.version,
            input_type=spec.input_type,
            allow_code=spec.allow_code,
            options=spec.options,
        )
    )
    return wrapper


def main() -> NoReturn:
    """Live the whole life of a replica."""
    _die_with(int(sys.argv[1]))
    spec = ReplicaSpec.from_bytes(sys.stdin.buffer.read())
    _settle_process()
    replica = Replica(spec)

    def on_terminate(number: int, frame: Any) -> None:
        replica.stopping = True
        if replica.waiting:
            raise _Stop

    replica.waiting = True  # loading can be given up at any moment
    signal.signal(signal.SIGTERM, on_terminate)
    code = 0
    try:
        replica.tell_state(wire.LOADING)
        wrapper = load_wrapper(spec)
        replica.waiting = False
        replica.tell_state(wire.READY)
        replica.serve(wrapper)
    except _Stop:
        pass
    except BaseException as error:
        replica.waiting = False
        traceback.print_exception(error)
        replica.tell_state(wire.FAILED, failure_reason(error))
        code = 1
    replica.waiting = False
    replica.finish()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads and exit handlers of a framework must not hold up the end


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; leave at once if that has happened already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _settle_process() -> None:
    """Point stdin at nothing, make prints appear in the log line by line, and crashes leave a stack, not a core."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(all_threads=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
