"""The running daemon's side of a hand-over: it gives its sockets away, and its place when the other one is ready.

    new → old   hello   protocol            a process wants the place
    old → new   offer   host, port, admin_port, listeners, files      with the files that are named, such as the lock
                files                       the listening sockets, in as many messages as it takes
                refuse  error               no, and why: at any time before ``yours``
    new → old   folder  folder              where its own sockets are, to be removed if it dies
                loaded  failed              all is loaded but for these versions: may it accept?
    old → new   yes                         it may: nothing that is served now would be missing
    new → old   ready                       its frontends accept
    old → new   yes                         the place is yours: nothing is written here any more
    new → old   taken   heirs               everybody who asks reaches the new one; drain, and give the open connections
                                            to the frontends at ``heirs``
    old → new   stop    drain_s             somebody ended the old one meanwhile: the new one is to end, too
    new → old   stop    drain_s             after ``taken``: the new one ends; what still drains is to end within

The end of the conversation means that the other side is gone. Before ``taken`` the old one then goes on as if nothing
had happened, and the new one takes the place at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Final, Protocol

from clipperfs.serverd import descriptors
from clipperfs.serverd.descriptors import FILES_A_MESSAGE, DescriptorChannel, Message
from clipperfs.serverd.events import Events
from clipperfs.serverd.runtime_folder import RuntimeFolder

from clipperfs.errors import ClipperfsError, DaemonStartFailed, ServingError

PROTOCOL: Final = 1


class Giver(Protocol):
    """What hands over: ``succession.Succession``."""

    @property
    def is_stopping(self) -> bool: ...
    def offer(self) -> tuple[dict[str, Any], dict[str, int], list[int]]: ...
    def serving(self) -> dict[str, set[str]]: ...
    async def yield_place(self) -> None: ...
    def take_back(self) -> None: ...
    def leave(self, heirs: list[str]) -> None: ...
    def hurry(self, drain_s: float) -> None: ...


class HandOver:
    """Waits for a successor, and talks to one at a time. Everything happens on the event loop."""

    def __init__(
        self,
        subject: Giver,
        runtime: RuntimeFolder,
        events: Events,
        spawn_task: Callable[[Coroutine[Any, Any, Any], str], Any],
    ) -> None:
        self._subject = subject
        self._runtime = runtime
        self._events = events
        self._spawn_task = spawn_task
        self._listener: socket.socket | None = None
        self._channel: DescriptorChannel | None = None
        self._successor = 0
        self._folder = ""
        self._has_yielded = False
        self._is_given = False
        self._gone = asyncio.Event()
        self._gone.set()

    def listen(self) -> None:
        """Wait for a successor from now on, in the place where the daemon before did. Raises OSError, StorageError."""
        self.close()
        path = self._runtime.successor_socket
        self._listener = descriptors.listen_at(self._runtime.draft(path))
        self._runtime.put_in_place(path)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def dismiss(self, drain_s: float) -> None:
        """Tell the successor, if there is one, that this daemon was ended: it is not wanted either."""
        self._send("stop", drain_s=drain_s)

    async def await_end(self) -> None:
        """Wait until there is no successor."""
        await self._gone.wait()

    def close(self) -> None:
        """Wait for nobody any more. The end of the process ends the conversation."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            end, _ = self._listener.accept()
            pid, user = descriptors.peer_of(end)
            if user != os.getuid():
                end.close()
                return
            if (why := self._why_not()) is not None:
                _turn_away(end, why)
                return
            self._successor = pid
            self._gone.clear()
            self._channel = DescriptorChannel(end, self._hear, self._take_end)

    def _why_not(self) -> ClipperfsError | None:
        if self._channel is not None:
            return DaemonStartFailed(
                f"another restart is under way (pid {self._successor})", hint="wait for it: clipperfs status"
            )
        if self._subject.is_stopping:
            return DaemonStartFailed("the daemon is stopping", hint="start it again when it has: clipperfs start")
        return None

    def _hear(self, message: Message, files: list[int]) -> None:
        descriptors.close_all(files)
        match message["t"]:
            case "hello" if message.get("protocol") == PROTOCOL:
                self._offer()
            case "hello":
                self._refuse(
                    DaemonStartFailed(
                        "the daemon that runs hands over in another way than this release",
                        hint="clipperfs stop, then clipperfs start",
                    )
                )
            case "folder":
                self._folder = str(message["folder"])
            case "loaded":
                loss = find_loss(self._subject.serving(), message.get("failed") or [])
                self._send("yes") if loss is None else self._refuse(loss)
            case "ready":
                self._spawn_task(self._yield(), "hand over")
            case "taken":
                self._is_given = True
                self._events.tell("handed over", pid=self._successor)
                self._subject.leave([str(heir) for heir in message.get("heirs") or []])
            case "stop":
                self._subject.hurry(float(message["drain_s"]))

    def _offer(self) -> None:
        assert self._channel is not None
        facts, named, listeners = self._subject.offer()
        self._events.tell("handing over", pid=self._successor)
        self._channel.send(
            "offer", list(named.values()), protocol=PROTOCOL, named=list(named), listeners=len(listeners), **facts
        )
        for start in range(0, len(listeners), FILES_A_MESSAGE):
            self._channel.send("files", listeners[start : start + FILES_A_MESSAGE])

    async def _yield(self) -> None:
        channel = self._channel
        self._has_yielded = True
        await self._subject.yield_place()
        if channel is not None and channel is self._channel:
            channel.send("yes")
        else:  # it has gone meanwhile
            self._subject.take_back()

    def _send(self, kind: str, **fields: Any) -> None:
        if self._channel is not None:
            self._channel.send(kind, **fields)

    def _refuse(self, error: ClipperfsError) -> None:
        """Say no; the other side then ends, and with it the conversation."""
        self._send("refuse", error=error.as_document())

    def _take_end(self) -> None:
        """The successor has gone."""
        self._channel = None
        self._gone.set()
        if self._is_given:
            return
        if self._has_yielded:
            self._has_yielded = False
            self._subject.take_back()
        if self._folder:
            self._runtime.remove_other(self._folder)
        self._events.tell("not handed over", pid=self._successor, reason="the new daemon ended before it was ready")


def _turn_away(end: socket.socket, why: ClipperfsError) -> None:
    """Answer the first message with no. Closing before it is read would reset the answer away."""

    def answer(message: Message, files: list[int]) -> None:
        descriptors.close_all(files)
        channel.send("refuse", error=why.as_document())
        channel.close()

    channel = DescriptorChannel(end, answer, lambda: None)


def find_loss(serving: Mapping[str, Collection[str]], failed: Collection[Mapping[str, Any]]) -> ServingError | None:
    """Return what would be lost: a version that answers queries here and that the successor could not load. Pure.

    Args:
        serving: by model, the versions that answer.
        failed: what the successor could not load: ``model``, ``version``, ``reason``, ``hint``.
    """
    for one in failed:
        if one.get("version") in serving.get(str(one.get("model")), ()):
            return ServingError(
                f"version {one['version']} of model {one['model']} answers queries and could not be loaded anew: "
                f"{one.get('reason')}",
                hint=one.get("hint"),
            )
    return None
