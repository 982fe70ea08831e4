"""The verbs about signatures: vouch for a version, see who has, and say of records who wrote them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from clipperfs.activate import recorded_digest
from clipperfs.adopt import require_bytes, require_complete
from clipperfs.digest import Digest
from clipperfs.documents import ModelRecord, ModelState
from clipperfs.errors import DamagedVersion, InvalidSetting
from clipperfs.names import ModelName, VersionName
from clipperfs.signing.key import load_signer
from clipperfs.signing.record import CLAIMED, attribute
from clipperfs.signing.trust import known_keys
from clipperfs.signing.version import Claim, read_signatures, sign_version
from clipperfs.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Signed:
    """What signing did."""

    model: str
    version: str
    manifest_digest: str
    key_id: str
    public_key: str
    key: str
    """Where the signature lies in the registry."""
    changed: bool


@dataclass(frozen=True, slots=True)
class SignatureView:
    """A signature that lies beside a version."""

    key_id: str
    publisher: str | None
    """Who it is, where the policy or this host knows the key. Only then is anything said of its validity."""
    problem: str | None
    """Why it does not count; ``None``: it is valid, or nobody here knows the key."""

    @property
    def word(self) -> str:
        """Return one word or two for people."""
        if self.publisher is None:
            return f"an unknown key {self.key_id[:12]}"
        return self.publisher if self.problem is None else f"NOT {self.publisher} ({self.problem})"


def sign(
    workspace: Workspace, model: ModelName, version: VersionName, sign_key: str | os.PathLike[str] | None
) -> Signed:
    """Put a signature beside a version, after comparing every file with the manifest. Idempotent.

    Raises:
        InvalidSetting: there is no key, or it cannot be used.
        NotFound, IncompleteVersion, DamagedVersion: there is no such version, or not all of it, or not these bytes.
        Conflict: something else lies where the signature belongs.
        StorageError: it could not be written.
    """
    signer = load_signer(sign_key) if sign_key is not None else workspace.signer
    if signer is None:
        raise InvalidSetting(
            "which key signs?",
            hint="give --key FILE, or set CLIPPERFS_SIGN_KEY; 'clipperfs key generate NAME' makes one",
        )
    there = require_complete(workspace, model, version)
    assert there.manifest is not None and there.manifest_digest is not None
    head = workspace.model_ledger(model).head()
    state = head.record.state if head else ModelState()
    recorded = recorded_digest(workspace, model, version, state)
    if recorded is not None and recorded != there.manifest_digest:
        raise DamagedVersion(
            f"version {version} of model {model}: its manifest is not the one that was recorded",
            hint=f"'clipperfs verify {model}/{version}' shows what differs; do not sign it",
        )
    require_bytes(workspace, model, version, there.manifest)
    digest = Digest(there.manifest_digest)
    key, is_new = sign_version(workspace, signer, model, version, digest)
    return Signed(model, version, digest, signer.key_id, str(signer.public), key, is_new)


def signatures(workspace: Workspace, model: ModelName, version: VersionName) -> list[SignatureView]:
    """Return the signatures beside a version, by key id. Raises NotFound, IncompleteVersion, StorageError."""
    there = require_complete(workspace, model, version)
    assert there.manifest_digest is not None
    claim = Claim(workspace.registry_id, model, version, Digest(there.manifest_digest))
    head = workspace.model_ledger(model).head()
    keys = known_keys(workspace, (head.record.state if head else ModelState()).policy)
    return [SignatureView(*found) for found in read_signatures(workspace, keys, claim)]


def attributed(
    workspace: Workspace, model: ModelName, records: Iterable[ModelRecord]
) -> Iterator[tuple[ModelRecord, str]]:
    """Yield each record with the word for who wrote it. Reads again those that are signed; holds one at a time.

    Raises DamagedLog, StorageError.
    """
    ledger = workspace.model_ledger(model)
    keys = None
    for record in records:
        word = CLAIMED.word
        if record.signature is not None:
            if keys is None:
                head = ledger.head()
                keys = known_keys(workspace, (head.record.state if head else ModelState()).policy)
            stored = ledger.read(record.seq)
            word = attribute(stored.record, stored.data, keys).word if stored else "gone"
        yield record, word


def attributions(workspace: Workspace, model: ModelName, records: Iterable[ModelRecord]) -> dict[int, str]:
    """Return by number who wrote each record: see :func:`attributed`."""
    return {record.seq: word for record, word in attributed(workspace, model, records)}
