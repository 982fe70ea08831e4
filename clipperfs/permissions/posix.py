"""Access lists of local files: read and set by the kernel's own extended attributes, or by mode bits alone.

No program is needed for it (``setfacl`` is not installed everywhere): ``system.posix_acl_access`` and
``system.posix_acl_default`` are the kernel's interface. Source: linux/posix_acl_xattr.h, linux/posix_acl.h.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from clipperfs.errors import InvalidSetting
from clipperfs.permissions.acl import EXECUTE, READ, SETGID, STICKY, WRITE, Acl, Principal, default_mask
from clipperfs.rights import SETTING_RIGHTS
from clipperfs.store.oserror import told_plainly

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_VERSION = struct.pack("<I", 2)
_OWNER, _USER, _GROUP_OBJECT, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)
_NONE = (errno.ENODATA,)

Raw = dict[tuple[int, int], int]
"""(tag, id) → permissions."""


class PosixLists:
    """The access lists of a registry on a local filesystem."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, key: str) -> Acl | None:
        """Return a file's or folder's access list, or ``None`` when it is absent or a link. Raises StorageError."""
        path = self._root / key
        with told_plainly("look at", key):
            try:
                found = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
                return None
            has_lists = _has_lists(path)
            access, default = (_attribute(path, ACCESS), _attribute(path, DEFAULT)) if has_lists else ({}, {})
        mode, is_folder = found.st_mode, stat.S_ISDIR(found.st_mode)
        if not has_lists:  # mode bits know one group: it stands for the named entries that there cannot be
            bits = mode >> 3 & 7
            access = {(_GROUP, found.st_gid): bits, (_MASK, _NOBODY): bits}
        named = {_principal(tag, number): bits for (tag, number), bits in access.items() if tag in (_USER, _GROUP)}
        return Acl(
            owner=user_name(found.st_uid),
            group=group_name(found.st_gid),
            owner_bits=mode >> 6 & 7,
            group_bits=access.get((_GROUP_OBJECT, _NOBODY), mode >> 3 & 7),
            other_bits=mode & 7,
            named=named,
            mask=access.get((_MASK, _NOBODY)),
            default=_default(default) if default else None,
            flags=mode & (STICKY | SETGID) if is_folder else 0,
            is_folder=is_folder,
        )

    def write(self, key: str, acl: Acl) -> None:
        """Set a file's or folder's access list.

        Raises:
            StorageDenied: only the owner and root may.
            InvalidSetting: the filesystem cannot express it, or this host knows no such user or group.
        """
        path = self._root / key
        with told_plainly(SETTING_RIGHTS, key):
            before = os.lstat(path)
            try:
                self._write_lists(path, acl)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self._write_modes(path, key, acl, before)
            if acl.flags != stat.S_IMODE(before.st_mode) & (STICKY | SETGID) and acl.is_folder:
                os.chmod(path, stat.S_IMODE(os.lstat(path).st_mode) | acl.flags)

    def _write_lists(self, path: Path, acl: Acl) -> None:
        raw: Raw = {
            (_OWNER, _NOBODY): acl.owner_bits,
            (_GROUP_OBJECT, _NOBODY): acl.group_bits,
            (_OTHER, _NOBODY): acl.other_bits,
        }
        if acl.named:
            assert acl.mask is not None
            raw[(_MASK, _NOBODY)] = acl.mask
            raw |= {_number(who): bits for who, bits in acl.named.items()}
        os.setxattr(path, ACCESS, _packed(raw), follow_symlinks=False)
        if not acl.is_folder:
            return
        if acl.default is None:
            if _attribute(path, DEFAULT):
                os.removexattr(path, DEFAULT, follow_symlinks=False)
            return
        rest = {_number(who): bits for who, bits in acl.default.items() if isinstance(who, Principal)}
        default: Raw = {
            (_OWNER, _NOBODY): acl.default["owner"],
            (_GROUP_OBJECT, _NOBODY): acl.default["group"],
            (_OTHER, _NOBODY): acl.default["other"],
            **rest,
        }
        if rest:
            default[(_MASK, _NOBODY)] = default_mask(acl.default)
        os.setxattr(path, DEFAULT, _packed(default), follow_symlinks=False)

    def _write_modes(self, path: Path, key: str, acl: Acl, before: os.stat_result) -> None:
        """Express a list by owner, group and others: that works for one group, which the folder then belongs to."""
        old = Principal("group", group_name(before.st_gid))
        more = {who: bits for who, bits in acl.named.items() if bits & ~acl.other_bits}
        others = [who for who in more if who != old]
        if others and (len(others) > 1 or others[0].kind != "group" or old in more):
            raise InvalidSetting(
                f"this filesystem has no access lists, and mode bits cannot give {others[0]} a right on {key}: they "
                f"know one group, and here it is {old.name}",
                hint=f"put them into group {old.name}, or mount the filesystem with access lists (option 'acl')",
                key=key,
            )
        one = others[0] if others else old
        if others:
            os.chown(path, -1, _number(one)[1], follow_symlinks=False)
        bits = acl.named.get(one, acl.other_bits)
        mode = stat.S_IMODE(before.st_mode) & ~0o077 | bits << 3 | acl.other_bits
        os.chmod(path, mode | (acl.flags | SETGID if acl.is_folder else 0))

    def make_folder(self, key: str) -> None:
        """Make a folder that is not there. Raises StorageError."""
        with told_plainly("create", key):
            os.makedirs(self._root / key, exist_ok=True)

    def inside(self, key: str) -> Iterator[str]:
        """Yield the keys of everything below a folder, links and special files left out."""
        pending = [key]
        while pending:
            folder = pending.pop()
            with told_plainly("list", folder):
                try:
                    entries = sorted(os.scandir(self._root / folder), key=lambda entry: entry.name)
                except FileNotFoundError:
                    continue
            for entry in entries:
                below = f"{folder}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    pending.append(below)
                    yield below
                elif entry.is_file(follow_symlinks=False):
                    yield below

    def me(self) -> tuple[Principal, tuple[str, ...]]:
        """Return this process's user and groups."""
        groups = {os.getegid(), *os.getgroups()}
        return Principal("user", user_name(os.geteuid())), tuple(sorted(map(group_name, groups)))

    def groups_of(self, user: str) -> tuple[str, ...] | None:
        """Return a user's groups; ``None`` when this host does not know the user."""
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            return None
        return tuple(sorted(map(group_name, os.getgrouplist(user, entry.pw_gid))))

    def may(self, key: str, bits: int) -> bool | None:
        """Say whether this process may do it, by asking the kernel, which knows everything (mounts, capabilities)."""
        asked = (os.R_OK if bits & READ else 0) | (os.W_OK if bits & WRITE else 0) | (os.X_OK if bits & EXECUTE else 0)
        return os.access(self._root / key, asked, effective_ids=True)


