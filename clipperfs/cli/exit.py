"""Exit codes: one table from the tree of errors to what a shell sees."""

from __future__ import annotations

from clipperfs import errors

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
CONFLICT = 4
VERIFICATION_FAILED = 5
HOOK_REFUSED = 6
TIMED_OUT = 7
DEGRADED = 8
PERMISSION = 9
INTERRUPTED = 130

MEANINGS: dict[int, str] = {
    OK: "ok",
    FAILED: "failed",
    USAGE: "wrong usage: a name, a value, an option or a document given by the caller",
    NOT_FOUND: "not found: the registry, model, version, application, or a running daemon",
    CONFLICT: "conflict: somebody else was first; both records are shown",
    VERIFICATION_FAILED: "verification failed: stored bytes are not what they should be, or the storage is unsafe",
    HOOK_REFUSED: "a hook refused the version",
    TIMED_OUT: "timed out",
    DEGRADED: "degraded: the daemon does not serve all that it should, or doctor has warnings that matter",
    PERMISSION: "permission: the storage refused",
    INTERRUPTED: "interrupted",
}

CODES: dict[type[errors.ClipperfsError], int] = {
    errors.ClipperfsError: FAILED,
    errors.CallerError: USAGE,
    errors.InvalidName: USAGE,
    errors.InvalidDocument: USAGE,
    errors.InvalidSource: USAGE,
    errors.InvalidInput: USAGE,
    errors.InvalidSetting: USAGE,
    errors.NotFound: NOT_FOUND,
    errors.Conflict: CONFLICT,
    errors.ActivationRefused: HOOK_REFUSED,
    errors.StoredDataError: VERIFICATION_FAILED,
    errors.DamagedLog: VERIFICATION_FAILED,
    errors.DamagedVersion: VERIFICATION_FAILED,
    errors.IncompleteVersion: VERIFICATION_FAILED,
    errors.UnknownFeature: FAILED,
    errors.StorageError: FAILED,
    errors.StorageDenied: PERMISSION,
    errors.StorageFull: FAILED,
    errors.StorageUnavailable: FAILED,
    errors.OutcomeUnknown: FAILED,
    errors.UnsafeStorage: VERIFICATION_FAILED,
    errors.ServingError: FAILED,
    errors.LoadFailed: FAILED,
    errors.PredictFailed: FAILED,
    errors.ReplicaLost: FAILED,
    errors.DaemonNotRunning: NOT_FOUND,
    errors.DaemonAlreadyRunning: CONFLICT,
    errors.DaemonStartFailed: FAILED,
    errors.TimedOut: TIMED_OUT,
    errors.Degraded: DEGRADED,
}
"""Every class of the tree, spelled out: a new error does not get a code by accident."""


def exit_code(error: errors.ClipperfsError) -> int:
    """Return the exit code of an error; of its nearest known ancestor when a plug-in brought its own class."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
