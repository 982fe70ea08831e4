"""Which files and folders a right reaches, and with which permissions. Pure.

What the permissions hold: an activator can neither rewrite nor remove another's record (the log is sticky, and new
files in it are read-only to the others); a publisher cannot touch another's version (the same for ``versions/``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from clipperfs import layout
from clipperfs.names import ModelName
from clipperfs.permissions.acl import EXECUTE, READ, STICKY, WRITE, Acl, Principal
from clipperfs.rights import RIGHTS, Right

LOOK = READ | EXECUTE
ALL = READ | WRITE | EXECUTE


@dataclass(frozen=True, slots=True)
class Reach:
    """What one right means on one folder."""

    key: str
    bits: int
    default_bits: int | None
    """On what is created there later; ``None``: nothing is said of it."""
    inside_bits: int | None
    """On folders that lie inside already, at any depth, and to read files; ``None``: they are left alone."""
    is_sticky: bool = False


def model_folder(model: ModelName) -> str:
    """Return a model's folder."""
    return layout.subject_root(layout.model_subject(model))


def reaches(model: ModelName, right: Right | None) -> list[Reach]:
    """Return what a right means, folder by folder, in the order in which they are to be set. ``None``: no right."""
    top = model_folder(model)
    none = right is None
    look = 0 if none else LOOK
    may_publish, may_activate = right in ("publish", "activate"), right == "activate"
    bring, decide = (ALL if may_publish else look), (ALL if may_activate else look)
    found = [] if none else [Reach("", LOOK, None, None), Reach(layout.MODELS, LOOK, None, None)]
    found += [
        Reach(top, decide, look, None, is_sticky=True),
        Reach(f"{top}/versions", bring, decide, decide, is_sticky=True),
        Reach(f"{top}/signatures", bring, bring, bring),
        Reach(f"{top}/checks", decide, decide, decide),
        Reach(f"{top}/log", decide, look, look, is_sticky=True),
    ]
    if may_activate:
        found.append(Reach(layout.CHANGES, ALL, look, None, is_sticky=True))
    return found


_NEEDS: Mapping[Right, tuple[tuple[str, int], ...]] = {
    "read": (("", LOOK), ("versions", LOOK), ("log", LOOK)),
    "publish": (("versions", ALL), ("signatures", ALL)),
    "activate": (("log", ALL), ("checks", ALL)),
}
"""What each right needs, on folders below the model's, beyond the rights before it."""


def right_of(
    model: ModelName, principal: Principal, lists: Mapping[str, Acl], groups: tuple[str, ...] = ()
) -> Right | None:
    """Return the most that a principal may do with a model.

    Args:
        lists: the access list of each folder that is there, by key.
        groups: those of a user.
    """
    top = model_folder(model)
    if any(key in lists and not lists[key].of(principal, groups) & EXECUTE for key in ("", layout.MODELS)):
        return None
    best: Right | None = None
    for right in RIGHTS:
        for name, bits in _NEEDS[right]:
            acl = lists.get(f"{top}/{name}".rstrip("/")) or lists.get(top)  # what is not there is made in the model's
            if acl is None or acl.of(principal, groups) & bits != bits:
                return best
        best = right
    return best


def needs(model: ModelName, right: Right, lists: Mapping[str, Acl]) -> list[tuple[str, int]]:
    """Return what a right needs beyond the rights before it: keys of folders that are there, and permissions."""
    top = model_folder(model)
    found = [(key, LOOK) for key in ("", layout.MODELS) if right == "read" and key in lists]
    for name, bits in _NEEDS[right]:
        key = f"{top}/{name}".rstrip("/")
        found.append((key if key in lists else top, bits))
    return found


def principals_of(lists: Mapping[str, Acl]) -> list[Principal]:
    """Return everybody whom the lists name, everyone last."""
    found: set[Principal] = set()
    for key, acl in lists.items():
        if key.startswith(f"{layout.MODELS}/"):
            found |= {Principal("user", acl.owner), Principal("group", acl.group), *acl.named}
    return [*sorted(found), Principal("everyone")]


def changed(acl: Acl, reach: Reach, principal: Principal, *, is_inside: bool) -> Acl:
    """Return the access list of a file or folder after a principal was given a reach."""
    if not is_inside:
        after = acl.granting(principal, reach.bits, reach.default_bits)
        if reach.is_sticky and reach.bits & WRITE:
            after = replace(after, flags=after.flags | STICKY)
        return after
    assert reach.inside_bits is not None
    bits = reach.inside_bits
    if not acl.is_folder:  # files are never changed, only made and removed, which is a matter of their folder
        bits &= LOOK if acl.owner_bits & EXECUTE else READ
    return acl.granting(principal, bits, bits if acl.is_folder else None)
