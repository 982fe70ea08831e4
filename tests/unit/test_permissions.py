"""Access lists, what each right reaches, who lacks what, and the policy for S3: all of it pure."""

from __future__ import annotations

import itertools
import json
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipperfs.errors import InvalidSetting, StorageDenied
from clipperfs.names import ModelName
from clipperfs.permissions.acl import EVERYONE, Acl, Principal, parse_principal, spell
from clipperfs.permissions.aws import policy_document
from clipperfs.permissions.bucket import statements_about
from clipperfs.permissions.plan import changed, reaches, right_of
from clipperfs.rights import RIGHTS, SETTING_RIGHTS, needed_right
from clipperfs.store.oserror import name_right

M = ModelName("m")
ANA, OPS = Principal("user", "ana"), Principal("group", "ops")
BITS = st.integers(0, 7)
FOLDER = Acl("root", "root", 7, 5, 5)


@pytest.mark.parametrize(
    ("text", "principal"),
    [("ops", OPS), ("group:ops", OPS), ("user:ana", ANA), ("everyone", EVERYONE)],
)
def test_principal_is_read_as_it_is_written(text: str, principal: Principal) -> None:
    assert parse_principal(text) == principal


@pytest.mark.parametrize("text", ["", "user:", "robot:x", "a,b", "user:a:b", "user:a\nb"])
def test_nobody_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting):
        parse_principal(text)


def test_check_follows_the_order_of_posix() -> None:
    acl = Acl("ana", "staff", 4, 6, 1, {Principal("user", "bo"): 7, OPS: 7}, mask=5)
    assert acl.of_user("ana", ["staff", "ops"]) == 4  # the owner's entry alone
    assert acl.of_user("bo", ["ops"]) == 5  # his own entry, within the mask
    assert acl.of_user("cy", ["staff"]) == 4
    assert acl.of_user("cy", ["staff", "ops"]) == 5
    assert acl.of_user("cy", []) == 1
    assert spell(5) == "r-x"


@given(group=BITS, other=BITS, held=BITS, mask=BITS, bits=BITS)
def test_grant_gives_exactly_that_and_nobody_else_more(group: int, other: int, held: int, mask: int, bits: int) -> None:
    acl = Acl("root", "root", 7, group, other, {OPS: held}, mask=mask)
    after = acl.granting(ANA, bits, None)
    assert after.of(ANA) == (bits or other)
    for who in (OPS, EVERYONE, Principal("group", "root"), Principal("user", "root"), Principal("user", "someone")):
        assert after.of(who) == acl.of(who)
    back = after.granting(ANA, 0, None)
    assert all(back.of(who) == acl.of(who) for who in (ANA, OPS, EVERYONE, Principal("group", "root")))


def lists_after(*grants: tuple[Principal, Any]) -> dict[str, Acl]:
    keys = ["", "models", "models/m", *(f"models/m/{name}" for name in ("versions", "signatures", "checks", "log"))]
    private = {key: FOLDER.granting(EVERYONE, 0, None).granting(Principal("group", "root"), 0, None) for key in keys}
    lists = private | {"changes": FOLDER}
    for who, right in grants:
        for reach in reaches(M, right):
            lists[reach.key] = changed(lists[reach.key], reach, who, is_inside=False)
    return lists


@pytest.mark.parametrize("right", RIGHTS)
@pytest.mark.parametrize("who", [ANA, OPS], ids=str)
def test_granted_right_is_the_one_that_is_found(who: Principal, right: Any) -> None:
    lists = lists_after((who, right))
    assert right_of(M, who, lists) == right
    assert right_of(M, Principal("user", "stranger"), lists) is None
    assert right_of(M, who, lists_after((who, right), (who, None))) is None


def test_every_way_from_one_right_to_another_ends_in_the_same_lists() -> None:
    for before, after in itertools.product([None, *RIGHTS], [None, *RIGHTS]):
        by_a_detour, straight = lists_after((ANA, before), (ANA, after)), lists_after((ANA, after))
        for key in straight:
            if key.startswith("models/m"):
                assert by_a_detour[key].named == straight[key].named, (before, after, key)
                assert by_a_detour[key].default == straight[key].default, (before, after, key)


def test_publisher_reaches_neither_the_log_nor_others_versions() -> None:
    lists = lists_after((ANA, "publish"), (OPS, "publish"))
    for name in ("log", "checks"):
        assert not lists[f"models/m/{name}"].of(ANA) & 2
    assert not lists["models/m"].of(ANA) & 2
    versions = lists["models/m/versions"]
    assert versions.flags & 0o1000 and versions.default is not None and versions.default[OPS] == 5


def test_activators_cannot_change_each_others_records() -> None:
    log = lists_after((ANA, "activate"), (OPS, "activate"))["models/m/log"]
    assert log.of(ANA) == 7 and log.flags & 0o1000
    assert log.default is not None and log.default[OPS] == 5


