"""Filesystems as registries see them. The only room that knows fsspec."""

from clipperfs.store.base import (
    Capabilities,
    Entry,
    FileKind,
    NeedsDeclaration,
    PartedStore,
    Piece,
    Progress,
    RangedStore,
    Store,
    ranged,
)
from clipperfs.store.opening import canonical_url, open_store

__all__ = [
    "Capabilities",
    "Entry",
    "FileKind",
    "NeedsDeclaration",
    "PartedStore",
    "Piece",
    "Progress",
    "RangedStore",
    "Store",
    "canonical_url",
    "open_store",
    "ranged",
]
