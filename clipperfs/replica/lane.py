"""The replica's end of a lane: a unix stream socket to one peer, beside ZeroMQ (``docs/wire.md`` §6)."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator

from clipperfs import wire

_CONNECT_S = 1.0
_MAX_UNSENT_BYTES = wire.MAX_LANE_FRAME_BYTES


class Lane:
    """One lane. Nothing here blocks but the connecting, and that not for long."""

    def __init__(self, path: str, token: str) -> None:
        """Connect, and show the token of the offer. Raises OSError when the peer is not there any more."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(_CONNECT_S)
            self._socket.connect(path)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        self._frames = wire.FrameBuffer()
        self._unsent = bytearray()
        self._has_read = False
        self.is_open = True
        self.send(wire.pack_header(wire.LANE, token))

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether ``flush`` is to be called when the descriptor can be written to."""
        return bool(self._unsent)

    def read_all(self) -> Iterator[tuple[bytes, memoryview]]:
        """Return all messages that have arrived, however many reads that takes. Bodies are as in ``read``."""
        self._has_read = True
        while self.is_open and self._has_read:
            self._has_read = False
            yield from self.read()

    def read(self) -> Iterator[tuple[bytes, memoryview]]:
        """Return the messages that have arrived, each as header and body. The lane is closed when the peer is gone.

        A body is good until the next message is asked for: whoever keeps one copies it.
        """
        try:
            size = self._socket.recv_into(self._frames.room())
            if size:
                self._has_read = True
                yield from self._frames.take(size)
            else:
                self.close()
        except BlockingIOError:
            pass
        except (OSError, wire.WireError):
            self.close()

    def send(self, header: bytes, body: bytes = b"") -> None:
        """Send a message, or keep what the peer does not take yet."""
        data = b"%b%b" % (wire.pack_frame_head(header, len(body)), body)
        if not self._unsent:
            data = data[self._write(data) :]
        if data and self.is_open:
            self._unsent += data
            if len(self._unsent) > _MAX_UNSENT_BYTES:
                self.close()

    def flush(self) -> None:
        """Send what was kept, as far as the peer takes it."""
        del self._unsent[: self._write(self._unsent)]

    def finish(self, until_s: float) -> None:
        """Send what was kept, at most until ``time.monotonic()`` is ``until_s``, then close."""
        poller = select.poll()
        poller.register(self._socket, select.POLLOUT)
        while self._unsent and (left_s := until_s - time.monotonic()) > 0:
            poller.poll(left_s * 1000)
            self.flush()
        self.close()

    def close(self) -> None:
        """Let go. Idempotent."""
        self.is_open = False
        self._unsent.clear()
        with contextlib.suppress(OSError):
            self._socket.close()

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.close()
            return 0
