"""Show, grant and revoke the rights on a model, on whatever its registry lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from clipperfs import layout
from clipperfs.errors import InvalidSetting
from clipperfs.names import ModelName
from clipperfs.permissions.acl import EVERYONE, Acl, Principal, spell
from clipperfs.permissions.aws import Dialect, policy_document
from clipperfs.permissions.plan import Reach, changed, model_folder, needs, principals_of, reaches, right_of
from clipperfs.rights import RIGHTS, Right
from clipperfs.workspace import Workspace


class Lists(Protocol):
    """The access lists of one registry. ``key`` is relative to its root; the empty key is the root."""

    def read(self, key: str) -> Acl | None: ...
    def write(self, key: str, acl: Acl) -> None: ...
    def make_folder(self, key: str) -> None: ...
    def inside(self, key: str) -> Iterator[str]: ...
    def me(self) -> tuple[Principal, tuple[str, ...]]: ...
    def groups_of(self, user: str) -> tuple[str, ...] | None: ...
    def may(self, key: str, bits: int) -> bool | None: ...


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody, and the most that they may do with a model."""

    who: str
    right: Right | None


@dataclass(slots=True)
class Permissions:
    """What is known of the rights on a model."""

    model: str
    store_class: str
    is_known: bool
    """Whether the storage gives an answer. If not, ``notes`` say what to do."""
    me: Holder | None = None
    holders: list[Holder] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    statements: list[dict[str, object]] = field(default_factory=list)
    """On S3: the statements of the bucket's policy that may be about the model."""


@dataclass(frozen=True, slots=True)
class Change:
    """One file or folder whose permissions changed, or would."""

    key: str
    was: str
    now: str


def lists_of(workspace: Workspace) -> Lists | None:
    """Return the access lists of the registry's storage, or ``None`` when it has none that can be read."""
    store = workspace.store
    root = store.local_path(layout.REGISTRY)
    if root is not None:
        from clipperfs.permissions.posix import PosixLists

        return PosixLists(root.parent)
    if store.store_class == "hdfs":
        from clipperfs.permissions.hdfs import HdfsLists
        from clipperfs.store.hdfs import HdfsStore
        from clipperfs.store.hdfs_client import HdfsAclClient

        if isinstance(store, HdfsStore) and isinstance(store.client, HdfsAclClient):
            return HdfsLists(store, store.client)
    return None


def show_permissions(workspace: Workspace, model: ModelName) -> Permissions:
    """Return who may read, publish and activate a model. Raises NotFound (no registry), StorageError."""
    workspace.document()
    lists = lists_of(workspace)
    if lists is None:
        return _elsewhere(workspace, model)
    top = model_folder(model)
    keys = ["", layout.MODELS, top, *(f"{top}/{name}" for name in ("versions", "signatures", "checks", "log"))]
    found = {key: acl for key in keys if (acl := lists.read(key)) is not None}
    report = Permissions(model, workspace.store.store_class, is_known=True)
    user, groups = lists.me()
    if top not in found:
        report.notes.append(
            f"there is no model {model} yet: the rights of {layout.MODELS} decide; a grant makes its folders"
        )
        found[top] = found.get(layout.MODELS, found[""])
    report.me = Holder(str(user), _right_of_me(lists, model, user, groups, found))
    for who in principals_of({**found, f"{top}/": found[top]}):
        known = lists.groups_of(who.name) if who.kind == "user" else ()
        right = right_of(model, who, found, known or ())
        if who == EVERYONE or right is not None:
            report.holders.append(Holder(str(who), right))
    if workspace.store.store_class == "hdfs":
        report.notes.append("HDFS: its superuser may do everything, and only the NameNode knows who is in which group")
    elif user.name == "root":
        report.notes.append("you are root, whom permissions do not hold")
    return report


def set_right(
    workspace: Workspace, model: ModelName, who: Principal, right: Right | None, *, dry_run: bool = False
) -> list[Change]:
    """Give somebody exactly a right on a model (``None``: none at all); return what changed. Idempotent.

    Folders of the model that are not there are made, so that the rights on a new model can be set before its first
    version. Not atomic: after an error, run it again.

    Raises:
        InvalidSetting: the storage cannot express it; the message says what can be done instead.
        StorageDenied: only the owner of the files may.
    """
    workspace.document()
    lists = lists_of(workspace)
    if lists is None:
        notes = _elsewhere(workspace, model).notes
        raise InvalidSetting(f"permissions cannot be set from here: {notes[0]}", hint=notes[-1])
    if who == EVERYONE and right in ("publish", "activate"):
        raise InvalidSetting(
            f"everyone may not {right}: nobody would answer for what is served",
            hint="make a group, and grant it to that",
        )
    done: list[Change] = []
    for reach in reaches(model, right):
        acl = lists.read(reach.key)
        if acl is None:
            if right is None:
                continue
            if not dry_run:
                lists.make_folder(reach.key)
                acl = lists.read(reach.key)
            if acl is None:
                done.append(Change(reach.key, "absent", f"{who} {spell(reach.bits)}"))
                continue
        if reach.inside_bits is not None:
            for key in list(lists.inside(reach.key)):
                _change(lists, key, reach, who, done, is_inside=True, dry_run=dry_run)
        _change(lists, reach.key, reach, who, done, is_inside=False, dry_run=dry_run)
    document = Reach(layout.REGISTRY, 4, None, None)
    if right is not None:
        _change(lists, layout.REGISTRY, document, who, done, is_inside=False, dry_run=dry_run)
    return done


