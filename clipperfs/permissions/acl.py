"""Access control lists as POSIX and HDFS have them: who may do what with one file or folder. Pure.

Source: POSIX 1003.1e draft 17, §23.1.5 (the access check algorithm), which HDFS follows too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from clipperfs.errors import InvalidSetting

READ, WRITE, EXECUTE = 4, 2, 1
STICKY, SETGID = 0o1000, 0o2000

PrincipalKind = Literal["user", "group", "everyone"]


@dataclass(frozen=True, slots=True, order=True)
class Principal:
    """Whom a right is given to."""

    kind: PrincipalKind
    name: str = ""

    def __str__(self) -> str:
        return self.kind if self.kind == "everyone" else f"{self.kind}:{self.name}"


EVERYONE = Principal("everyone")


def parse_principal(text: str) -> Principal:
    """Return whom a person means: ``user:NAME``, ``group:NAME``, ``everyone``, or a bare name, which is a group's.

    Raises InvalidSetting.
    """
    kind, colon, name = text.partition(":")
    if text == "everyone":
        return EVERYONE
    if not colon:
        kind, name = "group", text
    if kind not in ("user", "group") or not name or any(char in name for char in ":,/\n\0"):
        raise InvalidSetting(f"{text!a} is nobody", hint="write user:NAME, group:NAME, a group's NAME, or everyone")
    return Principal("user" if kind == "user" else "group", name)


@dataclass(frozen=True, slots=True)
class Acl:
    """The access list of one file or folder. Permissions are sums of READ, WRITE and EXECUTE."""

    owner: str
    group: str
    owner_bits: int
    group_bits: int
    """Of the owning group, before the mask."""
    other_bits: int
    named: Mapping[Principal, int] = field(default_factory=dict)
    mask: int | None = None
    """Limits the group and every named entry; ``None``: there are no named entries."""
    default: Mapping[Principal | str, int] | None = None
    """What new files in a folder get; the keys ``owner``, ``group`` and ``other`` beside named ones."""
    flags: int = 0
    """STICKY and SETGID, of a folder."""
    is_folder: bool = True

    def of_user(self, user: str, groups: Collection[str]) -> int:
        """Return what a user may do who is a member of these groups."""
        if user == self.owner:
            return self.owner_bits
        limit = 7 if self.mask is None else self.mask
        named = self.named.get(Principal("user", user))
        if named is not None:
            return named & limit
        matching = [self.group_bits] if self.group in groups else []
        matching += [self.named[Principal("group", name)] for name in groups if Principal("group", name) in self.named]
        if not matching:
            return self.other_bits
        bits = 0
        for each in matching:
            bits |= each & limit
        return bits

    def of(self, principal: Principal, groups: Collection[str] = ()) -> int:
        """Return what a principal may do; of a group: what a user may do who is in no other."""
        if principal.kind == "everyone":
            return self.other_bits
        if principal.kind == "group":
            return self.of_user("", [principal.name])
        return self.of_user(principal.name, groups)

    def granting(self, principal: Principal, bits: int, default_bits: int | None) -> Acl:
        """Return the list with exactly these permissions for a principal; none at all takes its entry away.

        Args:
            default_bits: what it gets on new files of a folder; ``None``: nothing is said of them.

        Guarantees: nobody else gains anything: an entry that the mask held down is lowered before the mask goes up.
        """
        limit = 7 if self.mask is None else self.mask
        if principal.kind == "everyone":
            default = None if self.default is None else {**self.default, "other": default_bits or 0}
            return replace(self, other_bits=bits, default=default)
        named = {who: held & limit for who, held in self.named.items() if who != principal}
        group_bits = self.group_bits & limit
        if bits:
            named[principal] = bits
        mask: int | None = None
        if named:
            mask = group_bits
            for held in named.values():
                mask |= held
        return replace(
            self,
            named=named,
            group_bits=group_bits,
            mask=mask,
            default=self._default_with(principal, bits, default_bits),
        )

    def _default_with(
        self, principal: Principal, bits: int, default_bits: int | None
    ) -> Mapping[Principal | str, int] | None:
        if not self.is_folder:
            return None
        default: dict[Principal | str, int] = dict(self.default or {})
        default.pop(principal, None)
        if bits and default_bits:
            default[principal] = default_bits
        if not any(isinstance(who, Principal) for who in default):
            return None
        default.setdefault("owner", READ | WRITE | EXECUTE)
        default.setdefault("group", self.group_bits & ~WRITE)
        default.setdefault("other", self.other_bits & ~WRITE)
        return default

    def mode(self) -> int:
        """Return the mode bits that go with the list: where there is a mask it stands in the group's place."""
        middle = self.group_bits if self.mask is None else self.mask
        return self.flags | self.owner_bits << 6 | middle << 3 | self.other_bits


def default_mask(default: Mapping[Principal | str, int]) -> int:
    """Return the mask of a default list: all that its group and its named entries have."""
    mask = default["group"]
    for who, bits in default.items():
        if isinstance(who, Principal):
            mask |= bits
    return mask


def spell(bits: int) -> str:
    """Return permissions as ``ls`` writes them."""
    return "".join(letter if bits & bit else "-" for letter, bit in (("r", READ), ("w", WRITE), ("x", EXECUTE)))
