"""Which filesystem a path lies on, from texts as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipperfs.mount import Mount, find_mount, parse_mountinfo

TEXT = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
40 22 0:33 / /mnt/models rw,nosuid shared:20 - nfs4 server:/export rw,vers=4.2
41 40 0:34 / /mnt/models/scratch rw - tmpfs tmpfs rw,size=64k
42 22 0:35 / /mnt/with\\040space ro,relatime - cifs //server/share rw
43 22 0:36 / /mnt/ssh rw - fuse.sshfs me@there: rw
44 22 0:37 / /mnt/covered rw - ext4 /dev/sdb1 rw
45 22 0:38 / /mnt/covered rw - xfs /dev/sdc1 ro
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind", "is_shared", "is_known_local"),
    [
        ("/srv/models", "ext4", False, True),
        ("/mnt/models/a/b", "nfs4", True, False),
        ("/mnt/modelsx", "ext4", False, True),
        ("/mnt/models/scratch", "tmpfs", False, True),
        ("/mnt/with space/x", "cifs", True, False),
        ("/mnt/ssh/x", "fuse.sshfs", True, False),
    ],
)
def test_path_is_found_on_the_nearest_mount(path: str, kind: str, is_shared: bool, is_known_local: bool) -> None:
    mount = find_mount(path, TEXT)
    assert mount is not None
    assert (mount.kind, mount.is_shared, mount.is_known_local) == (kind, is_shared, is_known_local)


def test_later_mount_covers_the_earlier_one_of_the_same_point() -> None:
    assert find_mount("/mnt/covered/x", TEXT) == Mount("/mnt/covered", "xfs", is_read_only=True)


def test_read_only_mounts_are_known() -> None:
    assert [mount.point for mount in parse_mountinfo(TEXT) if mount.is_read_only] == ["/mnt/with space", "/mnt/covered"]


def test_unknown_kind_is_neither_shared_nor_known() -> None:
    mount = Mount("/", "newfs", is_read_only=False)
    assert not mount.is_shared and not mount.is_known_local


def test_nothing_mounted_is_nothing_known() -> None:
    assert find_mount("/x", "") is None


def test_own_mountinfo_knows_where_this_file_lies() -> None:
    assert find_mount(Path(__file__)) is not None
