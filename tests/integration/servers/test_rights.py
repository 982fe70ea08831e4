"""Rights as real servers enforce them: access lists of HDFS, and the printed policy on S3 servers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipperfs import Registry, layout
from clipperfs.documents import canonical_bytes
from clipperfs.errors import StorageDenied
from clipperfs.store.s3 import S3Store
from tests.integration.conftest import write_version
from tests.integration.servers.ceph import Ceph
from tests.integration.servers.conftest import S3Server
from tests.integration.servers.hdfs import Hdfs

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

As = Callable[[str], Registry]


@pytest.fixture(params=["rpc", "web"])
def as_user(hdfs: Hdfs, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> As:
    """Return what opens one registry as a user; ``root`` is HDFS's superuser, and owns it."""
    address = hdfs.url if request.param == "rpc" else hdfs.web_url
    if address is None:
        pytest.skip(hdfs.no_web)
    url = f"{address}/rights/{secrets.token_hex(6)}"

    def open_as(user: str) -> Registry:
        monkeypatch.setenv("HADOOP_USER_NAME", user)
        if user == "root":
            return Registry.init(url, cache_dir=tmp_path / "cache", actor=user, probe="skip")
        return Registry(url, cache_dir=tmp_path / "cache", actor=user)

    return open_as


def test_hdfs_holds_each_to_the_right_that_was_granted(as_user: As, tmp_path: Path) -> None:
    owner = as_user("root")
    owner.grant("m", "publish", "user:bo")
    owner.grant("m", "activate", "user:cy")
    folder = write_version(tmp_path / "1", b"one")
    bo = as_user("bo")
    bo.bring("m", "1", folder)
    with pytest.raises(StorageDenied, match="you lack the right to activate model m") as caught:
        bo.policy("m", {"replicas": 2})
    assert caught.value.fields["right"] == "activate"
    cy = as_user("cy")
    cy.seal("m", "1")
    cy.policy("m", {"replicas": 2})
    owner = as_user("root")
    rights = {holder.who: holder.right for holder in owner.permissions("m").holders}
    assert (rights["user:bo"], rights["user:cy"]) == ("publish", "activate")
    owner.policy("m", {"replicas": 3})
    cy = as_user("cy")
    record = layout.slot(layout.model_subject("m"), 3)
    with pytest.raises(
        StorageDenied, match="sticky"
    ):  # it does not keep an overwriting rename away: docs/permissions.md
        cy.store.delete(record)
    stranger = as_user("di")
    with pytest.raises(StorageDenied, match="publish model m"):
        stranger.bring("m", "2", write_version(tmp_path / "2", b"two"))
    with pytest.raises(StorageDenied):
        stranger.grant("m", "publish", "user:di")
    owner = as_user("root")
    owner.revoke("m", "read", "everyone")
    with pytest.raises(StorageDenied, match="you lack the right to read model m"):
        as_user("di").show("m")
    assert as_user("bo").show("m").model == "m"
    as_user("root").revoke("m", "read", "user:bo")
    with pytest.raises(StorageDenied):
        as_user("bo").show("m")
    assert as_user("root").verify().ok


def put_policy(store: S3Store, document: dict[str, Any]) -> None:
    async def put(client: Any) -> None:
        await client.put_bucket_policy(Bucket=store.bucket, Policy=json.dumps(document))

    store.requests.call("set the policy of", store.bucket, put)


def test_printed_policy_is_taken_and_shown_again(server: S3Server, prefix: str, tmp_path: Path) -> None:
    owner = registry_on(server.store(prefix), tmp_path, "owner")
    principal = "arn:aws:iam:::user/bo" if server.name == "rgw" else "arn:aws:iam::123456789012:user/bo"
    document = owner.s3_policy("m", "activate", principal=principal)
    put_policy(server.store(prefix), document)
    told = owner.permissions("m")
    assert {str(each["Sid"]) for each in told.statements} == {
        "Read", "Publish", "EndAPublish", "Activate", "Collect", "OnlyCreate", "NeverDelete",
    }  # fmt: skip


def registry_on(store: S3Store, tmp_path: Path, actor: str) -> Registry:
    registry = Registry("memory://stands-in", cache_dir=tmp_path / f"cache-{actor}", actor=actor)
    registry.workspace.store = store
    if actor == "owner":
        from clipperfs.documents import RegistryDocument, utc_now

        document = RegistryDocument(
            registry_id=secrets.token_hex(8), created=utc_now(), created_by="owner", store_class="s3"
        )
        assert store.create(layout.REGISTRY, canonical_bytes(document))
    return registry


def test_ceph_holds_each_to_the_right_of_the_printed_policy(
    ceph: Ceph, rgw: S3Server, prefix: str, tmp_path: Path
) -> None:
    owner = registry_on(rgw.store(prefix), tmp_path, "owner")
    statements: list[dict[str, Any]] = []
    users = {}
    for name, right in (("bo", "publish"), ("cy", "activate")):
        user = f"{name}-{secrets.token_hex(3)}"
        access, secret = ceph.add_user(user)
        principal = f"arn:aws:iam:::user/{user}"
        document = owner.s3_policy("m", right, principal=principal, dialect="ceph")  # type: ignore[arg-type]
        statements += [{**each, "Sid": f"{each['Sid']}{right}"} for each in document["Statement"]]
        store = S3Store(
            rgw.bucket, prefix, endpoint_url=rgw.addresses[0], key=access, secret=secret,
            client_kwargs={"region_name": "us-east-1"},
        )  # fmt: skip
        users[name] = registry_on(store, tmp_path, name)
    put_policy(rgw.store(prefix), {"Version": "2012-10-17", "Statement": statements})
    bo, cy = users["bo"], users["cy"]
    bo.bring("m", "1", write_version(tmp_path / "1", b"one"))
    with pytest.raises(StorageDenied, match="you lack the right to activate model m"):
        bo.policy("m", {"replicas": 2})
    cy.seal("m", "1")
    assert cy.policy("m", {"replicas": 2}).changed
    record = layout.slot(layout.model_subject("m"), 1)
    for registry in (bo, cy, owner):
        with pytest.raises(StorageDenied):
            registry.store.delete(record)
    with pytest.raises(StorageDenied):
        cy.store.create("models/other/log/00000000000000000001.json", b"x")
    assert bo.verify().ok
    with pytest.raises(StorageDenied):  # objects belong to who wrote them: the bucket's owner needs a statement, too
        owner.verify()
    cy.store.replace("models/m/log/.probe", b"x")
    cy.store.replace("models/m/log/.probe", b"overwritten")  # the gateway cannot forbid it: docs/permissions.md


def test_ceph_denies_every_record_under_a_condition_that_it_does_not_know(
    ceph: Ceph, rgw: S3Server, prefix: str, tmp_path: Path
) -> None:
    """So the policy for AWS is safe there, and useless: hence a dialect of its own."""
    owner = registry_on(rgw.store(prefix), tmp_path, "owner")
    put_policy(rgw.store(prefix), owner.s3_policy("m", "activate", principal="arn:aws:iam:::user/ana"))
    with pytest.raises(StorageDenied):
        owner.policy("m", {"replicas": 2})
