"""Signatures as stored: the envelope beside a version, the statement inside it, and the field of a signed record.

The envelope is DSSE's (Dead Simple Signing Envelope, version 1.0), so that other tools can check it too.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, Literal

from pydantic import Field, field_validator

from clipperfs.documents.base import Document
from clipperfs.names import name_problem

STATEMENT_TYPE: Final = "application/vnd.clipperfs.statement.v1+json"
"""What is signed for a version."""
RECORD_TYPE = "application/vnd.clipperfs.record.v1+json"
"""What is signed for a record."""
KEY_PREFIX = "ed25519:"
KEY_BYTES = 32
SIGNATURE_CHARS = 88
"""An ed25519 signature (64 bytes) in Base64."""


class EnvelopeSignature(Document):
    """One signature of an envelope."""

    keyid: str
    sig: str
    """Base64 of the 64 bytes."""


class SignatureEnvelope(Document):
    """``models/<m>/signatures/<manifest digest>/<key id>.json``: who vouches for a version."""

    schema_: Literal["clipperfs.signature.v1"] = Field(default="clipperfs.signature.v1", alias="schema")
    payload_type: Literal["application/vnd.clipperfs.statement.v1+json"] = Field(
        default=STATEMENT_TYPE, alias="payloadType"
    )
    payload: str
    """Base64 of the statement's bytes."""
    signatures: list[EnvelopeSignature] = Field(min_length=1, max_length=16)


class Statement(Document):
    """What the signer of a version says: these bytes are this version of this model in this registry."""

    schema_: Literal["clipperfs.statement.v1"] = Field(default="clipperfs.statement.v1", alias="schema")
    registry_id: str
    model: str
    version: str
    manifest: str
    time: str


class RecordSignature(Document):
    """The signature that a record carries (``registry_layout.md`` §8.18)."""

    key_id: str
    value: str
    """Base64 of the 64 bytes."""


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed: type and payload, each with its length, so that no two pairs share them.

    Source: DSSE protocol 1.0, "PAE(type, body)".
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def decode_base64(text: str, size_bytes: int | None = None) -> bytes | None:
    """Return what Base64 text stands for, or ``None``: not the one spelling of its bytes, or not of that size."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if base64.b64encode(data).decode() != text or (size_bytes is not None and len(data) != size_bytes):
        return None
    return data


def public_key_bytes(text: str) -> bytes:
    """Return the 32 bytes of a public key as policies and files spell it (``ed25519:BASE64``). Raises ValueError."""
    data = decode_base64(text.removeprefix(KEY_PREFIX), KEY_BYTES) if text.startswith(KEY_PREFIX) else None
    if data is None:
        raise ValueError(f"{text[:60]!a} is no public key: it must be 'ed25519:' and the Base64 of 32 bytes")
    return data


def spell_public_key(data: bytes) -> str:
    """Return how policies and files spell a public key."""
    return KEY_PREFIX + base64.b64encode(data).decode()


def checked_publishers(value: dict[str, str]) -> dict[str, str]:
    """Return publishers (name → public key) if names and keys are valid; raise ValueError otherwise."""
    for name, key in value.items():
        if (problem := name_problem(name)) is not None:
            raise ValueError(f"publisher {name!a} {problem}")
        public_key_bytes(key)
    return value


class SignedPolicy(Document):
    """The part of a model's policy that says whose versions may be served."""

    require_signature: bool = False
    """Whether a version must be signed by one of ``publishers`` to become active, named, pinned or loaded."""
    publishers: dict[str, str] = {}
    """Name → public key of those whose signatures count."""

    @field_validator("publishers")
    @classmethod
    def _are_publishers(cls, value: dict[str, str]) -> dict[str, str]:
        return checked_publishers(value)
