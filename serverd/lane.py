"""The faster way to the replicas: a unix stream socket for each, beside ZeroMQ, which stays the way for all others.

A replica of this host that knows lanes is offered one when it says HELLO. A batch over ZeroMQ wakes two more threads on
its way there and two on its way back; on a small machine that is most of what a batch costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from clipperfs import wire

BACKLOG: Final = 256
MAX_OFFERS: Final = 4096
ACCEPT_AGAIN_S: Final = 1.0
MAX_UNSENT_BYTES: Final = 4 * wire.LANE_BODY_BYTES
"""A replica that has more than this still to read is sent further batches over ZeroMQ. The kernel is asked for as much
room, and gives what it may (``net.core.wmem_max``): a batch that goes in pieces wakes the replica for each."""


class LaneHub:
    """The lanes of one frontend, by the identity of the replica.

    Guarantees: only a replica that was offered a lane over ZeroMQ gets it, under the identity that it has there; a
    lane whose other end breaks the framing is closed, and the replica is reached over ZeroMQ again.
    """

    def __init__(
        self, path: str, on_message: Callable[[bytes, list[bytes]], None], on_lost: Callable[[bytes], None]
    ) -> None:
        self.lanes: dict[bytes, Lane] = {}
        self._path = path
        self._on_message = on_message
        self._on_lost = on_lost
        self._offers: dict[str, bytes] = {}
        """Identities by token. An offer is good for one connection."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of a frontend that died
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(BACKLOG)
        self._listener.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._listener, self._accept)

    def offer(self, identity: bytes) -> bytes:
        """Return the header of an offer to a replica."""
        if len(self._offers) >= MAX_OFFERS:  # replicas that do not take what they are offered
            del self._offers[next(iter(self._offers))]
        token = os.urandom(16).hex()
        self._offers[token] = identity
        return wire.pack_header(wire.LANE, self._path, token)

    def close(self) -> None:
        """Close everything."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        lanes = list(self.lanes.values())
        self.lanes.clear()
        for lane in lanes:
            lane.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # no descriptor left: asking again at once would only burn a core
            self._loop.remove_reader(self._listener)
            self._loop.call_later(ACCEPT_AGAIN_S, self._listen_again)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_UNSENT_BYTES)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._new_lane, connection))
        task.add_done_callback(_note_failure)

    def _new_lane(self) -> Any:
        return Lane(self)

    def _listen_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def join(self, lane: Lane, token: str) -> bytes | None:
        """Return the identity that a token was given to, or None for one that was given to nobody."""
        identity = self._offers.pop(token, None)
        if identity is not None:
            before = self.lanes.get(identity)
            self.lanes[identity] = lane
            if before is not None:
                before.close()
        return identity

    def take(self, identity: bytes, header: bytes, body: memoryview) -> None:
        """Hand on a message of a replica."""
        self._on_message(identity, [header, bytes(body)] if body else [header])

    def forget(self, lane: Lane) -> None:
        """Take a lane that has ended off the list: what was out on it will not come back."""
        if lane.identity is not None and self.lanes.get(lane.identity) is lane:
            del self.lanes[lane.identity]
            self._on_lost(lane.identity)


class Lane:
    """One replica's lane: an ``asyncio.Protocol`` in all but name, because an interpreted base cannot be compiled."""

    __slots__ = ("_cutter", "_hub", "_transport", "identity")

    def __init__(self, hub: LaneHub) -> None:
        self.identity: bytes | None = None
        """None until the replica has shown what it was offered."""
        self._hub = hub
        self._transport: Any = None
        self._cutter = wire.FrameCutter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._hub.forget(self)

    def data_received(self, data: bytes) -> None:
        try:
            for header, body in self._cutter.feed(data):
                if self.identity is not None:
                    self._hub.take(self.identity, header, body)
                else:
                    self._greet(header)
        except wire.WireError:
            self.close()

    def send(self, header: bytes, body: wire.Packed) -> bool:
        """Send a batch, at once. Returns False when the lane is gone or full."""
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            return False
        transport.writelines((wire.pack_frame_head(header, len(body)), body))
        return True

    def close(self) -> None:
        """End the lane at once."""
        if self._transport is not None:
            self._transport.abort()

    def _greet(self, header: bytes) -> None:
        fields = wire.unpack_header(header)
        if len(fields) > 1 and fields[0] == wire.LANE and isinstance(fields[1], str):
            self.identity = self._hub.join(self, fields[1])
        if self.identity is None:
            raise wire.WireError("a lane begins with a token that was offered")


def _note_failure(task: asyncio.Task[Any]) -> None:
    """A connection that ended before it was taken over leaves nothing to do."""
    if not task.cancelled():
        task.exception()
