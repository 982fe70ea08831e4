"""What kind of filesystem a local path lies on, as ``/proc/self/mountinfo`` tells it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")

_ORDINARY = frozenset(["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "bcachefs", "overlay", "reiserfs"])
_VOLATILE = frozenset(["tmpfs", "ramfs", "devtmpfs"])
_SHARED = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "lustre",
        "gpfs",
        "beegfs",
        "glusterfs",
        "virtiofs",
        "ocfs2",
        "gfs2",
        "orangefs",
        "vboxsf",
        "vmhgfs",
    ]
)
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    point: str
    kind: str
    """The filesystem's type, such as ``ext4``, ``nfs4`` or ``fuse.sshfs``."""
    is_read_only: bool

    @property
    def is_volatile(self) -> bool:
        """Say whether the content is gone when the host restarts."""
        return self.kind in _VOLATILE

    @property
    def is_shared(self) -> bool:
        """Say whether other hosts, or a program, may change it without this kernel noticing."""
        return self.kind in _SHARED or self.kind.startswith("fuse")

    @property
    def is_known_local(self) -> bool:
        """Say whether this kernel alone keeps it, so that its links are exclusive and its events complete."""
        return self.kind in _ORDINARY or self.is_volatile


def find_mount(path: str | os.PathLike[str], mountinfo: str | None = None) -> Mount | None:
    """Return what ``path``, or its nearest folder that exists, is mounted from; ``None`` when that cannot be told."""
    if mountinfo is None:
        try:
            mountinfo = MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None
    wanted = os.path.realpath(path)
    found: Mount | None = None
    for mount in parse_mountinfo(mountinfo):
        is_above = wanted == mount.point or wanted.startswith(mount.point.rstrip("/") + "/")
        # A later line of the same point covers the earlier one.
        if is_above and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def parse_mountinfo(text: str) -> list[Mount]:
    """Return the mounts, in order. Lines that are not understood are passed over. Source: proc(5)."""
    mounts = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        fields, after = left.split(" "), right.split(" ")
        if not separator or len(fields) < 6 or len(after) < 3:
            continue
        options = {*fields[5].split(","), *after[2].split(",")}
        point = _ESCAPE.sub(lambda found: chr(int(found[1], 8)), fields[4])
        mounts.append(Mount(point, after[0], "ro" in options))
    return mounts
