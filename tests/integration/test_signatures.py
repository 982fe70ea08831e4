"""Signed versions and records: who vouches for what, and that nothing passes without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipperfs import Registry, layout
from clipperfs.digest import Digest
from clipperfs.documents import ModelState
from clipperfs.errors import ActivationRefused, Conflict, InvalidSetting, NotFound, StorageUnavailable, StoredDataError
from clipperfs.names import model_name
from clipperfs.signing.key import generate_key, load_signer, read_trusted_keys
from clipperfs.signing.trust import judge_publisher
from clipperfs.testing.fault_store import FaultStore
from tests.integration.conftest import write_version


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Return the file of a private key."""
    generate_key(tmp_path / "ci.pem")
    return tmp_path / "ci.pem"


def public(key: Path) -> str:
    return str(load_signer(key).public)


class Away(FaultStore):
    """A store that answers nothing."""

    def read(self, key: str, *, limit_bytes: int) -> bytes | None:
        raise StorageUnavailable("away")


@pytest.fixture
def guarded(registry: Registry, folder: Path, key: Path) -> Registry:
    """Return a registry whose model ``m`` has version 1, unsigned, and trusts the key."""
    registry.publish("m", "1", folder)
    registry.trust("m", "ci", public(key))
    registry.policy("m", {"require_signature": True})
    return registry


def refusal(registry: Registry, version: str = "1") -> str:
    with pytest.raises(ActivationRefused) as caught:
        registry.activate("m", version)
    assert [verdict["hook"] for verdict in caught.value.fields["verdicts"]] == ["publisher"]
    return caught.value.message


def envelope_path(registry: Registry, key: Path, version: str = "1") -> Path:
    digest = registry.show_version("m", version).manifest_digest
    path = registry.store.local_path(layout.signature(model_name("m"), Digest(digest or ""), load_signer(key).key_id))
    assert path is not None
    return path


def test_nothing_moves_to_a_version_that_no_publisher_signed(guarded: Registry, key: Path) -> None:
    assert "nobody of them has signed it" in refusal(guarded)
    with pytest.raises(ActivationRefused, match="publisher"):
        guarded.alias("m", "a", "1")
    with pytest.raises(ActivationRefused, match="publisher"):
        guarded.pin("m", "1")
    assert guarded.history("m")[0].op == "policy"
    signed = guarded.sign("m", "1", sign_key=key)
    assert signed.changed
    outcome = guarded.activate("m", "1")
    assert [verdict.hook for verdict in outcome.verdicts][:2] == ["publisher", "integrity"]
    assert outcome.record is not None
    assert outcome.record.requires == ["require-signature"]
    assert outcome.record.evidence.verdicts[0].reason == "signed by ci"
    guarded.alias("m", "a", "1")
    guarded.pin("m", "1")
    assert [one.word for one in guarded.signatures("m", "1")] == ["ci"]
    assert guarded.verify().ok


def test_code_of_an_unsigned_version_is_never_run(guarded: Registry, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    version = write_version(tmp_path / "evil", b"x", "wrapper: python\n")
    (version / "wrapper.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Wrapper: pass\n")
    guarded.policy("m", {"allow_code": True})
    guarded.publish("m", "2", version)
    refusal(guarded, "2")
    assert not trace.exists()


def test_rollback_needs_a_signature_too(registry: Registry, folder: Path, key: Path, tmp_path: Path) -> None:
    registry.publish("m", "1", folder, activate=True)
    registry.publish("m", "2", write_version(tmp_path / "2", b"two"))
    registry.sign("m", "2", sign_key=key)
    registry.trust("m", "ci", public(key))
    registry.activate("m", "2")
    registry.policy("m", {"require_signature": True})
    with pytest.raises(ActivationRefused, match="publisher"):
        registry.rollback("m")


def test_signing_again_changes_nothing(guarded: Registry, key: Path) -> None:
    guarded.sign("m", "1", sign_key=key)
    data = envelope_path(guarded, key).read_bytes()
    assert not guarded.sign("m", "1", sign_key=key).changed
    assert envelope_path(guarded, key).read_bytes() == data


def test_signature_of_another_thing_does_not_count(guarded: Registry, key: Path, tmp_path: Path) -> None:
    """An envelope that is valid elsewhere is copied to where another version's belongs."""
    guarded.publish("m", "2", write_version(tmp_path / "2", b"two"))
    guarded.publish("other", "1", tmp_path / "version", wrapper="noop")
    elsewhere = Registry.init(tmp_path / "elsewhere", cache_dir=tmp_path / "cache-2")
    elsewhere.publish("m", "1", tmp_path / "version")
    place = envelope_path(guarded, key)
    place.parent.mkdir(parents=True)
    seen = set()
    guarded.sign("m", "2", sign_key=key)
    seen.add(envelope_path(guarded, key, "2").read_bytes())
    for registry, model in ((guarded, "other"), (elsewhere, "m")):
        seen.add(Path(str(registry.store.local_path(registry.sign(model, "1", sign_key=key).key))).read_bytes())
    assert len(seen) == 3
    for data in seen:
        place.write_bytes(data)
        assert "its signature is about another" in refusal(guarded)
    place.unlink()
    guarded.sign("m", "1", sign_key=key)
    assert guarded.activate("m", "1").changed


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, b"[" * 70_000, b"x" * 200_000])
def test_malformed_signature_refuses(guarded: Registry, key: Path, content: bytes) -> None:
    place = envelope_path(guarded, key)
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    assert "ci: " in refusal(guarded)
    with pytest.raises((Conflict, StoredDataError), match=place.name):
        guarded.sign("m", "1", sign_key=key)


