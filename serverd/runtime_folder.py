"""Where a daemon's sockets are: what others look for in a folder that outlives restarts, the rest in one of its own.

While a daemon takes over from another both are there, each with the sockets of its own processes in a folder of its own
(``g1``, ``g2``, …). The two sockets that others look for have one name for ever; whoever takes over puts its own in
their place in one step.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from pathlib import Path

from clipperfs.serverd.statedir import make_runtime_dir, told_plainly

from clipperfs.daemon_files import ADMIN_SOCKET, SUCCESSOR_SOCKET

OWN_PREFIX = "g"


class RuntimeFolder:
    """The folders for the sockets of one daemon."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.own = top
        """The folder of this daemon's own, once :meth:`make` has made it."""

    def make(self, *, anew: bool) -> None:
        """Make the daemon's own folder.

        Args:
            anew: nobody else is there, so whatever lies in the outer folder is a leftover.

        Raises StorageError.
        """
        if anew:
            make_runtime_dir(self.top)
        with told_plainly("make a folder in", self.top):
            for number in itertools.count(1):
                self.own = self.top / f"{OWN_PREFIX}{number}"
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self.own, 0o700)
                    return

    @property
    def admin_socket(self) -> Path:
        """Return where commands are taken, whichever daemon it is."""
        return self.top / ADMIN_SOCKET

    @property
    def successor_socket(self) -> Path:
        """Return where a daemon that wants to take over asks for it."""
        return self.top / SUCCESSOR_SOCKET

    def draft(self, socket_path: Path) -> Path:
        """Return where a socket is bound before :meth:`put_in_place`."""
        return self.own / socket_path.name

    def put_in_place(self, socket_path: Path) -> None:
        """Have everybody who opens the path reach this daemon from now on. Raises StorageError."""
        with told_plainly("use", socket_path):
            os.replace(self.draft(socket_path), socket_path)

    def remove(self, *, with_common: bool) -> None:
        """Remove the daemon's own folder, and the outer one when nobody else is in it.

        Args:
            with_common: the sockets that others look for are this daemon's.
        """
        if self.own != self.top:
            shutil.rmtree(self.own, ignore_errors=True)
        if with_common:
            for path in (self.admin_socket, self.successor_socket):
                with contextlib.suppress(OSError):
                    os.unlink(path)
        with contextlib.suppress(OSError):
            os.rmdir(self.top)

    def remove_other(self, name: str) -> None:
        """Remove the folder of another daemon, which has gone."""
        path = self.top / name
        if path.parent == self.top and path != self.own and name.startswith(OWN_PREFIX):
            shutil.rmtree(path, ignore_errors=True)
