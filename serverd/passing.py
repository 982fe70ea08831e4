"""Connections that go from one frontend to another, which serves them on: what is open when a daemon is replaced.

A connection may go when no request is under way on it and all replies have left. What its client sends meanwhile waits
in the kernel, and is read by whoever has the connection then: there is no moment in which it is nobody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from . import descriptors

if TYPE_CHECKING:
    from .http import HttpServer

BEAT_S: Final = 0.01
"""How often connections are looked at. A client that asks without a pause is between two requests now and then."""
PASS_S: Final = 2.0
"""For so long a connection is waited for; it is closed after its last reply then."""
LINGER_S: Final = 2.0
"""For so long a connection that could not be passed on may send one more request, which is answered."""
CONNECT_S: Final = 1.0


class Passing:
    """The side that gives: passes connections on until none is left or time is up, then drains the server.

    Args:
        server: accepts no more connections.
        heirs: where frontends of the other daemon take them.
        first: whose turn it is first, so that several givers do not all begin with the same.
        on_drained: called once when no connection is left.
    """

    def __init__(self, server: HttpServer, heirs: Sequence[str], first: int, on_drained: Callable[[], None]) -> None:
        self._server = server
        self._on_drained = on_drained
        self._loop = asyncio.get_running_loop()
        self._give_up_s = self._loop.time() + PASS_S
        self._heirs: list[socket.socket] = []
        self._turn = first
        for heir in heirs:
            with contextlib.suppress(OSError):
                end = descriptors.connect_to(heir, CONNECT_S)
                end.setblocking(False)
                self._heirs.append(end)
        # Not at once: what the listener has accepted in this turn of the loop is no connection yet.
        self._loop.call_soon(self._beat)

    def _beat(self) -> None:
        for connection in list(self._server.connections):
            if self._heirs and connection.is_between_requests:
                self._pass(connection.transport)
        if self._server.connections and self._heirs and self._loop.time() < self._give_up_s:
            self._loop.call_later(BEAT_S, self._beat)
            return
        for end in self._heirs:
            end.close()
        self._server.drain(self._on_drained, LINGER_S)

    def _pass(self, transport: asyncio.Transport) -> None:
        self._turn = (self._turn + 1) % len(self._heirs)
        heir = self._heirs[self._turn]
        try:
            descriptors.send_message(heir, {"t": "connection"}, [transport.get_extra_info("socket").fileno()])
        except BlockingIOError:
            return  # it has many to take; the next beat comes soon
        except OSError:
            heir.close()
            self._heirs.remove(heir)
            return
        transport.abort()  # closes this process's descriptor: the connection lives on with the other


class Taking:
    """The side that takes: serves every connection that arrives at ``path``. Call it on the loop."""

    def __init__(self, server: HttpServer, path: str) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._givers: dict[int, descriptors.DescriptorChannel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of this frontend before it was started again
        self._listener = descriptors.listen_at(path, backlog=256)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Take no more."""
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for giver in self._givers.values():
            giver.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            end, _ = self._listener.accept()
            number = end.fileno()
            self._givers[number] = descriptors.DescriptorChannel(end, self._take, partial(self._forget, number))

    def _forget(self, number: int) -> None:
        self._givers.pop(number, None)

    def _take(self, message: descriptors.Message, files: list[int]) -> None:
        for one in files:
            task = self._loop.create_task(self._serve(socket.socket(fileno=one)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        client.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(self._server, client)
        except OSError:  # it has gone meanwhile
            client.close()
