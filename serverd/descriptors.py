"""Small messages with open files in them, between two processes of one user: JSON and SCM_RIGHTS on a unix socket.

The socket keeps messages apart (SOCK_SEQPACKET), so there is no framing. Files arrive closed to child processes.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

FILES_A_MESSAGE: Final = 128
"""The kernel takes 253."""
MESSAGE_BYTES: Final = 128 * 1024

Message: TypeAlias = dict[str, Any]


def listen_at(path: str | os.PathLike[str], backlog: int = 8) -> socket.socket:
    """Return a socket that listens at a path which only its owner can open. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(os.fspath(path))
        os.chmod(path, 0o600)
        listener.listen(backlog)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def connect_to(path: str | os.PathLike[str], timeout_s: float) -> socket.socket:
    """Return a socket that is connected to who listens at a path. Raises OSError."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        end.settimeout(timeout_s)
        end.connect(os.fspath(path))
    except BaseException:
        end.close()
        raise
    return end


def peer_of(end: socket.socket) -> tuple[int, int]:
    """Return the process and the user at the other end, as the kernel knows them."""
    credentials = array.array("i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return credentials[0], credentials[1]


def send_message(end: socket.socket, message: Message, files: Sequence[int] = ()) -> None:
    """Send one message, and at most ``FILES_A_MESSAGE`` files. Raises OSError when it cannot leave."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    end.sendmsg([json.dumps(message).encode()], rights)


def receive_message(end: socket.socket) -> tuple[Message, list[int]] | None:
    """Return the next message and its files, which are the caller's to close; ``None`` at the end.

    Raises:
        OSError: there is none yet, or the connection broke.
        ValueError: it is not a message.
    """
    # Not socket.recv_fds: it drops its flags, and every child that is started meanwhile would inherit the files.
    room = socket.CMSG_SPACE(FILES_A_MESSAGE * array.array("i").itemsize)
    data, rights, flags, _ = end.recvmsg(MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    files = array.array("i")
    for level, kind, payload in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(payload[: len(payload) - len(payload) % files.itemsize])
    if not data:
        close_all(files)
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("a message is too large")
        message = json.loads(data)
        if not isinstance(message, dict) or not isinstance(message.get("t"), str):
            raise ValueError("a message is a map with a kind")
    except (ValueError, RecursionError) as error:
        close_all(files)
        raise ValueError(str(error)) from error
    return message, list(files)


def close_all(files: Sequence[int]) -> None:
    """Close files that nobody wants."""
    for one in files:
        with contextlib.suppress(OSError):
            os.close(one)


class DescriptorChannel:
    """One end of a conversation on the running loop. It owns the socket.

    Guarantees: ``on_message`` is called with each message and its files, in order; ``on_end`` once, when the other side
    has gone or makes no sense, and not after ``close``. Sending never blocks and never raises: who cannot be reached
    has gone.
    """

    def __init__(
        self, end: socket.socket, on_message: Callable[[Message, list[int]], None], on_end: Callable[[], None]
    ) -> None:
        self._end = end
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self.is_open = True
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self._read)

    def send(self, kind: str, files: Sequence[int] = (), **fields: Any) -> None:
        """Send a message."""
        if self.is_open:
            with contextlib.suppress(OSError):  # reading tells
                send_message(self._end, {"t": kind, **fields}, files)

    def close(self) -> None:
        """End the conversation."""
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._end.fileno())
            self._end.close()

    def _read(self) -> None:
        while self.is_open:
            try:
                found = receive_message(self._end)
            except BlockingIOError:
                return
            except (OSError, ValueError):
                found = None
            if found is None:
                self.close()
                self._on_end()
                return
            self._on_message(*found)
