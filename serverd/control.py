"""The control channel between the controller and a frontend: framing, kinds of message, and the loop's end of it.

The channel is a ``socketpair``; the frontend inherits one end as a file descriptor. A frame is a length (4 bytes,
big-endian) and a msgpack map whose key ``t`` is the kind. Every kind with its fields:

    controller → frontend
        table     a complete RoutingTable (``routing.RoutingTable.to_plain``), never a delta
        drain     heirs                             stop accepting, finish what is in flight, then exit 0; connections
                                                    without a query go to the frontends at ``heirs``, if there are any
        metrics   id                                asks for the counters
        text      id, status, ctype, body, keep_s   the answer to an ``ask``, and for how long others may be given it
    frontend → controller
        ready     pid, port                         once, when it listens
        applied   epoch, released                   after each table, and again whenever removed versions are released
        metrics   id, data                          ``counters.Counters.snapshot``
        ask       id, what                          a client asked the query port for ``metrics``
        hang      replica, batch_s                  a batch is out for longer than the version's predict_timeout_s
        slow      facts                             a query took long: ``slow.SlowLog``
        lost      replica                           a replica of the table can no longer be reached over the wire

The end of the stream means that the other side is gone: a frontend then exits at once.

The controller starts a frontend as ``python -P -m clipperfs.serverd.frontend --control-fd N --parent-pid PID --index I
--runtime DIR --host 127.0.0.1 --port P --listen-fd M`` (with ``pass_fds``; one ``--listen-fd`` for each socket); it
binds ``frontend_endpoint(DIR, I)``. The listening sockets are the controller's, which keeps them open: while a frontend
is started again, clients wait in their queues. With ``--heir`` the frontend of another daemon still answers: this one
accepts when the first table does that has ``accepting``, and takes over connections at ``heir_socket(DIR, I)``.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import msgpack

TABLE: Final = "table"
DRAIN: Final = "drain"
METRICS: Final = "metrics"
TEXT: Final = "text"
READY: Final = "ready"
APPLIED: Final = "applied"
ASK: Final = "ask"
HANG: Final = "hang"
LOST: Final = "lost"
SLOW: Final = "slow"

LENGTH_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 64 * 1024 * 1024

Message: TypeAlias = dict[str, Any]


def frontend_endpoint(runtime_dir: str, index: int) -> str:
    """Return the ZeroMQ endpoint that frontend ``index`` binds and replicas connect to."""
    return f"ipc://{runtime_dir}/f{index}.ipc"


def controller_endpoint(runtime_dir: str) -> str:
    """Return the ZeroMQ endpoint that the controller binds and replicas connect to."""
    return f"ipc://{runtime_dir}/c.ipc"


def replica_endpoints(runtime_dir: str, frontends: int) -> tuple[str, ...]:
    """Return where a replica connects: the controller first, then every frontend."""
    return (controller_endpoint(runtime_dir), *(frontend_endpoint(runtime_dir, index) for index in range(frontends)))


def lane_path(endpoint: str) -> str:
    """Return where the frontend that binds a ZeroMQ endpoint listens for lanes."""
    return endpoint.removeprefix("ipc://").removesuffix(".ipc") + ".ln"


def heir_socket(runtime_dir: str, index: int) -> str:
    """Return where frontend ``index`` takes connections over from the frontends of the daemon before."""
    return f"{runtime_dir}/h{index}.sock"


class ControlError(Exception):
    """The other side broke the framing; the channel cannot be read any further."""


def pack_message(kind: str, **fields: Any) -> bytes:
    """Return one frame."""
    packed: bytes = msgpack.packb({"t": kind, **fields})
    if len(packed) > MAX_FRAME_BYTES:
        raise ControlError(f"a {kind} message of {len(packed)} bytes is larger than {MAX_FRAME_BYTES}")
    return len(packed).to_bytes(LENGTH_BYTES, "big") + packed


class FrameReader:
    """Cuts a stream of bytes into messages. No I/O."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that are complete now, in order.

        Raises:
            ControlError: a frame is too large, is not msgpack, or is not a map with a kind.
        """
        buffer = self._buffer
        buffer += data
        messages = []
        start = 0
        while len(buffer) - start >= LENGTH_BYTES:
            size = int.from_bytes(buffer[start : start + LENGTH_BYTES], "big")
            if size > MAX_FRAME_BYTES:
                raise ControlError(f"a control frame of {size} bytes is larger than {MAX_FRAME_BYTES}")
            end = start + LENGTH_BYTES + size
            if len(buffer) < end:
                break
            messages.append(_unpack(bytes(buffer[start + LENGTH_BYTES : end])))
            start = end
        del buffer[:start]
        return messages


def _unpack(frame: bytes) -> Message:
    try:
        message = msgpack.unpackb(frame, max_ext_len=0)
    except (ValueError, msgpack.exceptions.UnpackException, msgpack.exceptions.ExtraData) as error:
        raise ControlError(f"a control frame is not msgpack: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("t"), str):
        raise ControlError("a control frame must be a map with a kind")
    return message


class ControlChannel(asyncio.Protocol):
    """One end of the channel on an event loop; the same class on both sides.

    Guarantees: ``on_message`` is called with each message in order, on the loop; ``on_end`` once, when the other side
    is gone, has broken the framing, or ``close`` was called. Sending after the end does nothing.
    """

    def __init__(self, on_message: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
        except ControlError:
            self.close()
            return
        for message in messages:
            self._on_message(message)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._on_end()

    def send(self, kind: str, **fields: Any) -> None:
        """Send a message. Nothing happens when the other side is gone: ``on_end`` tells."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(pack_message(kind, **fields))

    def close(self) -> None:
        """Close the channel."""
        if self._transport is not None:
            self._transport.close()


async def open_channel(
    end: socket.socket, on_message: Callable[[Message], None], on_end: Callable[[], None]
) -> ControlChannel:
    """Put one end of the socketpair on the running loop. The channel owns the socket from then on."""
    end.setblocking(False)
    _, channel = await asyncio.get_running_loop().create_connection(
        lambda: ControlChannel(on_message, on_end), sock=end
    )
    return channel
