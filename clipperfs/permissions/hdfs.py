"""Access lists on HDFS, through whichever client the registry's address has chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from clipperfs.permissions.acl import STICKY, Acl, Principal, default_mask
from clipperfs.rights import SETTING_RIGHTS
from clipperfs.store.hdfs import HdfsStore
from clipperfs.store.hdfs_client import AclLine, HdfsAclClient
from clipperfs.store.oserror import told_plainly


class HdfsLists:
    """The access lists of a registry on HDFS. The superuser and the groups of users are the NameNode's own affair."""

    def __init__(self, store: HdfsStore, client: HdfsAclClient) -> None:
        self._store = store
        self._client = client

    def read(self, key: str) -> Acl | None:
        """Return a file's or folder's access list, or ``None`` when it is absent. Raises StorageError."""
        with told_plainly("look at", key):
            told = self._client.acl(self._path(key))
        if told is None:
            return None
        access = [line for line in told.entries if not line.is_default]
        named = {_principal(line): line.bits for line in access if line.name}
        middle = told.mode >> 3 & 7
        group_bits = next((line.bits for line in access if line.kind == "group" and not line.name), middle)
        words = {"user": "owner", "group": "group", "other": "other"}
        limit = next((line.bits for line in told.entries if line.is_default and line.kind == "mask"), 7)
        default: dict[Principal | str, int] = {}
        for line in told.entries:
            if line.is_default and line.name:
                default[_principal(line)] = line.bits & limit
            elif line.is_default and line.kind in words:
                default[words[line.kind]] = line.bits & limit if line.kind == "group" else line.bits
        return Acl(
            owner=told.owner,
            group=told.group,
            owner_bits=told.mode >> 6 & 7,
            group_bits=group_bits,
            other_bits=told.mode & 7,
            named=named,
            mask=middle if named else None,
            default=default or None,
            flags=told.mode & STICKY,
            is_folder=told.is_folder,
        )

    def write(self, key: str, acl: Acl) -> None:
        """Set a file's or folder's access list. Raises StorageDenied: only the owner and the superuser may."""
        lines = [
            AclLine(False, "user", "", acl.owner_bits),
            AclLine(False, "group", "", acl.group_bits),
            AclLine(False, "other", "", acl.other_bits),
            *(AclLine(False, _kind(who), who.name, bits) for who, bits in sorted(acl.named.items())),
        ]
        if acl.mask is not None:
            lines.append(AclLine(False, "mask", "", acl.mask))
        if acl.default is not None and acl.is_folder:
            lines += [
                AclLine(True, "user", "", acl.default["owner"]),
                AclLine(True, "group", "", acl.default["group"]),
                AclLine(True, "other", "", acl.default["other"]),
            ]
            named = sorted((who, bits) for who, bits in acl.default.items() if isinstance(who, Principal))
            lines += [AclLine(True, _kind(who), who.name, bits) for who, bits in named]
            lines.append(AclLine(True, "mask", "", default_mask(acl.default)))
        with told_plainly(SETTING_RIGHTS, key):
            self._client.set_acl(self._path(key), lines, acl.mode() & 0o1777)

    def make_folder(self, key: str) -> None:
        """Make a folder that is not there. Raises StorageError."""
        with told_plainly("create", key):
            self._store.client.make_folder(self._path(key))

    def inside(self, key: str) -> Iterator[str]:
        """Yield the keys of everything below a folder."""
        pending = [key]
        while pending:
            folder = pending.pop()
            for entry in self._store.list(folder):
                below = f"{folder}/{entry.name}"
                if entry.kind == "folder":
                    pending.append(below)
                yield below

    def me(self) -> tuple[Principal, tuple[str, ...]]:
        """Return this client's user. Its groups are not known here."""
        return Principal("user", self._client.user()), ()

    def groups_of(self, user: str) -> tuple[str, ...] | None:
        """Return ``None``: only the NameNode knows a user's groups."""
        return None

    def may(self, key: str, bits: int) -> bool | None:
        """Return ``None``: there is nobody to ask but the lists."""
        return None

    def _path(self, key: str) -> str:
        return f"{self._store.root}/{key}".rstrip("/") or "/"


def _principal(line: AclLine) -> Principal:
    return Principal("user" if line.kind == "user" else "group", line.name)


def _kind(who: Principal) -> Literal["user", "group"]:
    return "user" if who.kind == "user" else "group"
