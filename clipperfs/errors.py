"""Every error of clipperfs, in one tree whose branches say whose move is next.

    ClipperfsError
    ├─ CallerError            the caller's move: the request cannot be carried out as it stands
    │   ├─ InvalidName  InvalidDocument  InvalidSource  InvalidInput  InvalidSetting
    │   ├─ NotFound
    │   ├─ Conflict           somebody else was first; look at the two records and decide
    │   └─ ActivationRefused  a hook said no
    ├─ StoredDataError        the stored data's: bytes on the registry are not what they should be
    │   ├─ DamagedLog  DamagedVersion  IncompleteVersion  UnknownFeature
    ├─ StorageError           the storage's: try again, or mend the filesystem
    │   ├─ StorageDenied  StorageFull  StorageUnavailable  OutcomeUnknown  UnsafeStorage
    └─ ServingError           the daemon's or a replica's
        ├─ LoadFailed  PredictFailed  ReplicaLost
        ├─ DaemonNotRunning  DaemonAlreadyRunning  DaemonStartFailed
        ├─ TimedOut
        └─ Degraded

Fields are data; the message is built from them and ends with what to do next. Exit codes and HTTP codes are two
tables at the edges (``cli.exit``, ``serverd.http_status``), never here.
"""

from __future__ import annotations

from typing import Any


class ClipperfsError(Exception):
    """The root of the tree. ``hint`` is the next step, printed on a line of its own by the command line."""

    def __init__(self, message: str, *, hint: str | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields: dict[str, Any] = fields

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def as_document(self) -> dict[str, Any]:
        """Return the error as plain data, for ``--json`` and for the admin interface."""
        return {"error": type(self).__name__, "message": self.message, "hint": self.hint, **self.fields}


class CallerError(ClipperfsError):
    """The request cannot be carried out as it stands."""


class InvalidName(CallerError):
    """A model, version, application or alias name breaks the grammar (``registry_layout.md`` §5)."""


class InvalidDocument(CallerError):
    """A document given by a person (``model.yaml``, a policy, a settings file) is not valid."""


class InvalidSource(CallerError):
    """A folder given for publishing holds something that a version may not hold (a link, a device, nothing)."""


class InvalidInput(CallerError):
    """An input of a prediction does not fit the application's input type."""


class InvalidSetting(CallerError):
    """A setting or an option has a value that cannot be used."""


class NotFound(CallerError):
    """The named registry, model, version, application or alias does not exist."""


class Conflict(CallerError):
    """Another writer was first, or the state is not the one the caller expected."""


class ActivationRefused(CallerError):
    """At least one hook refused the candidate. ``report`` (in ``fields``) holds every verdict."""


class StoredDataError(ClipperfsError):
    """Bytes in the registry or the local cache are not what they should be."""


class DamagedLog(StoredDataError):
    """A record of a ledger does not parse, is forged, or breaks the hash chain."""


class DamagedVersion(StoredDataError):
    """A version's files do not match its manifest, or a document inside it is not valid."""


class IncompleteVersion(StoredDataError):
    """A version is still incoming: files that its manifest lists are absent or short, or it has no manifest."""


class UnknownFeature(StoredDataError):
    """The registry or a record requires a feature that this release does not know."""


class StorageError(ClipperfsError):
    """The storage could not carry out a call."""


class StorageDenied(StorageError):
    """The storage refused a call for want of a right."""


class StorageFull(StorageError):
    """The storage has no room (no space, no inodes, or a quota)."""


class StorageUnavailable(StorageError):
    """The storage does not answer, or the registry is no longer where it was."""


class OutcomeUnknown(StorageError):
    """A write may or may not have taken effect, or may yet: reading back gave no answer, or the wrong one too early."""


class UnsafeStorage(StorageError):
    """The storage let several writers win one name, or cannot promise that it never does: history is not safe there."""


class ServingError(ClipperfsError):
    """A daemon or a replica could not do what was asked."""


class LoadFailed(ServingError):
    """A version's wrapper could not be loaded, or did not answer its sample."""


class PredictFailed(ServingError):
    """A wrapper raised, or returned the wrong number or type of outputs. The process lives on."""


class ReplicaLost(ServingError):
    """A replica process died or was stopped while it was being talked to."""


class DaemonNotRunning(ServingError):
    """No daemon runs with this state directory."""


class DaemonAlreadyRunning(ServingError):
    """A daemon runs with this state directory already."""


class DaemonStartFailed(ServingError):
    """The daemon ended before it was ready."""


class TimedOut(ServingError):
    """Something did not happen within the time that was given for it."""


class Degraded(ServingError):
    """The daemon runs, but something that it should serve is not served."""
