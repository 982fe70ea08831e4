"""What an answer of an S3 server means, by its HTTP status: absent, taken, denied, away, full, or something else.

The status is read from the exception or from its cause: servers differ in the exceptions that client libraries make of
one and the same answer (measured on AWS's client against moto, Ceph and Swift).
"""

from __future__ import annotations

from typing import Any

import aiohttp
from botocore import exceptions as boto

from clipperfs.errors import StorageDenied, StorageError, StorageFull, StorageUnavailable
from clipperfs.store.oserror import name_right

TAKEN = 412
CONTENDED = 409
NOT_OFFERED = 501
EMPTY_RANGE = 416
_PASSING = frozenset([408, 429, 500, 502, 503, 504])
_PASSING_CODES = frozenset(["RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable"])
_FULL_CODES = frozenset(["QuotaExceeded", "StorageFull", "XMinioStorageFull", "InsufficientStorage"])
_ELSEWHERE_CODES = frozenset(
    ["PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"]
)
_CUT = (
    OSError,
    EOFError,
    aiohttp.ClientError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
)
_NO_CREDENTIALS = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)
_NO_SETTING = (boto.ProfileNotFound, boto.NoRegionError, boto.ConfigParseError, boto.ConfigNotFound)


def status_of(error: BaseException | None) -> int | None:
    """Return the HTTP status that an exception or its cause carries, or ``None`` when no answer was had."""
    while error is not None:
        status = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None


def code_of(error: BaseException | None) -> str:
    """Return the server's own name for the error; empty when there is none."""
    while error is not None:
        code = _answer(error).get("Error", {}).get("Code")
        if code:
            return str(code)
        error = error.__cause__
    return ""


def is_absent(error: BaseException) -> bool:
    """Say whether the server told that there is no such object. A bucket that is not there is another matter."""
    return status_of(error) == 404 and code_of(error) not in ("NoSuchBucket", "NoSuchUpload")


def is_passing(error: BaseException) -> bool:
    """Say whether the same call may succeed a moment later."""
    status = status_of(error)
    if status is None:
        return isinstance(error, _CUT) or isinstance(error.__cause__, _CUT)
    return status in _PASSING or code_of(error) in _PASSING_CODES


def s3_error(error: BaseException, action: str, key: str, bucket: str) -> StorageError:
    """Return what a failed call means, in the project's own terms. Never holds a credential."""
    status, code = status_of(error), code_of(error)
    told = str(_answer(error).get("Error", {}).get("Message") or "")[:200]
    what = f"cannot {action} {key}: " + (": ".join(filter(None, [code, told])) or _spell(error))
    fields: dict[str, Any] = {"key": key, "status": status}
    if isinstance(error, _NO_CREDENTIALS):
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return StorageDenied(f"cannot {action} {key}: no credentials for bucket {bucket}", hint=hint, **fields)
    if isinstance(error, _NO_SETTING):
        return StorageError(what, hint="check AWS_PROFILE, AWS_REGION and ~/.aws/config", **fields)
    if code in _FULL_CODES or status == 507:
        return StorageFull(what, hint="make room in the bucket or raise its quota, then run it again", **fields)
    if code == "RequestTimeTooSkewed":
        return StorageDenied(what, hint="this host's clock is wrong; set it", **fields)
    if status in (401, 403):
        hint = f"these credentials lack a right on bucket {bucket}; docs/storage_s3.md lists the rights that are needed"
        return name_right(StorageDenied(what, hint=hint, **fields), action, key)
    if code == "NoSuchBucket":
        return StorageUnavailable(
            what, hint=f"create bucket {bucket}, or check the address and AWS_ENDPOINT_URL", **fields
        )
    if status in (301, 307) or code in _ELSEWHERE_CODES:
        return StorageError(what, hint="the bucket lies in another region; set AWS_REGION", **fields)
    if is_passing(error):
        return StorageUnavailable(
            what, hint="the server does not answer as it should; run it again when it does", **fields
        )
    return StorageError(what, hint="run it again; if it fails in the same way, check the server", **fields)


def _answer(error: BaseException) -> dict[str, Any]:
    answer = getattr(error, "response", None)
    return answer if isinstance(answer, dict) else {}


def _spell(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return f"{type(error).__name__}: {str(error)[:200]}"
