"""JSON Schemas of the stored documents, made from their models: ``python -m clipperfs.documents.schema --write``.

They describe what a writer produces. Unknown fields are allowed everywhere but in ``model.yaml``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import CoreSchema

from clipperfs.documents.author import AuthorFile
from clipperfs.documents.base import Document
from clipperfs.documents.manifest import Manifest, Tombstone
from clipperfs.documents.probe import ProbeReport
from clipperfs.documents.record import AppRecord, ModelRecord
from clipperfs.documents.signature import SignatureEnvelope, Statement
from clipperfs.documents.status import ChangeHint, CheckReport, RegistryDocument, ReplicaStatus
from clipperfs.limits import LIMITS
from clipperfs.names import MAX_NAME_CHARS

FOLDER = Path(__file__).with_name("schemas")

DOCUMENTS: dict[str, type[Document]] = {
    "registry.v1": RegistryDocument,
    "record.model.v1": ModelRecord,
    "record.app.v1": AppRecord,
    "manifest.v1": Manifest,
    "model_yaml.v1": AuthorFile,
    "tombstone.v1": Tombstone,
    "report.v1": CheckReport,
    "hint.v1": ChangeHint,
    "replica.v1": ReplicaStatus,
    "probe.v1": ProbeReport,
    "signature.v1": SignatureEnvelope,
    "statement.v1": Statement,
}
"""The model of each document, by the name of its schema file."""

# Some engines let "$" match before a last line feed; the first lookahead of each pattern leaves none to match.
_NAME: dict[str, Any] = {
    "pattern": r"^(?![\s\S]*\s)(?!.*\.\.)(?!(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$))"
    r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$",
    "maxLength": MAX_NAME_CHARS,
}
_DIGEST: dict[str, Any] = {"pattern": "^[0-9a-f]{64}$", "minLength": 64, "maxLength": 64}
_PATH: dict[str, Any] = {
    "pattern": r"^(?![\s\S]*[\u0000-\u001f\u007f\\])(?![^/]*:)"
    r"(?!(?:manifest\.json|tombstone\.json|READY|_SUCCESS)(?:/|$))(?!\.(?:staging|claim)-)"
    r"(?!(?:.*/)?\.{1,2}(?:/|$))(?!/)(?!.*//)(?!.*/$).+$",
    "maxLength": LIMITS.path_bytes,
}

_RULES: dict[str, dict[str, Any]] = {
    "model": _NAME,
    "version": _NAME,
    "app": _NAME,
    "replica": _NAME,
    "name": _NAME,
    "active": _NAME,
    "manifest": _DIGEST,
    "sha256": _DIGEST,
    "key_id": _DIGEST,
    "keyid": _DIGEST,
    "prev": _DIGEST,
    "path": _PATH,
    "requirements": _PATH,
    "sample": _PATH,
}
"""Rules that the models check in Python, by the name of the property that holds such text."""

_FREE = {"WrapperSettings", "HookSettings", "Verdict", "ProbeCheck"}
"""Objects whose ``name`` or ``kind`` is not a name of §5, but that of an entry point or of a check."""


class _Generator(GenerateJsonSchema):
    """Pydantic's generator without the titles that only repeat property names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def generate(self, schema: CoreSchema, mode: JsonSchemaMode = "validation") -> JsonSchemaValue:
        tree = super().generate(schema, mode)
        for name, part in [(str(tree.get("title")), tree), *tree.get("$defs", {}).items()]:
            _tighten(name, part)
        return tree


def _tighten(name: str, part: dict[str, Any]) -> None:
    """Add to one object's schema what its model checks in code."""
    properties = part.get("properties", {})
    if "schema" in properties:
        part["required"] = ["schema", *part.get("required", [])]
    for key, rules in _RULES.items():
        if key not in properties or name in _FREE:
            continue
        for choice in (properties[key], *properties[key].get("anyOf", [])):
            if choice.get("type") == "string":
                choice.update(rules)
    for key in ("aliases", "retired", "models", "publishers"):
        if key in properties:
            properties[key]["propertyNames"] = dict(_NAME)


def schema_of(name: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) called ``name``."""
    tree = DOCUMENTS[name].model_json_schema(by_alias=True, schema_generator=_Generator, mode="validation")
    return {"$schema": _Generator.schema_dialect, "$id": f"urn:clipperfs:{name}", **tree}


def schema_text(name: str) -> str:
    """Return the committed spelling of a schema."""
    return json.dumps(schema_of(name), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the schemas, or compare them with the ones on disk (exit code 1 when one differs)."""
    parser = argparse.ArgumentParser(prog="python -m clipperfs.documents.schema", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the files instead of comparing them")
    write: bool = parser.parse_args(arguments).write
    stale = 0
    for name in DOCUMENTS:
        path, text = FOLDER / f"{name}.json", schema_text(name)
        if path.is_file() and path.read_text() == text:
            continue
        if write:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text)
        else:
            stale += 1
            print(f"{path}: differs from the models; run with --write", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
