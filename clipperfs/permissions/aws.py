"""The rights on a model as a policy document of S3. Pure.

Records and manifests can only be created, on the condition ``s3:if-none-match``: any other PUT is denied, and so is
every deletion. Source: Amazon S3 user guide, "Enforce conditional writes on Amazon S3 buckets"; IAM user guide, "Null".
"""

from __future__ import annotations

from typing import Any, Literal

from clipperfs.errors import InvalidSetting
from clipperfs.names import ModelName
from clipperfs.rights import RIGHTS, Right

Dialect = Literal["aws", "ceph"]
ARN = "arn:aws:s3:::"


def policy_document(
    bucket: str,
    prefix: str,
    model: ModelName,
    right: Right,
    principal: str | None = None,
    dialect: Dialect = "aws",
) -> dict[str, Any]:
    """Return a policy that gives one right on one model, and forbids what nobody may ever do.

    Args:
        prefix: the registry's, inside the bucket; may be empty.
        principal: an ARN: the document is a bucket policy, whose prohibitions hold for everybody. ``None``: it is an
            identity policy, to be attached to a user or role.
        dialect: ``ceph`` leaves the condition out: gateways that do not know its key find it never fulfilled, and deny
            every record (measured on 16.2). What is overwritten there is found by the chain, and not prevented.

    Raises InvalidSetting when the principal cannot be one.
    """
    if principal is not None and (not principal.strip() or any(char.isspace() for char in principal)):
        raise InvalidSetting(f"{principal!a} is no principal", hint="such as arn:aws:iam::111122223333:role/ci")
    base = f"{prefix}/" if prefix else ""
    top = f"{base}models/{model}"
    level = RIGHTS.index(right)
    statements = [_list(bucket, base, top), _read(bucket, base, top)]
    if level >= RIGHTS.index("publish"):
        statements += _publish(bucket, top)
    if level >= RIGHTS.index("activate"):
        statements += _activate(bucket, base, top)
    only_create, never_delete = _never(bucket, top)
    statements += [only_create, never_delete] if dialect == "aws" else [never_delete]
    for statement in statements:
        if principal is not None:
            statement["Principal"] = "*" if statement["Effect"] == "Deny" else {"AWS": principal}
    order = ("Sid", "Effect", "Principal", "Action", "Resource", "Condition")
    return {
        "Version": "2012-10-17",
        "Statement": [{name: each[name] for name in order if name in each} for each in statements],
    }


def _resources(bucket: str, *keys: str) -> list[str]:
    return [f"{ARN}{bucket}/{key}" for key in keys]


def _list(bucket: str, base: str, top: str) -> dict[str, Any]:
    # IfExists: a GET of what is not there asks for this right without a prefix; denied, it says 403 instead of 404.
    prefixes = [f"{base}models/", f"{top}/*", f"{base}changes/*", f"{base}apps/*", f"{base}replicas/*"]
    return {
        "Sid": "List",
        "Effect": "Allow",
        "Action": ["s3:ListBucket"],
        "Resource": [f"{ARN}{bucket}"],
        "Condition": {"StringLikeIfExists": {"s3:prefix": prefixes}},
    }


def _read(bucket: str, base: str, top: str) -> dict[str, Any]:
    keys = (f"{base}registry.json", f"{top}/*", f"{base}changes/*", f"{base}apps/*", f"{base}replicas/*")
    return {"Sid": "Read", "Effect": "Allow", "Action": ["s3:GetObject"], "Resource": _resources(bucket, *keys)}


def _publish(bucket: str, top: str) -> list[dict[str, Any]]:
    return [
        {
            "Sid": "Publish",
            "Effect": "Allow",
            "Action": ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
            "Resource": _resources(bucket, f"{top}/versions/*", f"{top}/signatures/*"),
        },
        {
            "Sid": "GoOnAfterACut",
            "Effect": "Allow",
            "Action": ["s3:ListBucketMultipartUploads"],
            "Resource": [f"{ARN}{bucket}"],
        },
        {
            "Sid": "EndAPublish",
            "Effect": "Allow",
            "Action": ["s3:DeleteObject"],
            "Resource": _resources(bucket, f"{top}/versions/*/.claim-publishing"),
        },
    ]


def _activate(bucket: str, base: str, top: str) -> list[dict[str, Any]]:
    return [
        {
            "Sid": "Activate",
            "Effect": "Allow",
            "Action": ["s3:PutObject"],
            "Resource": _resources(bucket, f"{top}/log/*", f"{top}/checks/*", f"{top}/active.json", f"{base}changes/*"),
        },
        {
            "Sid": "Collect",
            "Effect": "Allow",
            "Action": ["s3:DeleteObject"],
            "Resource": _resources(bucket, f"{top}/versions/*", f"{base}changes/*"),
        },
    ]


def _never(bucket: str, top: str) -> list[dict[str, Any]]:
    once = _resources(
        bucket, f"{top}/log/*", f"{top}/checks/*", f"{top}/signatures/*", f"{top}/versions/*/manifest.json",
        f"{top}/versions/*/tombstone.json",
    )  # fmt: skip
    return [
        {
            "Sid": "OnlyCreate",
            "Effect": "Deny",
            "Action": ["s3:PutObject"],
            "Resource": once,
            "Condition": {"Null": {"s3:if-none-match": "true"}},
        },
        {
            "Sid": "NeverDelete",
            "Effect": "Deny",
            "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion"],
            "Resource": once,
        },
    ]