def grant(
    workspace: Workspace, model: ModelName, who: Principal, right: Right, *, dry_run: bool = False
) -> list[Change]:
    """Let somebody have at least a right. Who has more keeps it. See :func:`set_right`."""
    held = held_by(workspace, model, who)
    wanted = right if held is None or RIGHTS.index(held) < RIGHTS.index(right) else held
    return set_right(workspace, model, who, wanted, dry_run=dry_run)


def revoke(
    workspace: Workspace, model: ModelName, who: Principal, right: Right, *, dry_run: bool = False
) -> list[Change]:
    """Take a right away, and those that include it. See :func:`set_right`."""
    held = held_by(workspace, model, who)
    lower = RIGHTS[RIGHTS.index(right) - 1] if right != "read" else None
    if held is not None and RIGHTS.index(held) < RIGHTS.index(right):
        return []
    return set_right(workspace, model, who, lower, dry_run=dry_run)


def held_by(workspace: Workspace, model: ModelName, who: Principal) -> Right | None:
    """Return the most that somebody may do with a model, as the lists say; ``None`` too where there are no lists."""
    lists = lists_of(workspace)
    if lists is None:
        return None
    top = model_folder(model)
    keys = ["", layout.MODELS, top, *(f"{top}/{name}" for name in ("versions", "signatures", "checks", "log"))]
    found = {key: acl for key in keys if (acl := lists.read(key)) is not None}
    groups = lists.groups_of(who.name) if who.kind == "user" else ()
    return right_of(model, who, found, groups or ())


def s3_policy(
    workspace: Workspace, model: ModelName, right: Right, principal: str | None, dialect: Dialect
) -> dict[str, Any]:
    """Return the policy document for a registry in a bucket. Does no I/O. Raises InvalidSetting."""
    scheme, _, place = workspace.store.url.partition("://")
    if scheme != "s3":
        raise InvalidSetting(
            f"the registry at {workspace.store.url} is not in a bucket of S3",
            hint=f"'clipperfs permissions {model} --grant {right} group:NAME' sets rights on local disks and HDFS",
        )
    bucket, _, prefix = place.partition("/")
    return policy_document(bucket, prefix, model, right, principal, dialect)


def _change(
    lists: Lists, key: str, reach: Reach, who: Principal, done: list[Change], *, is_inside: bool, dry_run: bool
) -> None:
    acl = lists.read(key)
    if acl is None:
        return
    after = changed(acl, reach, who, is_inside=is_inside)
    if after == acl:
        return
    if (
        acl.of(who) != after.of(who)
        or acl.default != after.default
        or acl.flags != after.flags
        or acl.named != after.named
    ):
        if not dry_run:
            lists.write(key, after)
        done.append(Change(key or ".", _spelled(acl, who), _spelled(after, who)))


def _spelled(acl: Acl, who: Principal) -> str:
    words = [spell(acl.of(who))]
    later = (acl.default or {}).get("other" if who == EVERYONE else who)
    words += [f"(new files {spell(later)})"] if later is not None else []
    words += ["sticky"] if acl.flags & 0o1000 else []
    return " ".join(words)


def _right_of_me(
    lists: Lists, model: ModelName, user: Principal, groups: tuple[str, ...], found: dict[str, Acl]
) -> Right | None:
    best: Right | None = None
    for right in RIGHTS:
        answers = [lists.may(_nearest(lists, key), bits) for key, bits in needs(model, right, found)]
        if None in answers:
            return right_of(model, user, found, groups)
        if not all(answers):
            break
        best = right
    return best


def _nearest(lists: Lists, key: str) -> str:
    """Return a folder, or the nearest one above it that is there: in that it would have to be made."""
    while key and lists.read(key) is None:
        key = key.rpartition("/")[0]
    return key


def _elsewhere(workspace: Workspace, model: ModelName) -> Permissions:
    kind = workspace.store.store_class
    report = Permissions(model, kind, is_known=False)
    if kind == "s3":
        from clipperfs.permissions.bucket import describe_bucket

        describe_bucket(workspace, model, report)
    else:
        report.notes += [
            f"storage of the class {kind} does not say who may do what",
            "set the rights with the storage's own tools; docs/permissions.md says which names each right needs",
        ]
    return report
