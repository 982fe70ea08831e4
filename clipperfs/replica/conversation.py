"""The replica's end of the wrapper protocol: answers its peers' batches, one at a time (``docs/wire.md``)."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
import traceback
from collections import deque
from typing import Any, Final, TypeAlias

import zmq

from clipperfs import wire
from clipperfs.patience import Patience
from clipperfs.replica.batch import unpack_batch
from clipperfs.replica.encode import OutputError, encode_outputs
from clipperfs.replica.lane import Lane
from clipperfs.replica.spec import ReplicaSpec, failure_reason
from clipperfs.replica.text import NumberReader, can_read_text
from clipperfs.wrapper import Wrapper

_LINGER_MS = 1000
_RECONNECT_MS = (20, 500)
_LARGE_BODY_BYTES = 32 * 1024
"""From here on a body is read in place instead of copied."""
_Way: TypeAlias = "zmq.Socket[bytes] | Lane"
"""How a message came, and how its answer goes."""
_LOOK_S: Final = 0.0003
"""How long to look for the next batch before going to sleep: twice what it takes to be woken."""
_LANES_ONLY_S: Final = 0.05
"""For how long only lanes are looked at: where they never run dry, PING, STOP and large batches would wait for ever."""
_SAME_TRACEBACK_S = 10.0
_TEXT_TYPES: Final = {code: input_type for input_type, code in wire.TEXT_CODES.items()}


def log_traceback(error: BaseException) -> None:
    """Write a traceback to the log. A log that cannot be written (a full disk) is no reason to end."""
    with contextlib.suppress(OSError, ValueError):
        traceback.print_exception(error)
        sys.stderr.flush()


class Stop(BaseException):
    """SIGTERM came while nothing was being predicted. Nothing that catches Exception may swallow it."""


class Conversation:
    """One DEALER socket a peer, and a lane to those that offer one. Everything happens on the main thread."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self.spec = spec
        self.stopping = False
        """Leave before the next batch (SIGTERM, STOP)."""
        self.draining = False
        """But first answer what has arrived (STOP)."""
        self.waiting = True
        """Nothing is being predicted, so SIGTERM may interrupt."""
        self._context = zmq.Context()
        # The controlling peer predicts now and then only: the others share what this process can do.
        shared_by = max(1, len(spec.endpoints) - 1) if can_read_text(spec.input_type) else 0
        self._hello = wire.pack_header(wire.HELLO, wire.MAJOR, wire.MINOR, os.getpid(), shared_by)
        self._readers: dict[int, NumberReader] = {}
        self._monitors: dict[zmq.Socket[bytes], zmq.Socket[bytes]] = {}
        self._greeted: set[zmq.Socket[bytes]] = set()
        self._sockets = [self._connect(endpoint) for endpoint in spec.endpoints]
        self._lanes: dict[int, Lane] = {}
        self._beside: dict[Lane, zmq.Socket[bytes]] = {}
        """The peer's socket, which takes what is too large for its lane."""
        self._poller = zmq.Poller()
        self._lane_poll = select.poll()
        self._patience = Patience()
        self._may_look = len(os.sched_getaffinity(0)) > 1
        """Not on a single core: it would be taken from those who are to send something."""
        self._look_until = 0.0
        """When sockets are to be looked at again, whatever the lanes bring."""
        self._last_fault = ("", 0.0)

    def _connect(self, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, self.spec.identity_bytes)
        socket.setsockopt(zmq.PROBE_ROUTER, 1)
        socket.setsockopt(zmq.LINGER, _LINGER_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_BODY_BYTES)
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS[0])
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MS[1])
        if len(self.spec.endpoints) > 1:  # a lone peer is a session, which never restarts
            self._monitors[socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)] = socket
        socket.connect(endpoint)
        self._send(socket, self._hello)
        return socket

    def tell_state(self, state: str, reason: str = "") -> None:
        """Tell the controlling peer how far this replica is."""
        self._send(self._sockets[0], wire.pack_header(wire.STATE, state, reason))

    def serve(self, wrapper: Wrapper) -> None:
        """Answer until a peer says STOP or SIGTERM comes."""
        bytes_as = getattr(wrapper, "bytes_as", "int8")
        poller = self._poller
        for socket in (*self._sockets, *self._monitors):
            poller.register(socket, zmq.POLLIN)
        only = self._sockets[0] if len(self._sockets) == 1 else None
        try:
            while True:
                self.waiting = True  # before looking at the flag: a signal in between must not be slept over
                if self.stopping:
                    break
                if only is not None and not self._lanes:
                    header = only.recv()
                    self.waiting = False
                    self._answer(only, header, wrapper, bytes_as)
                    continue
                found = self._look()
                if found:
                    self.waiting = False
                    self._serve_lanes([self._lanes[number] for number, _ in found], wrapper, bytes_as)
                    continue
                ready: list[tuple[Any, int]] = self._await_any()
                self.waiting = False
                lanes = [lane for source, _ in ready if (lane := self._lanes.get(source)) is not None]
                self._serve_lanes(lanes, wrapper, bytes_as)
                for source, _ in ready:
                    if self._leaving():
                        break
                    if source in self._monitors:
                        self._greet_again(source)
                    elif type(source) is not int:
                        self._answer(source, source.recv(), wrapper, bytes_as)
        except Stop:
            pass
        self.waiting = False
        if self.draining:
            self._drain(wrapper, bytes_as)

    def await_goodbye(self, limit_s: float) -> None:
        """Stay until the controlling peer says anything, SIGTERM comes, or ``limit_s`` have passed.

        A process that ended right after its last message could be noticed to be dead before the message is read.
        """
        try:
            self.waiting = True
            if not self.stopping:
                self._sockets[0].poll(int(limit_s * 1000))
        except Stop:
            pass
        self.waiting = False

    def finish(self) -> None:
        """Send what is still to be sent, then let the sockets go."""
        until = time.monotonic() + _LINGER_MS / 1000
        for lane in self._lanes.values():
            lane.finish(until)
        self._context.destroy(_LINGER_MS)

    def _leaving(self) -> bool:
        return self.stopping

    def _greet_again(self, monitor: zmq.Socket[bytes]) -> None:
        """Say HELLO to a peer that was restarted: ZeroMQ sends its probe once only, when a socket first connects."""
        monitor.recv_multipart()
        socket = self._monitors[monitor]
        if socket in self._greeted:
            self._send(socket, self._hello)
        self._greeted.add(socket)

    def _open_lane(self, socket: zmq.Socket[bytes], path: str, token: str) -> None:
        """Take up a peer's offer. Whatever is in the way: ZeroMQ will do."""
        try:
            lane = Lane(path, token)
        except OSError as error:
            log_traceback(error)
            return
        self._lanes[lane.fileno()] = lane
        self._beside[lane] = socket
        self._poller.register(lane.fileno(), zmq.POLLIN)
        self._lane_poll.register(lane.fileno(), select.POLLIN)

    def _look(self) -> list[tuple[int, int]]:
        """Look at the lanes for a moment where that is likely to spare a sleep. Others may have the core meanwhile."""
        if not self._may_look or not self._patience.should_look():
            return []
        poll = self._lane_poll.poll
        began = time.perf_counter()
        if began > self._look_until:
            return []
        until = began + _LOOK_S
        while not (found := poll(0)) and time.perf_counter() < until:
            os.sched_yield()
        self._patience.note(bool(found))
        return found

    def _await_any(self) -> list[tuple[Any, int]]:
        """Wait until there is something to read, at a lane or a socket."""
        found = self._poller.poll()
        self._look_until = time.perf_counter() + _LANES_ONLY_S
        return found

    def _serve_lanes(self, lanes: list[Lane], wrapper: Wrapper, bytes_as: Any) -> None:
        """Answer what has arrived at lanes, one message of each in turn: none waits for two of another."""
        if len(lanes) == 1:
            lane = lanes[0]
            number, had_unsent = lane.fileno(), lane.has_unsent
            for message in lane.read():
                self._answer_frame(lane, *message, wrapper, bytes_as)
            self._settle_lane(lane, number, had_unsent)
            return
        turns = deque((lane, lane.fileno(), lane.has_unsent, lane.read()) for lane in lanes)
        while turns and not self._leaving():
            turn = turns.popleft()
            lane, number, had_unsent, messages = turn
            next_message = next(messages, None)
            if next_message is None:
                self._settle_lane(lane, number, had_unsent)
            else:
                self._answer_frame(lane, *next_message, wrapper, bytes_as)
                turns.append(turn)

    def _settle_lane(self, lane: Lane, number: int, had_unsent: bool) -> None:
        """Send what is left, and wait for what there is to wait for from now on."""
        if had_unsent:
            lane.flush()
        if not lane.is_open:
            del self._lanes[number], self._beside[lane]
            self._poller.unregister(number)
            self._lane_poll.unregister(number)
        elif lane.has_unsent != had_unsent:
            self._poller.register(number, zmq.POLLIN | zmq.POLLOUT if lane.has_unsent else zmq.POLLIN)

    def _answer_frame(self, lane: Lane, header: bytes, body: memoryview, wrapper: Wrapper, bytes_as: Any) -> None:
        try:
            fields = wire.unpack_header(header)
            if fields[0] == wire.PREDICT:
                _, batch, code, count, lengths = fields[:5]
                if code in _TEXT_TYPES:
                    self._predict_texts(lane, wrapper, batch, code, count, lengths, fields[5], body)
                else:
                    # A copy: a wrapper may keep what it is given.
                    self._predict(lane, wrapper, bytes_as, batch, code, count, lengths, bytes(body))
        except (wire.WireError, ValueError, TypeError, IndexError) as error:
            log_traceback(error)  # and drop the message

    def _answer(self, socket: zmq.Socket[bytes], header: bytes, wrapper: Wrapper, bytes_as: Any) -> None:
        body: Any = b""
        more = socket.getsockopt(zmq.RCVMORE)
        try:
            fields = wire.unpack_header(header) if header else [0]
            kind = fields[0]
            if kind == wire.PREDICT and more:
                _, batch, code, count, lengths = fields[:5]
                large = isinstance(lengths, list) or count * lengths > _LARGE_BODY_BYTES
                body = socket.recv(copy=False).buffer if large else socket.recv()
                more = socket.getsockopt(zmq.RCVMORE)
                if code in _TEXT_TYPES:
                    self._predict_texts(socket, wrapper, batch, code, count, lengths, fields[5], body)
                else:
                    self._predict(socket, wrapper, bytes_as, batch, code, count, lengths, body)
            elif kind == wire.PING:
                self._send(socket, wire.pack_header(wire.PONG, fields[1]))
            elif kind == wire.LANE:
                self._open_lane(socket, *fields[1:3])
            elif kind == wire.STOP:
                self.stopping = self.draining = True
        except (wire.WireError, ValueError, TypeError, IndexError) as error:
            log_traceback(error)  # and drop the message
        while more:  # frames that this protocol version does not know
            socket.recv()
            more = socket.getsockopt(zmq.RCVMORE)

    def _predict(
        self,
        way: _Way,
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
        except BaseException as error:  # sys.exit() in a wrapper included
            self._send(way, wire.pack_header(wire.FAULT, batch, self._fault_reason(error)))
            return
        self._send(way, wire.pack_header(wire.OUTPUT, batch, spent_us, [*map(len, texts)]), b"".join(texts))

    def _predict_texts(
        self,
        way: _Way,
        wrapper: Wrapper,
        batch: int,
        code: int,
        count: int,
        lengths: int | list[int],
        elements: int,
        body: Any,
    ) -> None:
        """Predict the texts that can be read. Reading counts as predicting: it, too, is what a larger batch costs."""
        try:
            began_ns = time.perf_counter_ns()
            reader = self._readers.get(code)
            if reader is None:  # not imported before: most replicas are never sent a text
                reader = self._readers[code] = NumberReader(_TEXT_TYPES[code])
            inputs, unread = reader.read(count, lengths, elements, body)
            read_us = (time.perf_counter_ns() - began_ns) // 1000
            texts: list[bytes] = []
            spent_us = read_us
            if len(unread) < count:
                outputs = wrapper.predict(inputs)
                spent_us = (time.perf_counter_ns() - began_ns) // 1000
                texts = encode_outputs(outputs, count - len(unread))
            for place in unread:
                texts.insert(place, b"")
        except BaseException as error:  # sys.exit() in a wrapper included
            self._send(way, wire.pack_header(wire.FAULT, batch, self._fault_reason(error)))
            return
        header = wire.pack_header(wire.OUTPUT, batch, spent_us, [*map(len, texts)], read_us)
        self._send(way, header, b"".join(texts))

    def _fault_reason(self, error: BaseException) -> str:
        """Return what the peer is told; the whole traceback goes to the log, the same one not again and again."""
        reason = str(error) if isinstance(error, (OutputError, wire.WireError)) else failure_reason(error)
        last, told_at = self._last_fault
        now = time.monotonic()
        if reason != last or now - told_at > _SAME_TRACEBACK_S:
            self._last_fault = (reason, now)
            log_traceback(error)
        return reason

    def _drain(self, wrapper: Wrapper, bytes_as: Any) -> None:
        """Answer what has arrived at any socket or lane."""
        for lane in list(self._lanes.values()):
            for header, body in lane.read_all():
                self._answer_frame(lane, header, body, wrapper, bytes_as)
        for socket in self._sockets:
            while socket.poll(0):
                self._answer(socket, socket.recv(), wrapper, bytes_as)

    def _send(self, way: _Way, *frames: bytes) -> None:
        if isinstance(way, Lane):
            if len(frames[-1]) <= wire.LANE_BODY_BYTES:
                way.send(*frames)
                return
            way = self._beside[way]
        try:
            way.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:  # a peer that has been gone for a thousand messages
            pass
