"""The listening sockets of the query port: bound, taken over, and shared out among the frontends.

A listening socket has a queue of connections that no frontend has accepted yet, and closing the last descriptor of a
socket resets what waits in its queue. So whoever takes over from a daemon takes all of its sockets, and keeps them.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from clipperfs.errors import DaemonStartFailed, InvalidSetting

BACKLOG = 1024


def share_out(sockets: int, frontends: int) -> list[list[int]]:
    """Return which sockets each frontend listens on. Pure.

    Each has one of its own. Those beyond the number of frontends, which a daemon with more of them has left behind, are
    everybody's: clients may still wait in their queues, and the kernel goes on giving them their share of new ones.
    """
    spare = list(range(frontends, sockets))
    return [[index, *spare] for index in range(frontends)]


def bind_query_port(host: str, port: int, count: int) -> list[socket.socket]:
    """Take the query port and return ``count`` sockets that listen on it.

    Raises:
        DaemonStartFailed: the port is in use, or may not be used.
        InvalidSetting: the host is not an address of this machine.
    """
    sockets: list[socket.socket] = []
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        # Bound alone first: with SO_REUSEPORT a second daemon of the same user would silently share the port.
        alone = _bind(family, host, port, shared=False)
        port = alone.getsockname()[1]
        if count == 1:
            sockets.append(alone)
        else:
            alone.close()
            for _ in range(count):
                sockets.append(_bind(family, host, port, shared=True))
        for one in sockets:
            one.listen(BACKLOG)
    except socket.gaierror as error:
        raise InvalidSetting(f"host {host!r} is not an address: {error.strerror}") from error
    except OSError as error:
        close_sockets(sockets)
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidSetting(f"host {host} is not an address of this machine") from error
        what = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        raise DaemonStartFailed(
            f"port {port} on {host} {what}",
            hint="another program listens there (see 'ss -ltnp'); choose another port with --port",
            port=port,
        ) from error
    return sockets


def bind_more(taken: Sequence[socket.socket], host: str, count: int) -> list[socket.socket]:
    """Return bound sockets that bring those taken over from another daemon to ``count``; none when there are enough.

    They do not listen yet: from then on the kernel gives them a share of the new connections, so that waits until
    somebody is there to accept. Raises DaemonStartFailed.
    """
    sockets: list[socket.socket] = []
    if len(taken) >= count:
        return sockets
    port = taken[0].getsockname()[1]
    try:
        for one in taken:  # a socket that was alone on its port does not share it yet
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in range(count - len(taken)):
            sockets.append(_bind(taken[0].family, host, port, shared=True))
    except OSError as error:
        close_sockets(sockets)
        raise DaemonStartFailed(
            f"port {port} on {host} cannot be shared among more frontends: {error.strerror}",
            hint="restart with as many frontends as before, or stop and start",
            port=port,
        ) from error
    return sockets


def close_sockets(sockets: Sequence[socket.socket]) -> None:
    """Close sockets."""
    for one in sockets:
        one.close()


def _bind(family: int, host: str, port: int, *, shared: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        if not shared:
            listener.listen(BACKLOG)  # only a listening socket keeps others with SO_REUSEADDR out
    except BaseException:
        listener.close()
        raise
    return listener
