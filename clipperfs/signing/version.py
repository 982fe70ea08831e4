"""Sign a version, and find out who has signed it: envelopes beside the version, checked against trusted keys.

Source: ``registry_layout.md`` §8.18. A signature binds registry, model, version and manifest digest, so that it cannot
be carried over to another of any of them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from clipperfs import layout
from clipperfs.digest import Digest
from clipperfs.documents import SignatureEnvelope, Statement, canonical_bytes, parse_document, utc_now
from clipperfs.documents.signature import STATEMENT_TYPE, EnvelopeSignature, decode_base64, pre_authentication
from clipperfs.errors import Conflict, InvalidDocument, StorageError, StoredDataError
from clipperfs.limits import LIMITS
from clipperfs.names import ModelName, VersionName
from clipperfs.signing.key import PublicKey, Signer, is_signed_by
from clipperfs.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Claim:
    """What a signature must speak of to count."""

    registry_id: str
    model: ModelName
    version: VersionName
    manifest: Digest


def make_envelope(signer: Signer, claim: Claim) -> bytes:
    """Return the signature document over a claim."""
    statement = Statement(
        registry_id=claim.registry_id,
        model=claim.model,
        version=claim.version,
        manifest=claim.manifest,
        time=utc_now(),
    )
    payload = canonical_bytes(statement)
    mark = EnvelopeSignature(keyid=signer.key_id, sig=signer.sign(pre_authentication(STATEMENT_TYPE, payload)))
    return canonical_bytes(SignatureEnvelope(payload=base64.b64encode(payload).decode(), signatures=[mark]))


def envelope_problem(data: bytes, key: PublicKey, claim: Claim) -> str | None:
    """Return why a signature document does not prove a claim by a key, or ``None`` when it does. Pure.

    Nothing of the statement is looked at before its signature was found to be the key's.

    Raises InvalidSetting when ``cryptography`` is missing.
    """
    try:
        envelope = parse_document(SignatureEnvelope, data, limit_bytes=LIMITS.signature_bytes)
    except InvalidDocument as error:
        return f"its signature is {error.message}"
    payload = decode_base64(envelope.payload)
    marks = [mark for mark in envelope.signatures if mark.keyid == key.key_id]
    if payload is None or len(marks) != 1:
        return "its signature is not one of this key"
    if not is_signed_by(key, marks[0].sig, pre_authentication(envelope.payload_type, payload)):
        return "its signature is not valid"
    try:
        statement = parse_document(Statement, payload, limit_bytes=LIMITS.signature_bytes)
    except InvalidDocument as error:
        return f"what was signed is {error.message}"
    for name in ("registry_id", "model", "version", "manifest"):
        if (found := getattr(statement, name)) != (wanted := getattr(claim, name)):
            return f"its signature is about another {name}: {found[:80]!a}, not {wanted!a}"
    return None


def sign_version(
    workspace: Workspace, signer: Signer, model: ModelName, version: VersionName, manifest: Digest
) -> tuple[str, bool]:
    """Put a signature beside a version; return its key, and whether it is new. Idempotent.

    Raises:
        Conflict: something else lies under this key's name.
        StorageError: it could not be written; it may be there, and running it again tells.
    """
    claim = Claim(workspace.registry_id, model, version, manifest)
    key = layout.signature(model, manifest, signer.key_id)
    data = make_envelope(signer, claim)
    failure: StorageError | None = None
    try:
        if workspace.store.create(key, data):
            return key, True
    except StorageError as error:  # a lost answer looks like a failure
        failure = error
    there = workspace.store.read(key, limit_bytes=LIMITS.signature_bytes)
    if there is None:
        raise failure or StorageError(f"{key} was created by somebody else and is gone again", hint="run it again")
    if (problem := envelope_problem(there, signer.public, claim)) is not None:
        raise Conflict(
            f"{key} is there already, and {problem}",
            hint="look who put it there; when it is removed, sign again",
            key=key,
        )
    return key, there == data


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of the trusted keys' signatures on one version."""

    publisher: str | None
    """The first trusted publisher whose signature is valid; ``None``: there is none."""
    problems: tuple[str, ...]
    """Why others do not count."""


def find_publisher(workspace: Workspace, keys: Mapping[str, PublicKey], claim: Claim) -> Finding:
    """Find a trusted publisher who has signed a version. A signature that was found once needs no registry again.

    Raises:
        InvalidSetting: ``cryptography`` is missing.
        StorageError: no signature that was seen before counts, and the registry does not answer.
    """
    problems = []
    failure: StorageError | None = None
    for name, key in sorted(keys.items()):
        kept = workspace.cache.find_signature(claim.manifest, key.key_id)
        if kept is not None and envelope_problem(kept, key, claim) is None:
            return Finding(name, ())
    for name, key in sorted(keys.items()):
        try:
            data = workspace.store.read(
                layout.signature(claim.model, claim.manifest, key.key_id), limit_bytes=LIMITS.signature_bytes
            )
        except StoredDataError as error:
            problems.append(f"{name}: {error.message}")
            continue
        except StorageError as error:
            failure = error
            continue
        if data is None:
            continue
        if (problem := envelope_problem(data, key, claim)) is not None:
            problems.append(f"{name}: {problem}")
            continue
        workspace.cache.keep_signature(claim.manifest, key.key_id, data)
        return Finding(name, ())
    if failure is not None:
        raise failure
    return Finding(None, tuple(problems))


def read_signatures(
    workspace: Workspace, keys: Mapping[str, PublicKey], claim: Claim
) -> list[tuple[str, str | None, str | None]]:
    """Return every signature that lies beside a version: key id, publisher's name if trusted, and what is wrong."""
    names: dict[str, tuple[str, PublicKey]] = {key.key_id: (name, key) for name, key in keys.items()}
    found: list[tuple[str, str | None, str | None]] = []
    for entry in workspace.store.list(layout.signatures(claim.model, claim.manifest)):
        key_id = entry.name.removesuffix(".json")
        if key_id == entry.name or entry.name.startswith("."):
            continue
        name, problem = None, None
        if key_id in names:
            name, key = names[key_id]
            data = workspace.store.read(
                layout.signature(claim.model, claim.manifest, key_id), limit_bytes=LIMITS.signature_bytes
            )
            problem = envelope_problem(data or b"", key, claim)
        found.append((key_id, name, problem))
    return found
