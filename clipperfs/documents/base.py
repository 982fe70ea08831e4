"""What every document shares: strict JSON in, canonical bytes out, unknown fields kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from clipperfs.errors import InvalidDocument
from clipperfs.limits import LIMITS

DocumentT = TypeVar("DocumentT", bound="Document")


class Document(BaseModel):
    """A stored document. Fields that this release does not know survive a read and a write."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, ser_json_inf_nan="constants")


def canonical_bytes(document: Document) -> bytes:
    """Return the one spelling that clipperfs writes: UTF-8 JSON, keys sorted, two spaces, a newline at the end.

    Digests are always taken over the bytes as stored, so another writer may spell a document differently.
    """
    tree = document.model_dump(mode="json", by_alias=True)
    return (json.dumps(tree, ensure_ascii=False, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()


def parse_document(kind: type[DocumentT], data: bytes, *, limit_bytes: int) -> DocumentT:
    """Parse ``data`` as a document of ``kind``.

    Raises:
        InvalidDocument: more than ``limit_bytes``, not UTF-8, not JSON, a duplicate key, NaN or Infinity, nested too
            deep, without its ``schema``, or with a field that does not fit it (``"5"`` is not a number here).
    """
    tree = parse_json(data, limit_bytes=limit_bytes)
    if isinstance(tree, dict) and "schema_" in kind.model_fields and "schema" not in tree:
        raise InvalidDocument(f"not a valid {kind.__name__}: schema: Field required")
    try:
        return kind.model_validate(tree, strict=True)
    except ValidationError as error:
        raise InvalidDocument(f"not a valid {kind.__name__}: {validation_summary(error)}") from error


def parse_json(data: bytes, *, limit_bytes: int) -> Any:
    """Parse strict JSON (RFC 8259, UTF-8, no duplicate keys, no NaN). Raises InvalidDocument."""
    if len(data) > limit_bytes:
        raise InvalidDocument(f"{len(data)} bytes are more than the limit of {limit_bytes}")
    try:
        tree = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
        if b"\\u" in data:  # only an escape can bring a lone surrogate, which fails here
            json.dumps(tree, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"not valid JSON: {str(error)[:200]}") from error
    opened = data.count(b"{") + data.count(b"[")
    if opened > LIMITS.document_depth and _depth_exceeds(tree, LIMITS.document_depth):  # else it cannot be that deep
        raise InvalidDocument(f"nested more than {LIMITS.document_depth} levels deep")
    return tree


def validation_summary(error: ValidationError) -> str:
    """Return pydantic's findings as one line that names each field."""
    findings = [
        f"{'.'.join(map(str, finding['loc'])) or 'document'}: {finding['msg'].removeprefix('Value error, ')}"
        for finding in error.errors()
    ]
    more = f" (and {len(findings) - 3} more)" if len(findings) > 3 else ""
    return "; ".join(findings[:3]) + more


def utc_now() -> str:
    """Return the present as RFC 3339 in UTC with milliseconds. Times inform people; they never order anything."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("an object holds the same key twice")
    return tree


def _finite_float(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError(f"{text[:40]} is too large")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _depth_exceeds(tree: Any, levels: int) -> bool:
    layer = [tree]
    for _ in range(levels):
        layer = [
            child
            for node in layer
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not layer:
            return False
    return True
