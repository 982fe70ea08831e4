"""The table from errors to HTTP status codes, and the reason phrases that the servers use."""

from __future__ import annotations

from typing import Final

from clipperfs import errors

REASONS: Final = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    417: b"Expectation Failed",
    422: b"Unprocessable Content",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
    507: b"Insufficient Storage",
}

STATUS: Final[dict[type[errors.ClipperfsError], int]] = {
    errors.ClipperfsError: 500,
    errors.CallerError: 400,
    errors.InvalidName: 400,
    errors.InvalidDocument: 400,
    errors.InvalidSource: 400,
    errors.InvalidInput: 400,
    errors.InvalidSetting: 400,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.ActivationRefused: 422,
    errors.StoredDataError: 500,
    errors.DamagedLog: 500,
    errors.DamagedVersion: 500,
    errors.IncompleteVersion: 409,
    errors.UnknownFeature: 500,
    errors.StorageError: 502,
    errors.StorageDenied: 403,
    errors.StorageFull: 507,
    errors.StorageUnavailable: 502,
    errors.OutcomeUnknown: 502,
    errors.UnsafeStorage: 502,
    errors.ServingError: 503,
    errors.LoadFailed: 422,
    errors.PredictFailed: 502,
    errors.ReplicaLost: 503,
    errors.DaemonNotRunning: 503,
    errors.DaemonAlreadyRunning: 409,
    errors.DaemonStartFailed: 503,
    errors.TimedOut: 504,
    errors.Degraded: 503,
}
"""Every error of ``clipperfs.errors`` has its own row; a test holds the table complete."""


def status_of(error: BaseException) -> int:
    """Return the status code for an error: its own row, else that of the nearest ancestor, else 500."""
    for ancestor in type(error).__mro__:
        if ancestor in STATUS:
            return STATUS[ancestor]
    return 500
