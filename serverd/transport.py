"""The wire to the replicas: one ZeroMQ ROUTER on the event loop, behind a class that another lane can replace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import zmq

from clipperfs import wire

COPY_BELOW_BYTES: Final = 64 * 1024
"""Smaller bodies are cheaper to copy than to hand over (measured)."""
MESSAGES_A_TURN: Final = 64
"""Messages that are read before other work gets its turn on the loop."""


class ReplicaTransport:
    """Sends batches to replicas by identity and hands on what they say.

    Guarantees: ``on_message`` is called on the loop with an identity and the frames that followed it (at least one);
    ``send`` never blocks and never loses a batch without a word as long as the replica's connection stands.
    """

    def __init__(self, endpoint: str, on_message: Callable[[bytes, list[bytes]], None]) -> None:
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context(io_threads=1)
        self._socket: Any = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_BODY_BYTES)
        self._socket.bind(endpoint)
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._read)
        self._read_soon()

    def send(self, identity: bytes, header: bytes, body: bytes) -> bool:
        """Send a batch. Returns False when the replica is not connected, or does not take what it was sent before."""
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
        if self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            self._read_soon()

    def close(self) -> None:
        """Unbind and forget what has not been sent."""
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
                self._on_message(frames[0], frames[1:])
        self._read_soon()
