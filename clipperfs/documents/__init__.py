"""Every document of a registry as a pydantic model, and its canonical bytes. No I/O."""

from clipperfs.documents.author import (
    AuthorFile,
    HookSettings,
    InputType,
    VersionSettings,
    WrapperSettings,
    parse_author_file,
)
from clipperfs.documents.base import Document, canonical_bytes, parse_document, utc_now
from clipperfs.documents.manifest import FileEntry, Manifest, Tombstone
from clipperfs.documents.probe import ProbeCheck, ProbeLatency, ProbeReport
from clipperfs.documents.record import (
    AppRecord,
    AppState,
    Evidence,
    Link,
    ModelRecord,
    ModelState,
    Pointer,
    Policy,
    Record,
    ReportReference,
    Retirement,
    Verdict,
)
from clipperfs.documents.signature import RecordSignature, SignatureEnvelope, Statement
from clipperfs.documents.status import (
    SINGLE_WRITER,
    ChangeHint,
    CheckReport,
    LoadedVersion,
    RegistryDocument,
    ReplicaStatus,
    ServedModel,
)

__all__ = [
    "SINGLE_WRITER",
    "AppRecord",
    "AppState",
    "AuthorFile",
    "ChangeHint",
    "CheckReport",
    "Document",
    "Evidence",
    "FileEntry",
    "HookSettings",
    "InputType",
    "Link",
    "LoadedVersion",
    "Manifest",
    "ModelRecord",
    "ModelState",
    "Pointer",
    "Policy",
    "ProbeCheck",
    "ProbeLatency",
    "ProbeReport",
    "Record",
    "RecordSignature",
    "RegistryDocument",
    "ReplicaStatus",
    "ReportReference",
    "Retirement",
    "ServedModel",
    "SignatureEnvelope",
    "Statement",
    "Tombstone",
    "Verdict",
    "VersionSettings",
    "WrapperSettings",
    "canonical_bytes",
    "parse_author_file",
    "parse_document",
    "utc_now",
]
