"""The wire to the replicas: one ZeroMQ ROUTER on the event loop, and a frontend's lanes beside it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import zmq

from clipperfs import wire

from .lane import LaneHub

COPY_BELOW_BYTES: Final = 64 * 1024
"""Smaller bodies are cheaper to copy than to hand over (measured)."""
MESSAGES_A_TURN: Final = 64
"""Messages that are read before other work gets its turn on the loop."""
HELLO_START: Final = wire.pack_header(wire.HELLO, wire.MAJOR)[1:]
"""What stands in a header of this major version's HELLO after its first byte, the number of its fields."""


class ReplicaTransport:
    """Sends batches to replicas by identity and hands on what they say.

    Guarantees: ``on_message`` is called on the loop with an identity and the frames that followed it (at least one);
    ``send`` never blocks and never loses a batch without a word as long as the replica's connection stands. Batches to
    one replica may overtake each other.

    Args:
        lane_path: where replicas that know lanes get one; None: all goes over ZeroMQ.
        on_lost: called with the identity of a replica whose lane has ended, most likely because it died.
    """

    def __init__(
        self,
        endpoint: str,
        on_message: Callable[[bytes, list[bytes]], None],
        lane_path: str | None = None,
        on_lost: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self._on_message = on_message
        self._hub = None if lane_path is None else LaneHub(lane_path, on_message, on_lost)
        self._lanes = {} if self._hub is None else self._hub.lanes
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context(io_threads=1)
        self._socket: Any = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_BODY_BYTES)
        self._socket.bind(endpoint)
        self._has_sent = False
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._read)
        self._read_soon()

    def send(self, identity: bytes, header: bytes, body: wire.Packed) -> bool:
        """Send a batch. Returns False when the replica is not connected, or does not take what it was sent before."""
        lane = self._lanes.get(identity)
        if lane is not None and len(body) <= wire.LANE_BODY_BYTES and lane.send(header, body):
            return True
        self._has_sent = True
        socket = self._socket
        try:
            if len(body) < COPY_BELOW_BYTES:
                socket.send_multipart((identity, header, body), zmq.NOBLOCK)
            else:
                socket.send(identity, zmq.NOBLOCK | zmq.SNDMORE)
                socket.send(header, zmq.NOBLOCK | zmq.SNDMORE)
                socket.send(body, zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True

    def settle(self) -> None:
        """Call after sending: the descriptor signals edges, and sending may have taken the edge of what has arrived."""
        if self._has_sent:
            self._has_sent = False
            if self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                self._read_soon()

    def close(self) -> None:
        """Unbind and forget what has not been sent."""
        if self._hub is not None:
            self._hub.close()
        self._loop.remove_reader(self._fd)
        self._socket.close(0)
        self._context.destroy(0)

    def _read_soon(self) -> None:
        self._loop.call_soon(self._read)

    def _read(self) -> None:
        socket = self._socket
        if socket.closed:
            return
        for _ in range(MESSAGES_A_TURN):
            if not socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                return
            frames = socket.recv_multipart(zmq.NOBLOCK)
            if len(frames) > 1:
                if self._hub is not None and frames[1].startswith(HELLO_START, 1):
                    self._offer(self._hub, frames[0], frames[1])
                self._on_message(frames[0], frames[1:])
        self._read_soon()

    def _offer(self, hub: LaneHub, identity: bytes, hello: bytes) -> None:
        """Offer a lane to a replica that says HELLO, if it knows what that is."""
        with contextlib.suppress(wire.WireError, IndexError, TypeError, zmq.ZMQError):
            if wire.unpack_header(hello)[2] >= wire.LANE_MINOR:
                self._socket.send_multipart((identity, hub.offer(identity)), zmq.NOBLOCK)
