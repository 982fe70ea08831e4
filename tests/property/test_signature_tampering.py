"""Whatever is changed of a statement, its signature, its key or a signed record, it no longer passes."""

from __future__ import annotations

import base64
import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipperfs.digest import NO_DIGEST, Digest
from clipperfs.documents import ModelRecord, ModelState, canonical_bytes, parse_document
from clipperfs.documents.signature import RECORD_TYPE, STATEMENT_TYPE, RecordSignature, pre_authentication
from clipperfs.errors import InvalidDocument
from clipperfs.limits import LIMITS
from clipperfs.names import ModelName, VersionName
from clipperfs.signing.key import PublicKey, Signer, generate_key, is_signed_by, load_signer
from clipperfs.signing.record import attribute
from clipperfs.signing.version import Claim, envelope_problem, make_envelope

CLAIM = Claim("registry-1", ModelName("m"), VersionName("1"), Digest("a" * 64))


@cache
def signer() -> Signer:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "key.pem")
        generate_key(path)
        return load_signer(path)


@cache
def envelope() -> bytes:
    return make_envelope(signer(), CLAIM)


@cache
def record() -> bytes:
    bare = ModelRecord.model_validate(
        {
            "registry_id": "registry-1",
            "seq": 1,
            "prev": NO_DIGEST,
            "nonce": "n" * 16,
            "time": "2026-01-01T00:00:00.000Z",
            "actor": "ci@test",
            "op": "policy",
            "reason": "größer",
            "model": "m",
            "state": ModelState().model_dump() | {"of_the_future": {"x": [1, 2.5]}},
            "signature": RecordSignature(key_id=signer().key_id, value=""),
        }
    )
    value = signer().sign(pre_authentication(RECORD_TYPE, canonical_bytes(bare)))
    signed = bare.model_copy(update={"signature": RecordSignature(key_id=signer().key_id, value=value)})
    return canonical_bytes(signed)


def flipped(data: bytes, position: int, bit: int) -> bytes:
    at = position % len(data)
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


POSITIONS, BITS = st.integers(0, 1 << 16), st.integers(0, 7)


def test_what_nobody_touched_passes() -> None:
    assert envelope_problem(envelope(), signer().public, CLAIM) is None
    parsed = parse_document(ModelRecord, record(), limit_bytes=LIMITS.record_bytes)
    assert attribute(parsed, record(), {"ci": signer().public}).word == "signed ci"


@given(position=POSITIONS, bit=BITS)
def test_any_changed_byte_of_an_envelope_never_passes_for_a_claim(position: int, bit: int) -> None:
    data = flipped(envelope(), position, bit)
    if envelope_problem(data, signer().public, CLAIM) is None:
        # Only what is neither signed nor read can have changed: a blank, or the name of a field.
        before, after = json.loads(envelope()), json.loads(data)
        assert after["payload"] == before["payload"]
        assert [mark["sig"] for mark in after["signatures"]] == [mark["sig"] for mark in before["signatures"]]
        assert [mark["keyid"] for mark in after["signatures"]] == [signer().key_id]


@given(position=POSITIONS, bit=BITS)
def test_any_changed_bit_of_a_statement_fails(position: int, bit: int) -> None:
    tree = json.loads(envelope())
    payload = flipped(base64.b64decode(tree["payload"]), position, bit)
    data = json.dumps({**tree, "payload": base64.b64encode(payload).decode()}).encode()
    assert envelope_problem(data, signer().public, CLAIM) is not None


@given(position=POSITIONS, bit=BITS)
def test_any_changed_bit_of_a_signature_or_a_key_fails(position: int, bit: int) -> None:
    message = pre_authentication(STATEMENT_TYPE, b"x")
    value = signer().sign(message)
    assert is_signed_by(signer().public, value, message)
    other = base64.b64encode(flipped(base64.b64decode(value), position, bit)).decode()
    assert not is_signed_by(signer().public, other, message)
    assert not is_signed_by(PublicKey(flipped(signer().public.raw, position, bit)), value, message)
    assert envelope_problem(envelope(), PublicKey(flipped(signer().public.raw, position, bit)), CLAIM) is not None


@given(position=POSITIONS, bit=BITS)
def test_any_changed_byte_of_a_signed_record_is_found(position: int, bit: int) -> None:
    data = flipped(record(), position, bit)
    try:
        parsed = parse_document(ModelRecord, data, limit_bytes=LIMITS.record_bytes)
    except InvalidDocument:
        return
    assert attribute(parsed, data, {"ci": signer().public}).word != "signed ci"


@given(where=st.integers(0, 1 << 16))
def test_signature_moved_to_another_place_of_a_record_is_found(where: int) -> None:
    value = json.loads(record())["signature"]["value"].encode()
    bare = record().replace(value, b"")
    at = where % len(bare)
    data = bare[:at] + value + bare[at:]
    if data == record():
        return
    try:
        parsed = parse_document(ModelRecord, data, limit_bytes=LIMITS.record_bytes)
    except InvalidDocument:
        return
    assert attribute(parsed, data, {"ci": signer().public}).word != "signed ci"


@given(where=st.integers(0, 1 << 16))
def test_signature_that_stands_in_a_record_twice_is_found(where: int) -> None:
    """Text of a signed record must not grow by the signature's own characters, which the check leaves out."""
    value = json.loads(record())["signature"]["value"].encode()
    for at in (where % len(record()), record().index("größer".encode()) + 1):
        data = record()[:at] + value + record()[at:]
        try:
            parsed = parse_document(ModelRecord, data, limit_bytes=LIMITS.record_bytes)
        except InvalidDocument:
            continue
        assert attribute(parsed, data, {"ci": signer().public}).word != "signed ci"


@pytest.mark.parametrize("name", ["registry_id", "model", "version", "manifest"])
def test_signature_counts_for_nothing_but_what_it_is_about(name: str) -> None:
    changes: dict[str, Any] = {name: "b" * 64}
    other = replace(CLAIM, **changes)
    assert f"about another {name}" in (envelope_problem(envelope(), signer().public, other) or "")


@given(kinds=st.tuples(st.text(max_size=8), st.text(max_size=8)), bodies=st.tuples(st.binary(), st.binary()))
def test_two_pairs_of_type_and_body_never_share_their_bytes(
    kinds: tuple[str, str], bodies: tuple[bytes, bytes]
) -> None:
    one, other = (pre_authentication(kind, body) for kind, body in zip(kinds, bodies, strict=True))
    assert (one == other) == (kinds[0] == kinds[1] and bodies[0] == bodies[1])


def test_encoding_is_that_of_the_dsse_specification() -> None:
    told = pre_authentication("http://example.com/HelloWorld", b"hello world")  # DSSE protocol.md, test vector
    assert told == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