def test_key_that_nobody_trusts_does_not_count(guarded: Registry, tmp_path: Path) -> None:
    generate_key(tmp_path / "stranger.pem")
    guarded.sign("m", "1", sign_key=tmp_path / "stranger.pem")
    refusal(guarded)
    assert guarded.signatures("m", "1")[0].publisher is None


def test_untrusted_publisher_counts_no_longer_not_even_from_the_cache(guarded: Registry, key: Path) -> None:
    guarded.sign("m", "1", sign_key=key)
    guarded.run_hooks("m", "1")
    guarded.trust("m", "ci", None)
    assert "(none)" in refusal(guarded)
    with pytest.raises(NotFound, match="trusts no publisher ci"):
        guarded.trust("m", "ci", None)


def test_kept_signature_serves_while_the_registry_is_away(guarded: Registry, key: Path) -> None:
    guarded.sign("m", "1", sign_key=key)
    outcome = guarded.activate("m", "1")
    assert outcome.record is not None
    state: ModelState = outcome.record.state
    assert state.active is not None
    arguments = (model_name("m"), state.active.version, Digest(state.active.manifest), state.policy)
    workspace = guarded.workspace
    workspace.store = Away(workspace.store)
    verdict = judge_publisher(workspace, *arguments)  # type: ignore[arg-type]
    assert verdict is not None and verdict.outcome == "passed"
    for kept in (workspace.cache.root / "signatures").iterdir():
        kept.write_bytes(kept.read_bytes().replace(b"payload", b"paylaod"))
    with pytest.raises(StorageUnavailable):
        judge_publisher(workspace, *arguments)  # type: ignore[arg-type]


def test_policy_that_would_lock_out_what_is_in_use_is_told(registry: Registry, folder: Path, key: Path) -> None:
    told: list[str] = []
    registry.workspace.reporter.note = told.append  # type: ignore[assignment, method-assign]
    registry.publish("m", "1", folder, activate=True)
    registry.trust("m", "ci", public(key))
    registry.policy("m", {"require_signature": True})
    assert len(told) == 1
    assert "version 1 is in use without a signature" in told[0]
    report = registry.verify()
    assert [finding.subject for finding in report.findings] == ["m/1"]


def test_hosts_own_keys_win_over_the_policy(registry: Registry, folder: Path, key: Path, tmp_path: Path) -> None:
    """Who may write the log can drop the policy and trust himself; a host with keys of its own does not care."""
    generate_key(tmp_path / "thief.pem")
    registry.publish("m", "1", folder)
    registry.trust("m", "thief", public(tmp_path / "thief.pem"))
    registry.sign("m", "1", sign_key=tmp_path / "thief.pem")
    registry.policy("m", {"require_signature": False})
    host = Registry(registry.url, cache_dir=tmp_path / "host", trusted_keys={"ci": public(key)})
    assert "the trusted keys of this host (ci)" in refusal(host)
    nobody = Registry(registry.url, cache_dir=tmp_path / "host", trusted_keys={})
    assert "(none)" in refusal(nobody)
    registry.sign("m", "1", sign_key=key)
    assert host.activate("m", "1").changed


def test_publisher_with_a_key_signs_what_he_publishes_and_his_records(
    registry: Registry, folder: Path, key: Path, tmp_path: Path
) -> None:
    signing = Registry(registry.url, cache_dir=tmp_path / "cache", actor="ci@build", sign_key=key)
    registry.publish("m", "1", folder)
    registry.trust("m", "ci", public(key))
    signing.publish("m", "2", write_version(tmp_path / "2", b"two"))
    signing.policy("m", {"require_signature": True})
    assert signing.activate("m", "2").changed
    records = registry.history("m")
    words = registry.attributions("m", records)
    assert [words[record.seq] for record in records] == ["signed ci", "signed ci", "signed ci", "claimed", "claimed"]
    registry.policy("m", {"replicas": 2})
    assert registry.attributions("m", registry.history("m"))[6] == "claimed"
    assert registry.verify().ok


