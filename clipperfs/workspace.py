"""What every verb works with: the store, the registry's identity, its ledgers, the local cache, the actor."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clipperfs import layout
from clipperfs.cache import Cache, default_cache_dir
from clipperfs.documents import SINGLE_WRITER, AppRecord, ModelRecord, RegistryDocument, parse_document
from clipperfs.errors import InvalidDocument, NotFound, StoredDataError, UnknownFeature
from clipperfs.layout import Subject
from clipperfs.ledger import KNOWN_FEATURES, Ledger, RecordT
from clipperfs.limits import LIMITS
from clipperfs.reporter import Reporter
from clipperfs.store import NeedsDeclaration, Store

if TYPE_CHECKING:
    from clipperfs.signing.key import Signer


@dataclass(slots=True)
class Workspace:
    """A registry, opened. Safe to use from several threads."""

    store: Store
    cache: Cache
    actor: str
    reporter: Reporter = field(default_factory=Reporter)
    sign_key: Path | None = None
    """Private key with which records and published versions are signed; ``None``: they are not."""
    trusted_keys: Mapping[str, str] | None = None
    """This host's own publishers (name → public key): they replace every policy's, and a signature is required."""
    known_registry_id: str | None = None
    """The registry's identity from an earlier run, for as long as the registry has not been read."""
    _signer: Signer | None = None
    _document: RegistryDocument | None = None
    _has_reminded: bool = False
    _models: dict[str, Ledger[ModelRecord]] = field(default_factory=dict)
    _apps: dict[str, Ledger[AppRecord]] = field(default_factory=dict)

    @property
    def registry_id(self) -> str:
        """Return the registry's identity. Raises what :meth:`document` raises."""
        if self._document is None and self.known_registry_id is not None:
            return self.known_registry_id
        return self.document().registry_id

    @property
    def signer(self) -> Signer | None:
        """Return the key to sign with, read at its first use. Raises InvalidSetting when it cannot be used."""
        if self.sign_key is not None and self._signer is None:
            from clipperfs.signing.key import load_signer

            self._signer = load_signer(self.sign_key)
        return self._signer

    def document(self) -> RegistryDocument:
        """Return ``registry.json``, read once.

        Raises:
            NotFound: there is no registry here.
            StoredDataError: ``registry.json`` is damaged.
            UnknownFeature: it needs a feature that this release does not know.
        """
        if self._document is None:
            self._document = read_registry_document(self.store)
            if self.is_single_writer and isinstance(self.store, NeedsDeclaration):
                self.store.declare_single_writer()
        return self._document

    @property
    def is_single_writer(self) -> bool:
        """Say whether the registry was declared to have one writer at a time. Raises what :meth:`document` raises."""
        return SINGLE_WRITER in self.document().required_features

    def before_writing(self) -> None:
        """Remind whoever is about to write of what nobody but them can hold. Says it once."""
        if self.is_single_writer and not self._has_reminded:
            self._has_reminded = True
            self.reporter.note(
                "note: this registry is declared single-writer; if anything else writes to it now, history can be lost"
            )

    def model_ledger(self, name: object) -> Ledger[ModelRecord]:
        """Return a model's ledger; it may be empty. Raises InvalidName."""
        subject = layout.model_subject(name)
        if subject.name not in self._models:
            self._models[subject.name] = self._open_ledger(subject, ModelRecord)
        return self._models[subject.name]

    def app_ledger(self, name: object) -> Ledger[AppRecord]:
        """Return an application's ledger; it may be empty. Raises InvalidName."""
        subject = layout.app_subject(name)
        if subject.name not in self._apps:
            self._apps[subject.name] = self._open_ledger(subject, AppRecord)
        return self._apps[subject.name]

    def _open_ledger(self, subject: Subject, kind: type[RecordT]) -> Ledger[RecordT]:
        return Ledger(
            self.store, subject, kind, self.registry_id, before_writing=self.before_writing, signer=lambda: self.signer
        )


def read_registry_document(store: Store) -> RegistryDocument:
    """Read and check ``registry.json``. Raises NotFound, StoredDataError, UnknownFeature."""
    data = store.read(layout.REGISTRY, limit_bytes=LIMITS.registry_bytes)
    if data is None:
        raise NotFound(
            f"no registry at {store.url}", hint=f"create one with 'clipperfs init {store.url}', or check the address"
        )
    try:
        document = parse_document(RegistryDocument, data, limit_bytes=LIMITS.registry_bytes)
    except InvalidDocument as error:
        raise StoredDataError(
            f"{layout.REGISTRY} at {store.url} is damaged: {error.message}", hint="restore it from a backup"
        ) from error
    unknown = sorted(set(document.required_features) - KNOWN_FEATURES)
    if unknown:
        raise UnknownFeature(f"this registry needs {', '.join(unknown)}", hint="update clipperfs", features=unknown)
    return document


def default_actor() -> str:
    """Return who acts when nobody says so: ``user@host``, claimed, never proven."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def open_cache(cache_dir: str | os.PathLike[str] | None) -> Cache:
    """Return the local cache at ``cache_dir``, or the user's own."""
    return Cache(Path(os.path.abspath(cache_dir)) if cache_dir is not None else default_cache_dir())
