"""Publisher keys: ed25519 (RFC 8032) by ``cryptography``; private keys are PKCS #8 PEM files that not everybody reads.

A key's id is the SHA-256 of its 32 raw public bytes.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from clipperfs.digest import Digest, digest_bytes
from clipperfs.documents.signature import checked_publishers, decode_base64, public_key_bytes, spell_public_key
from clipperfs.errors import InvalidSetting
from clipperfs.names import name_problem

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FILE_BYTES = 64 * 1024
SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signatures are compared with."""

    raw: bytes = field(repr=False)

    @property
    def key_id(self) -> Digest:
        """Return the key's id."""
        return digest_bytes(self.raw)

    def __str__(self) -> str:
        return spell_public_key(self.raw)


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key, in memory."""

    _private: Ed25519PrivateKey = field(repr=False)
    public: PublicKey

    @property
    def key_id(self) -> Digest:
        """Return the id of the key."""
        return self.public.key_id

    def sign(self, data: bytes) -> str:
        """Return the signature of ``data`` in Base64."""
        return base64.b64encode(self._private.sign(data)).decode()


def generate_key(path: str | os.PathLike[str]) -> PublicKey:
    """Make a key pair and write its private part to a new file with mode 0600.

    Raises:
        InvalidSetting: the file exists (a key is never overwritten), cannot be written, or ``cryptography`` is missing.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        _refuse_without_library(error)
    private = Ed25519PrivateKey.generate()
    data = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as stream:
            os.fchmod(descriptor, 0o600)
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
    except FileExistsError as error:
        raise InvalidSetting(
            f"{os.fspath(path)} exists; a key is never overwritten", hint="give another file with --out"
        ) from error
    except OSError as error:
        raise InvalidSetting(
            f"{os.fspath(path)} cannot be written: {error.strerror}", hint="give --out FILE"
        ) from error
    return _public(private)


def load_signer(path: str | os.PathLike[str]) -> Signer:
    """Read a private key.

    Raises:
        InvalidSetting: the file cannot be read, may be read by everybody, or holds no unencrypted ed25519 key; or
            ``cryptography`` is missing.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        _refuse_without_library(error)
    name = os.fspath(path)
    try:
        with open(path, "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read(FILE_BYTES)
    except OSError as error:
        raise InvalidSetting(f"key file {name} cannot be read: {error.strerror}", setting="sign_key") from error
    if stat.S_ISREG(mode) and mode & 0o007:
        raise InvalidSetting(
            f"key file {name} may be read by everybody on this host",
            hint=f"chmod 600 {name}; and make a new key if somebody may have read this one",
            setting="sign_key",
        )
    try:
        private = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidSetting(
            f"{name} holds no private key that can be used: it must be PKCS #8 PEM, ed25519, not encrypted",
            hint="'clipperfs key generate NAME' makes one",
            setting="sign_key",
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise InvalidSetting(
            f"{name} holds a key of another kind than ed25519",
            hint="'clipperfs key generate NAME' makes one",
            setting="sign_key",
        )
    return Signer(private, _public(private))


def is_signed_by(key: PublicKey, signature: str, data: bytes) -> bool:
    """Say whether ``signature`` (Base64) is that of ``data`` by ``key``. Raises InvalidSetting without cryptography."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        _refuse_without_library(error)
    raw = decode_base64(signature, SIGNATURE_BYTES)
    if raw is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(raw, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def parse_publishers(publishers: Mapping[str, str]) -> dict[str, PublicKey]:
    """Return keys by publisher's name. Raises InvalidSetting."""
    try:
        return {name: PublicKey(public_key_bytes(key)) for name, key in checked_publishers(dict(publishers)).items()}
    except ValueError as error:
        raise InvalidSetting(str(error), hint="'clipperfs key show FILE' prints a public key") from error


def read_trusted_keys(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a file of trusted keys: lines of a name and a public key, as 'clipperfs key generate' prints them.

    Empty lines and those that begin with '#' do not count.

    Raises:
        InvalidSetting: it cannot be read, or a line is something else, or a name is there twice. A file without a key
            is fine: it trusts nobody.
    """
    name = os.fspath(path)
    try:
        if Path(path).stat().st_mode & stat.S_IWOTH:
            raise InvalidSetting(f"everybody may write {name}: it cannot say whom to trust", hint=f"chmod o-w {name}")
        text = Path(path).read_text("utf-8")[:FILE_BYTES]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidSetting(
            f"trusted keys {name} cannot be read: {why}",
            hint="it holds a line for each publisher, NAME and the public key that 'clipperfs key show' prints",
            setting="trusted_keys",
        ) from error
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or words[0] in found or name_problem(words[0]) is not None:
            raise InvalidSetting(
                f"{name}, line {number}: it must be a name that is not there yet, and a public key",
                hint="such as the line that 'clipperfs key generate NAME' prints",
                setting="trusted_keys",
            )
        found[words[0]] = words[1]
    parse_publishers(found)
    return found


def _public(private: Ed25519PrivateKey) -> PublicKey:
    return PublicKey(private.public_key().public_bytes_raw())


def _refuse_without_library(error: ImportError) -> NoReturn:
    raise InvalidSetting(
        "signatures need the package cryptography, which is not installed here", hint="pip install 'clipperfs[signing]'"
    ) from error
