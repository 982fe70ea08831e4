"""A filesystem in an image file, mounted through a loop device, whose power can be cut. Needs root.

Cutting is the kernel's own shutdown call without a flush of the log: from that moment nothing reaches the device, which
holds what the filesystem had submitted and made durable until then. Mounting it again replays the journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = struct.pack("I", 2)
MIB = 1 << 20
SIZES = {"ext4": 16 * MIB, "xfs": 320 * MIB}
"""Of the images, which are sparse; the smallest that the filesystems take."""
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-O", "^resize_inode", "-J", "size=4"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}
# As little as the filesystem may do by itself: no commit every five seconds, no flush on behalf of careless programs.
OPTIONS = {"ext4": "loop,commit=300,noauto_da_alloc", "xfs": "loop"}


class CannotMount(Exception):
    """There are no loop devices here, or no such filesystem; the text says which."""


class PowerDisk:
    """One filesystem."""

    def __init__(self, image: Path, mount: Path, kind: str) -> None:
        self.image = image
        self.place = mount
        self.kind = kind
        self.is_mounted = False

    def make(self) -> PowerDisk:
        """Make an empty filesystem and mount it. Raises CannotMount."""
        with open(self.image, "wb") as stream:
            stream.truncate(SIZES[self.kind])
        _run([*MAKE[self.kind], str(self.image)])
        return self.mount()

    def copy(self, image: Path) -> PowerDisk:
        """Return a mounted copy of the filesystem, which is not mounted itself; it takes its place."""
        assert not self.is_mounted
        _run(["cp", "--sparse=always", str(self.image), str(image)])
        return PowerDisk(image, self.place, self.kind).mount()

    def mount(self) -> PowerDisk:
        """Mount it, which replays its journal. Raises CannotMount."""
        self.place.mkdir(exist_ok=True)
        _run(["mount", "-t", self.kind, "-o", OPTIONS[self.kind], str(self.image), str(self.place)])
        self.is_mounted = True
        return self

    def unmount(self) -> None:
        """Unmount it in good order."""
        _run(["umount", str(self.place)])
        self.is_mounted = False

    def cut(self) -> None:
        """Cut the power, and mount it again."""
        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(descriptor)
        self.unmount()
        self.mount()

    def remove(self) -> None:
        """Unmount it and delete its image."""
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self.place)], check=False, capture_output=True)
            self.is_mounted = False
        with contextlib.suppress(FileNotFoundError):
            self.image.unlink()


def _run(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        raise CannotMount(f"needs the program {command[0]}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotMount(f"'{command[0]}' does not work here: {done.stderr.strip()}")
