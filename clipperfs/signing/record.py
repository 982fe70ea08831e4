"""Who wrote a record: claimed, or proven by the signature that it carries.

What is signed are the record's bytes as stored without the signature's own characters, so that nothing is ever spelled
anew, and unknown fields are signed like any other. Source: ``registry_layout.md`` §8.18.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clipperfs.documents import Record
from clipperfs.documents.signature import RECORD_TYPE, SIGNATURE_CHARS, pre_authentication
from clipperfs.errors import InvalidSetting
from clipperfs.signing.key import PublicKey, is_signed_by


@dataclass(frozen=True, slots=True)
class Attribution:
    """What is known of a record's author."""

    word: str
    """``claimed``, ``signed NAME``, ``signed by an unknown key …``, ``BAD SIGNATURE``, or that it cannot be checked."""
    is_forged: bool = False
    """The signature is not the one of these bytes by that key."""


CLAIMED = Attribution("claimed")


def attribute(record: Record, data: bytes, keys: Mapping[str, PublicKey]) -> Attribution:
    """Return who wrote a record, as far as the known keys tell. Pure.

    Args:
        data: the record's bytes as stored.
        keys: the known keys by name.
    """
    mark = record.signature
    if mark is None:
        return CLAIMED
    name, key = next(((name, key) for name, key in sorted(keys.items()) if key.key_id == mark.key_id), ("", None))
    if key is None:
        return Attribution(f"signed by an unknown key {mark.key_id[:12]}")
    value = mark.value.encode()
    if len(value) != SIGNATURE_CHARS or data.count(value) != 1:
        return Attribution("BAD SIGNATURE", is_forged=True)
    try:
        is_valid = is_signed_by(key, mark.value, pre_authentication(RECORD_TYPE, data.replace(value, b"")))
    except InvalidSetting:
        return Attribution("signature cannot be checked: cryptography is not installed")
    return Attribution(f"signed {name}") if is_valid else Attribution("BAD SIGNATURE", is_forged=True)