def user_name(number: int) -> str:
    """Return a user's name, or its number where this host has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def group_name(number: int) -> str:
    """Return a group's name, or its number where this host has none."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _has_lists(path: Path) -> bool:
    try:
        os.getxattr(path, ACCESS, follow_symlinks=False)
    except OSError as error:
        return error.errno not in _UNSUPPORTED
    return True


def _attribute(path: Path, name: str) -> Raw:
    try:
        data = os.getxattr(path, name, follow_symlinks=False)
    except OSError as error:
        if error.errno in (*_NONE, *_UNSUPPORTED):
            return {}
        raise
    return {(tag, number): bits for tag, bits, number in struct.iter_unpack("<HHI", data[len(_VERSION) :])}


def _packed(raw: Raw) -> bytes:
    return _VERSION + b"".join(struct.pack("<HHI", tag, bits, number) for (tag, number), bits in sorted(raw.items()))


def _default(raw: Raw) -> Mapping[Principal | str, int]:
    words = {_OWNER: "owner", _GROUP_OBJECT: "group", _OTHER: "other"}
    mask = raw.get((_MASK, _NOBODY), 7)
    found: dict[Principal | str, int] = {}
    for (tag, number), bits in raw.items():
        if tag in (_USER, _GROUP):
            found[_principal(tag, number)] = bits & mask
        elif tag in words:
            found[words[tag]] = bits & mask if tag == _GROUP_OBJECT else bits
    return found


def _principal(tag: int, number: int) -> Principal:
    return Principal("user", user_name(number)) if tag == _USER else Principal("group", group_name(number))


def _number(who: Principal) -> tuple[int, int]:
    try:
        if who.kind == "user":
            return _USER, int(who.name) if who.name.isdecimal() else pwd.getpwnam(who.name).pw_uid
        return _GROUP, int(who.name) if who.name.isdecimal() else grp.getgrnam(who.name).gr_gid
    except KeyError as error:
        raise InvalidSetting(
            f"this host knows no {who.kind} {who.name}", hint=f"'getent {'passwd' if who.kind == 'user' else 'group'}'"
        ) from error
