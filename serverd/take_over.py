"""The new daemon's side of a hand-over (its words are in ``hand_over``): it asks for sockets, then for the place."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipperfs.serverd import descriptors
from clipperfs.serverd.descriptors import DescriptorChannel, Message
from clipperfs.serverd.hand_over import PROTOCOL

from clipperfs.admin import error_from_document
from clipperfs.errors import ClipperfsError, DaemonStartFailed

ANSWER_S = 10.0
"""How long the running daemon may take to answer."""
GONE = "the daemon that runs ended meanwhile"


@dataclass(slots=True)
class Offer:
    """What the running daemon has sent: descriptors, which are this process's from now on."""

    end: socket.socket
    """The conversation."""
    host: str
    port: int
    admin_port: int | None
    lock: int
    admin: socket.socket | None
    lifeline: int | None
    listeners: list[socket.socket]


def ask(path: Path) -> Offer:
    """Ask the daemon that runs for its sockets. Blocks for a moment.

    Raises:
        DaemonStartFailed: it does not answer, or does not hand over in this way.
        ClipperfsError: it says no.
    """
    try:
        end = descriptors.connect_to(path, ANSWER_S)
    except OSError as error:
        raise DaemonStartFailed(
            f"the daemon that runs does not hand over at {path}: {error.strerror or error}",
            hint="clipperfs stop, then clipperfs start",
        ) from error
    files: dict[str, int] = {}
    listeners: list[int] = []
    try:
        descriptors.send_message(end, {"t": "hello", "protocol": PROTOCOL})
        give_up_s = time.monotonic() + ANSWER_S
        facts = _receive(end, "offer", give_up_s)
        offer, given = facts
        files = dict(zip(offer["named"], given, strict=True))
        while len(listeners) < offer["listeners"]:
            listeners += _receive(end, "files", give_up_s)[1]
        sockets = [socket.socket(fileno=one) for one in listeners]
        admin = socket.socket(fileno=files["admin"]) if "admin" in files else None
        return Offer(
            end, offer["host"], offer["port"], offer["admin_port"], files["lock"], admin, files.get("lifeline"), sockets
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        end.close()
        descriptors.close_all([*files.values(), *listeners])
        raise DaemonStartFailed(
            f"the daemon that runs did not hand over: {error or type(error).__name__}",
            hint="clipperfs stop, then clipperfs start",
        ) from error
    except ClipperfsError:
        end.close()
        raise


def _receive(end: socket.socket, kind: str, give_up_s: float) -> tuple[Message, list[int]]:
    end.settimeout(max(0.01, give_up_s - time.monotonic()))
    found = descriptors.receive_message(end)
    if found is None:
        raise ValueError(GONE)
    message, files = found
    if message["t"] == "refuse":
        descriptors.close_all(files)
        raise error_from_document(message.get("error"), fallback="the daemon that runs does not hand over")
    if message["t"] != kind:
        descriptors.close_all(files)
        raise ValueError(f"it said {message['t']!r} where {kind!r} was expected")
    return message, files


class TakeOver:
    """The conversation from the offer to the end of the other daemon. Everything happens on the event loop.

    Args:
        on_orphaned: called when the other daemon is gone without a word before it gave its place: it is this one's.
        on_stop: called with the time to drain when somebody ended the other daemon.
    """

    def __init__(
        self, offer: Offer, folder: Path, on_orphaned: Callable[[], None], on_stop: Callable[[float], None]
    ) -> None:
        self.is_done = False
        """The place is this daemon's."""
        self._on_orphaned = on_orphaned
        self._on_stop = on_stop
        self._answer: asyncio.Future[ClipperfsError | None] | None = None
        self._ended = asyncio.Event()
        self._channel = DescriptorChannel(offer.end, self._hear, self._take_end)
        self._channel.send("folder", folder=folder.name)

    async def ask(self, kind: str, **fields: Any) -> None:
        """Ask for leave to go on. Return when it is given, or when nobody is there any more to give it.

        Raises ClipperfsError when the other daemon objects.
        """
        if not self._ended.is_set():
            self._answer = asyncio.get_running_loop().create_future()
            self._channel.send(kind, **fields)
            if (refusal := await self._answer) is not None:
                raise refusal

    def confirm(self, heirs: list[str]) -> None:
        """Let the other daemon drain and end: everybody who asks reaches this one now."""
        self.is_done = True
        self._channel.send("taken", heirs=heirs)

    def hurry(self, drain_s: float) -> None:
        """Have the other daemon end within ``drain_s`` seconds if it still drains."""
        if self.is_done:
            self._channel.send("stop", drain_s=drain_s)

    async def await_end(self) -> None:
        """Wait for the end of the other daemon, if this one is in its place."""
        if self.is_done:
            await self._ended.wait()

    def _hear(self, message: Message, files: list[int]) -> None:
        descriptors.close_all(files)
        match message["t"]:
            case "yes":
                self._settle(None)
            case "refuse":
                self._settle(error_from_document(message.get("error"), fallback="the daemon that runs keeps its place"))
            case "stop":
                self._on_stop(float(message["drain_s"]))

    def _take_end(self) -> None:
        self._ended.set()
        if not self.is_done:
            self.is_done = True
            self._on_orphaned()
            self._settle(None)

    def _settle(self, refusal: ClipperfsError | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(refusal)
