"""A daemon under ``require_signature``, or with trusted keys of its own: what nobody vouches for is never loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipperfs import Registry
from clipperfs.documents import Pointer, Record
from clipperfs.errors import ActivationRefused
from clipperfs.ledger import Draft, Head
from clipperfs.signing.key import generate_key, load_signer
from tests.e2e.daemon_rig import Load, Rig, wait_for


@pytest.fixture
def key(rig: Rig) -> Path:
    """Return a publisher's private key."""
    generate_key(rig.place / "ci.pem")
    return rig.place / "ci.pem"


def public(key: Path) -> str:
    return str(load_signer(key).public)


def point_by_force(registry: Registry, version: str) -> None:
    """Write the record that makes a version active, as somebody does who may write the log and asks nobody."""
    digest = registry.show_version("m", version).manifest_digest

    def decide(head: Head[Record] | None) -> Draft:
        assert head is not None and digest is not None
        state = head.record.state  # type: ignore[attr-defined]
        pointer = Pointer(version=version, manifest=digest, seq=head.seq + 1)
        return Draft("activate", state.model_copy(update={"active": pointer, "previous": state.active}))

    registry.workspace.model_ledger("m").append(decide, actor="intruder")  # type: ignore[arg-type]


def test_daemon_keeps_the_old_version_when_the_new_one_is_not_signed(rig: Rig, key: Path) -> None:
    rig.publish("1")
    rig.registry.trust("m", "ci", public(key))
    rig.registry.sign("m", "1", sign_key=key)
    rig.registry.policy("m", {"require_signature": True})
    with rig.running():
        rig.publish("2", activate=False)
        with pytest.raises(ActivationRefused, match="publisher"):
            rig.registry.activate("m", "2")
        with Load(rig, connections=2) as load:
            point_by_force(rig.registry, "2")
            wait_for(lambda: rig.versions().get("2", {}).get("state") in ("failed", "quarantined"))
        assert load.failures == []
        assert set(load.answers) == {"1"}
        assert "publisher" in rig.versions()["2"]["reason"]
        rig.registry.sign("m", "2", sign_key=key)
        rig.daemon.reload("m")
        wait_for(rig.serves("2"))


def test_daemon_with_keys_of_its_own_does_not_care_what_the_policy_says(rig: Rig, key: Path) -> None:
    rig.publish("1")
    rig.registry.sign("m", "1", sign_key=key)
    rig.publish("2", activate=False)
    generate_key(rig.place / "thief.pem")
    with rig.running(trusted_keys={"ci": public(key)}):
        assert rig.ask()["version"] == "1"
        rig.registry.trust("m", "thief", public(rig.place / "thief.pem"))
        rig.registry.sign("m", "2", sign_key=rig.place / "thief.pem")
        rig.registry.activate("m", "2")  # on a host without keys of its own
        wait_for(lambda: rig.versions().get("2", {}).get("state") in ("failed", "quarantined"))
        assert rig.ask()["version"] == "1"


def test_daemon_starts_from_its_cache_while_the_registry_is_away(rig: Rig, key: Path) -> None:
    rig.publish("1")
    rig.registry.sign("m", "1", sign_key=key)
    rig.registry.trust("m", "ci", public(key))
    rig.registry.policy("m", {"require_signature": True})
    with rig.running():
        assert rig.ask()["version"] == "1"
    (rig.place / "registry").rename(rig.place / "away")
    with rig.running():
        assert rig.ask()["version"] == "1"
