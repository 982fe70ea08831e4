"""What a bucket tells of the rights on a model: its policy, where it may be read. Policies of users it never tells."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from clipperfs import layout
from clipperfs.errors import StorageDenied, StorageError
from clipperfs.names import ModelName
from clipperfs.workspace import Workspace

if TYPE_CHECKING:
    from clipperfs.permissions.verb import Permissions


def describe_bucket(workspace: Workspace, model: ModelName, report: Permissions) -> None:
    """Note into ``report`` what can be known."""
    from clipperfs.permissions.verb import Holder
    from clipperfs.store.s3 import S3Store

    store = workspace.store
    assert isinstance(store, S3Store)
    try:
        next(iter(store.list(layout.versions(model))), None)
        report.me = Holder("these credentials", "read")
    except StorageDenied:
        report.me = Holder("these credentials", None)
    report.notes.append("whether these credentials may also publish or activate shows only when they try")
    try:
        document = store.bucket_policy()
    except StorageDenied:
        report.notes.append(f"the policy of bucket {store.bucket} may not be read with these credentials")
    except StorageError as error:
        report.notes.append(f"the policy of bucket {store.bucket} cannot be read: {error.message}")
    else:
        report.statements = statements_about(document, store.bucket, f"{store.prefix}/".lstrip("/"), model)
        if not report.statements:
            report.notes.append(f"no statement of the policy of bucket {store.bucket} is about this model")
    report.notes += [
        "policies of users and roles are not visible from here; ask whoever administers them",
        f"'clipperfs permissions {model} --print-policy aws --right publish --principal ARN' prints what they need",
    ]


def statements_about(document: str | None, bucket: str, base: str, model: ModelName) -> list[dict[str, Any]]:
    """Return the statements of a policy document that may be about a model. Pure."""
    try:
        tree = json.loads(document or "{}")
        found = tree.get("Statement", [])
    except (ValueError, AttributeError):
        return []
    top = f"arn:aws:s3:::{bucket}/{base}models/{model}/"
    names = (
        "log/1.json",
        "versions/1/manifest.json",
        "versions/1/.claim-publishing",
        "signatures/a/b.json",
        "active.json",
    )
    probes = [f"{top}{name}" for name in names]
    chosen = []
    for statement in found if isinstance(found, list) else [found]:
        resources = statement.get("Resource", []) if isinstance(statement, dict) else []
        patterns = [resources] if isinstance(resources, str) else resources
        if any(fnmatchcase(probe, str(pattern).replace("[", "[[]")) for probe in probes for pattern in patterns):
            chosen.append(statement)
    return chosen