def test_verify_names_a_version_in_use_once(registry: Registry, folder: Path) -> None:
    registry.publish("m", "1", folder, activate=True)
    registry.alias("m", "stable", "1")
    registry.policy("m", {"require_signature": True})
    said = [finding.message for finding in registry.verify("m").findings]
    assert len(said) == 1 and "it is in use, but" in said[0]


def test_forged_record_is_found_by_verify_and_named(registry: Registry, folder: Path, key: Path) -> None:
    registry.workspace.sign_key = key
    registry.trust("m", "ci", public(key))
    path = registry.store.local_path(layout.slot(layout.model_subject("m"), 1))
    assert path is not None
    data = path.read_bytes()
    path.write_bytes(data.replace(b"test@here", b"boss@here"))
    report = registry.verify()
    assert [finding.message.partition(":")[0] for finding in report.findings] == [
        "its signature is not that of its bytes"
    ]
    assert registry.attributions("m", registry.history("m")) == {1: "BAD SIGNATURE"}


def test_foreign_spelling_and_unknown_fields_are_signed_as_they_are(registry: Registry, key: Path) -> None:
    """Another writer may spell a record in another way: what is signed are its bytes."""
    from clipperfs.documents.signature import RECORD_TYPE, pre_authentication

    signer = load_signer(key)
    tree = {
        "schema": "clipperfs.record.v1", "registry_id": registry.describe().registry_id, "model": "m", "seq": 1,
        "prev": "0" * 64, "nonce": "n" * 20, "time": "2026-01-01T00:00:00Z", "actor": "sh", "op": "policy",
        "state": {"policy": {"publishers": {"ci": public(key)}, "grace_s": 1e2}, "future": 1.50},
        "signature": {"key_id": signer.key_id, "value": ""},
    }  # fmt: skip
    bare = json.dumps(tree).replace('"future": 1.5', '"future":  1.500e0').encode()
    value = signer.sign(pre_authentication(RECORD_TYPE, bare))
    data = bare.replace(b'"value": ""', b'"value": "' + value.encode() + b'"')
    assert registry.store.create(layout.slot(layout.model_subject("m"), 1), data)
    assert registry.attributions("m", registry.history("m")) == {1: "signed ci"}
    assert registry.policy("m", {"replicas": 2}).changed
    assert registry.history("m")[0].state.model_extra == {"future": 1.5}
    assert registry.verify().ok


def test_key_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "k.pem"
    old = os.umask(0)
    try:
        generate_key(path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InvalidSetting, match="never overwritten"):
        generate_key(path)
    path.chmod(0o604)
    with pytest.raises(InvalidSetting, match="read by everybody"):
        load_signer(path)
    path.chmod(0o600)
    path.write_text("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")
    with pytest.raises(InvalidSetting, match="holds no private key that can be used"):
        load_signer(path)


def test_key_that_cannot_be_used_stops_publishing_before_anything_is_written(
    registry: Registry, folder: Path, tmp_path: Path
) -> None:
    signing = Registry(registry.url, cache_dir=tmp_path / "cache", sign_key=tmp_path / "absent.pem")
    with pytest.raises(InvalidSetting, match=r"absent\.pem"):
        signing.publish("m", "1", folder)
    assert registry.models() == []


def test_file_of_trusted_keys(tmp_path: Path, key: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\nci {public(key)}\n")
    assert read_trusted_keys(path) == {"ci": public(key)}
    for text in ("ci", "ci a b", f"ci {public(key)}\nci {public(key)}", "Ci x"):
        path.write_text(text)
        with pytest.raises(InvalidSetting, match="line"):
            read_trusted_keys(path)
    path.chmod(0o666)
    with pytest.raises(InvalidSetting, match="everybody may write"):
        read_trusted_keys(path)


def test_without_the_library_everything_signed_is_refused(guarded: Registry, key: Path) -> None:
    guarded.sign("m", "1", sign_key=key)
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from clipperfs import Registry; from clipperfs.errors import ActivationRefused\n"
        f"registry = Registry({guarded.url!r}, cache_dir={str(guarded.cache.root)!r})\n"
        "try: registry.activate('m', '1')\n"
        "except ActivationRefused as error: print(error.message, error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "cryptography, which is not installed here" in done.stdout
    assert "clipperfs[signing]" in done.stdout