@pytest.mark.parametrize(
    ("action", "key", "needed"),
    [
        ("create", "models/m/log/00000000000000000001.json", ("activate", "m")),
        ("create", "models/m/checks/a/b.json", ("activate", "m")),
        ("write", "models/m/active.json", ("activate", "m")),
        ("copy to", "models/m/versions/.staging-1/a", ("publish", "m")),
        ("create", "models/m/versions/1/manifest.json", ("publish", "m")),
        ("create", "models/m/signatures/a/b.json", ("publish", "m")),
        ("read", "models/m/log/00000000000000000001.json", ("read", "m")),
        ("list", "models/m/versions", ("read", "m")),
        ("delete", "models/m/log/00000000000000000001.json", None),
        ("create", "changes/1", None),
        ("create", "models", None),
        ("lock", "/home/me/.cache/models/x", None),
    ],
)
def test_call_needs_the_right(action: str, key: str, needed: Any) -> None:
    assert needed_right(action, key) == needed


def test_denial_names_right_model_and_key_and_what_to_do() -> None:
    error = StorageDenied("cannot create models/m/log/1.json: no", hint="x", errno="EACCES")
    name_right(error, "create", "models/m/log/1.json")
    assert error.message.startswith("you lack the right to activate model m: cannot create models/m/log/1.json")
    assert "clipperfs permissions m" in (error.hint or "")
    assert error.fields == {"key": "models/m/log/1.json", "errno": "EACCES", "right": "activate", "model": "m"}
    before = str(error)
    assert str(name_right(error, "create", "models/m/log/1.json")) == before


def test_who_may_not_set_rights_is_told_that_the_owner_may() -> None:
    error = name_right(StorageDenied("cannot change: no", hint="x"), SETTING_RIGHTS, "models/m")
    assert error.message.startswith("only the owner of its files may set the rights on model m: ")
    assert "right" not in error.fields and "root" in (error.hint or "")
    before = str(error)
    assert str(name_right(error, SETTING_RIGHTS, "models/m")) == before


BUCKET = "arn:aws:s3:::bucket/"


def allows(document: dict[str, Any], action: str, key: str, *, conditional: bool = False) -> bool:
    """Evaluate a policy as IAM does, for the conditions that clipperfs writes."""
    allowed = False
    for statement in document["Statement"]:
        if action not in statement["Action"] or not any(
            fnmatchcase(BUCKET + key, one) for one in statement["Resource"]
        ):
            continue
        condition = statement.get("Condition", {})
        if condition and condition != {"Null": {"s3:if-none-match": "true"}}:
            raise AssertionError(condition)
        if condition and conditional:
            continue
        if statement["Effect"] == "Deny":
            return False
        allowed = True
    return allowed


@pytest.mark.parametrize("prefix", ["", "team/models"])
@pytest.mark.parametrize("principal", [None, "arn:aws:iam::111122223333:role/ci"])
def test_policy_gives_its_right_and_no_more(prefix: str, principal: str | None) -> None:
    base = f"{prefix}/" if prefix else ""
    top, record = f"{base}models/m", f"{base}models/m/log/00000000000000000001.json"
    for right in RIGHTS:
        document = json.loads(json.dumps(policy_document("bucket", prefix, M, right, principal)))
        level = RIGHTS.index(right)
        assert document["Version"] == "2012-10-17"
        assert len({each["Sid"] for each in document["Statement"]}) == len(document["Statement"])
        for each in document["Statement"]:
            assert each.get("Principal") == (
                None if principal is None else "*" if each["Effect"] == "Deny" else {"AWS": principal}
            )
        assert allows(document, "s3:GetObject", record)
        assert not allows(document, "s3:GetObject", f"{base}models/other/log/1.json")
        assert allows(document, "s3:PutObject", f"{top}/versions/1/weights.bin") == (level >= 1)
        assert allows(document, "s3:PutObject", f"{top}/versions/1/manifest.json", conditional=True) == (level >= 1)
        assert not allows(document, "s3:PutObject", f"{top}/versions/1/manifest.json")
        assert allows(document, "s3:DeleteObject", f"{top}/versions/1/.claim-publishing") == (level >= 1)
        assert allows(document, "s3:DeleteObject", f"{top}/versions/1/weights.bin") == (level >= 2)
        assert allows(document, "s3:PutObject", record, conditional=True) == (level >= 2)
        assert allows(document, "s3:PutObject", f"{top}/active.json") == (level >= 2)
        for forbidden in ("s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion"):
            assert not allows(document, forbidden, record)
        assert not allows(document, "s3:DeleteObject", f"{top}/versions/1/manifest.json")
        assert not allows(document, "s3:PutObject", f"{base}models/other/log/1.json", conditional=True)
        assert not allows(document, "s3:PutObject", f"{base}registry.json", conditional=True)


def test_principal_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(InvalidSetting):
        policy_document("bucket", "", M, "read", "a b")


def test_statements_about_a_model_are_found_in_a_policy() -> None:
    ours = policy_document("bucket", "team", M, "activate", "*")
    assert len(statements_about(json.dumps(ours), "bucket", "team/", M)) == 7  # all but List, which is about the bucket
    other = policy_document("bucket", "team", ModelName("other"), "activate", "*")
    told = [each["Sid"] for each in statements_about(json.dumps(other), "bucket", "team/", M)]
    assert told == []
    for document in (None, "", "[]", "{", '{"Statement": "x"}', '{"Statement": [1]}'):
        assert statements_about(document, "bucket", "", M) == []
