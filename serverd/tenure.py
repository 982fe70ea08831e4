"""What only one daemon of a state folder does at a time: to be found, to take commands, to write, and to be succeeded.

A daemon that takes over does everything else beside the one that runs, and begins this when that one has yielded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from clipperfs.serverd.runtime_folder import RuntimeFolder
from clipperfs.serverd.statedir import StateDir, told_plainly

from clipperfs.daemon_files import DaemonDocument

if TYPE_CHECKING:
    from clipperfs.serverd.admin import AdminServer
    from clipperfs.serverd.hand_over import HandOver
    from clipperfs.serverd.herald import Herald


class Tenure:
    """The time in which a daemon is *the* daemon of its state folder.

    Args:
        make_document: returns ``daemon.json``.
    """

    def __init__(
        self,
        state: StateDir,
        runtime: RuntimeFolder,
        admin: AdminServer,
        herald: Herald,
        hand_over: HandOver,
        make_document: Callable[[], DaemonDocument],
    ) -> None:
        self._state = state
        self._runtime = runtime
        self._admin = admin
        self._herald = herald
        self._hand_over = hand_over
        self._make_document = make_document

    async def begin(self) -> None:
        """Take the place: from here on handles find this daemon. Called again, take it back. Raises StorageError."""
        self._state.take()
        admin_socket = self._runtime.admin_socket
        with told_plainly("listen at", admin_socket):
            await self._admin.start(self._runtime.draft(admin_socket))
            self._runtime.put_in_place(admin_socket)
            self._hand_over.listen()
        self._state.write_daemon(self._make_document())
        self._herald.resume()

    async def yield_up(self) -> None:
        """Write nothing any more that others read. Commands are still taken, until somebody else is in the place."""
        await self._herald.pause()
        self._state.yield_up()

    def leave(self) -> None:
        """Let go of what the successor has: it is the daemon of the state folder now."""
        self._state.release()
        self._admin.leave()
        self._hand_over.close()
