"""``registry_layout.md`` says what the code does: examples, schemas, fields, limits, sections, invariants."""

from __future__ import annotations

import ast
import base64
import importlib
import itertools
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clipperfs import layout
from clipperfs.digest import NO_DIGEST, digest_bytes
from clipperfs.documents import (
    AppRecord,
    AppState,
    AuthorFile,
    CheckReport,
    Document,
    FileEntry,
    Manifest,
    ModelRecord,
    ModelState,
    Policy,
    ProbeReport,
    RegistryDocument,
    SignatureEnvelope,
    Statement,
    Tombstone,
    VersionSettings,
    canonical_bytes,
    parse_author_file,
    parse_document,
)
from clipperfs.documents.author import INHERITED_FIELDS
from clipperfs.documents.schema import DOCUMENTS, FOLDER, schema_of, schema_text
from clipperfs.documents.status import ChangeHint, ReplicaStatus
from clipperfs.layout import path_problem
from clipperfs.limits import LIMITS
from clipperfs.names import name_problem
from clipperfs.signing.key import PublicKey
from clipperfs.signing.version import Claim, envelope_problem

from .page import ROOT, TEXT, Block, blocks, section, sections

JSON_BLOCKS = [block for block in blocks() if block.language == "json"]


def parse(block: Block) -> Document:
    """Return the document of a JSON block."""
    return parse_document(DOCUMENTS[block.name], block.body.encode(), limit_bytes=LIMITS.manifest_bytes)


def example(name: str, position: int = 0) -> tuple[Any, bytes]:
    """Return an example, parsed and as bytes."""
    block = [block for block in JSON_BLOCKS if block.name == name][position]
    return parse(block), block.body.encode()


@pytest.mark.parametrize("block", JSON_BLOCKS, ids=lambda block: f"{block.name}-line{block.line}")
def test_example_is_valid_and_in_the_canonical_spelling(block: Block) -> None:
    assert canonical_bytes(parse(block)) == block.body.encode()
    schema = schema_of(block.name)
    jsonschema.Draft202012Validator(schema).validate(json.loads(block.body))


def test_every_document_has_an_example() -> None:
    assert {block.name for block in blocks() if block.language in ("json", "yaml")} == set(DOCUMENTS)
    assert {block.language for block in blocks()} == {"json", "yaml", "text", "sh"}


def test_author_example_is_what_the_manifest_example_keeps() -> None:
    [block] = [block for block in blocks() if block.language == "yaml"]
    manifest, _ = example("manifest.v1")
    assert parse_author_file(block.body.encode()).settings() == manifest.settings
    [entry] = [entry for entry in manifest.files if entry.path == layout.AUTHOR_FILE]
    assert (entry.size, entry.sha256) == (len(block.body.encode()), digest_bytes(block.body.encode()))


def test_examples_refer_to_each_other_by_their_true_digests() -> None:
    registry, _ = example("registry.v1")
    _, manifest_bytes = example("manifest.v1")
    first, first_bytes = example("record.model.v1", 0)
    second, _ = example("record.model.v1", 1)
    app, _ = example("record.app.v1")
    report, report_bytes = example("report.v1")
    hint, _ = example("hint.v1")
    assert registry.registry_id == first.registry_id == second.registry_id == app.registry_id
    assert first.prev == app.prev == NO_DIGEST
    assert second.prev == digest_bytes(first_bytes)
    assert [first.seq, second.seq, hint.seq] == [1, 2, 2]
    assert digest_bytes(manifest_bytes) == first.evidence.manifest == second.state.active.manifest == report.manifest
    assert second.evidence.report.sha256 == digest_bytes(report_bytes)
    assert second.evidence.verdicts == report.verdicts


def test_signature_example_is_the_statements_by_the_key_that_the_text_names() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")  # RFC 8032 §7.1, TEST 1
    raw = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    _, data = example("signature.v1")
    statement, payload = example("statement.v1")
    assert base64.b64decode(json.loads(data)["payload"]) == payload
    claim = Claim(statement.registry_id, statement.model, statement.version, statement.manifest)
    assert envelope_problem(data, PublicKey(raw), claim) is None
    assert example("record.model.v1", 0)[0].evidence.manifest == statement.manifest


@pytest.mark.parametrize("name", DOCUMENTS)
def test_committed_schema_is_the_one_of_the_model(name: str) -> None:
    path = FOLDER / f"{name}.json"
    assert path.read_text() == schema_text(name), "run python -m clipperfs.documents.schema --write"
    jsonschema.Draft202012Validator.check_schema(schema_of(name))


def test_no_schema_is_left_over() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in DOCUMENTS}


@pytest.mark.parametrize("name", sorted(DOCUMENTS.keys() - {"model_yaml.v1"}))
def test_schema_allows_unknown_fields_at_every_level(name: str) -> None:
    schema = schema_of(name)
    for part in [schema, *schema.get("$defs", {}).values()]:
        if part.get("type") == "object":
            assert part.get("additionalProperties") is True
            assert (
                DOCUMENTS[name] is ChangeHint
                or "schema" not in part.get("properties", {})
                or ("schema" in part["required"])
            )


HOSTILE_NAMES = ["", "A", "a\n", "a..b", "con", "nul.txt", "com1", ".a", "a.", "a/b", "１２", "a" * 64, "ä", "-a"]
HOSTILE_PATHS = ["", "/a", "a/", "a//b", ".", "..", "./a", "a/..", "a/../b", "a\\b", "c:a", "a\n", "a\x7f", "READY",
                 "manifest.json", "tombstone.json/x", ".claim-x", "s3://a/b"]  # fmt: skip
ORDINARY = ["a", "1.0.3", "a.b", "console", "com10", "x.con", "a" * 63, "0"]


def test_schema_refuses_the_names_and_paths_that_the_code_refuses() -> None:
    names = jsonschema.Draft202012Validator(schema_of("hint.v1")["properties"]["name"])
    paths = jsonschema.Draft202012Validator(schema_of("manifest.v1")["$defs"]["FileEntry"]["properties"]["path"])
    for name in [*HOSTILE_NAMES, *ORDINARY]:
        assert names.is_valid(name) == (name_problem(name) is None), name
    for path in [*HOSTILE_PATHS, *ORDINARY, "a/b", "été", "a b", "sub/READY", ".x", "a/b:c", "..."]:
        assert paths.is_valid(path) == (path_problem(path) is None), path


FIELD_TABLES: list[tuple[str, type[Document], int]] = [
    ("7.1", RegistryDocument, 0),
    ("7.2", Manifest, 0),
    ("7.2", FileEntry, 1),
    ("7.3", AuthorFile, 0),
    ("7.4", ModelRecord, 0),
    ("7.4", ModelState, 2),
    ("7.4", Policy, 3),
    ("7.5", AppState, 0),
    ("7.7", Tombstone, 0),
    ("7.8", CheckReport, 0),
    ("7.9", ChangeHint, 0),
    ("7.10", ReplicaStatus, 0),
    ("7.11", ProbeReport, 0),
    ("7.12", SignatureEnvelope, 0),
    ("7.13", Statement, 0),
]


def tables(number: str) -> list[list[list[str]]]:
    """Return the tables of a section: lists of rows, rows lists of cells, without the head."""
    found: list[list[list[str]]] = []
    lines = [*re.sub(r"^```.*?^```$", "", section(number), flags=re.MULTILINE | re.DOTALL).splitlines(), ""]
    for is_table, group in itertools.groupby(lines, key=lambda line: line.startswith("|")):
        if is_table:
            rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in group]
            found.append(rows[2:])
    return found


@pytest.mark.parametrize(("number", "kind", "position"), FIELD_TABLES, ids=lambda value: getattr(value, "__name__", ""))
def test_table_lists_exactly_the_fields_of_the_document(number: str, kind: type[Document], position: int) -> None:
    rows = tables(number)[position]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(listed) == sorted(info.alias or name for name, info in kind.model_fields.items())
    head = section(number)
    if "| required |" in head and kind not in (ModelState, Policy, AuthorFile):
        required = {name for row in rows if row[2] == "yes" for name in re.findall(r"`(\w+)`", row[0])}
        schema = kind.model_fields
        assert required == {
            info.alias or name for name, info in schema.items() if info.is_required() or name == "schema_"
        }


def test_defaults_in_the_policy_table_are_those_of_the_code() -> None:
    written = {row[0].strip("`"): json.loads(row[2].strip("`")) for row in tables("7.4")[3]}
    assert written == {**Policy().model_dump(mode="json"), "rollout_limits": None}


def test_inherited_fields_in_the_text_are_those_of_the_code() -> None:
    paragraph = section("7.3").split("**Inheritance.**")[1].split("\n\n")[0].split("takes each of them over")[0]
    assert tuple(re.findall(r"`(\w+)`", paragraph)) == INHERITED_FIELDS
    assert set(INHERITED_FIELDS) < set(VersionSettings.model_fields)


def test_limits_in_the_table_are_those_of_the_code() -> None:
    written = {row[2].strip("`"): int(row[1].split()[0]) for row in tables("6")[0]}
    assert written == {item.name: getattr(LIMITS, item.name) for item in fields(LIMITS)}


def test_name_examples_in_the_table_are_judged_as_it_says() -> None:
    for accepted, refused, _ in tables("5")[0]:
        for name in re.findall(r"`([^`]+)`", accepted):
            assert name_problem(name) is None, name
        for name in re.findall(r"`([^`]+)`", refused):
            if name != "a" or "line feed" not in refused:
                assert name_problem(name) is not None or "times" in refused, name


def test_reserved_names_in_the_text_are_those_of_the_code() -> None:
    rule = section("5.1").split("4. not begin")[1].split("\n\n")[0]
    written = set(re.findall(r"`([^`]+)`", rule))
    assert written == {*layout.NOT_PAYLOAD, layout.STAGING_PREFIX, layout.CLAIM_PREFIX}


def python_files() -> list[Path]:
    """Return the project's own Python files."""
    folders = ["clipperfs", "serverd", "wrappers", "hooks", "tests", "examples", "benchmarks"]
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


def test_sections_are_numbered_without_gaps() -> None:
    numbers = [tuple(map(int, number.split("."))) for number in sections()]
    assert [number[0] for number in numbers if len(number) == 1] == list(range(1, 13))
    for top, group in itertools.groupby(numbers, key=lambda number: number[0]):
        subsections = [number[1] for number in group if len(number) == 2]
        assert subsections == list(range(1, len(subsections) + 1)), top


def test_every_section_that_is_cited_exists() -> None:
    known = set(sections())
    for path in python_files():
        for line in path.read_text().splitlines():
            for cited in re.findall(r"registry_layout\.md`*\)?,? ((?:§[\d.]+(?:, | and )?)+)", line):
                for number in re.findall(r"§(\d+(?:\.\d+)*)", cited):
                    assert number in known, f"{path.relative_to(ROOT)} cites §{number}"
    for number in re.findall(r"§(\d+(?:\.\d+)?)", TEXT):
        assert number in known, f"registry_layout.md cites §{number}"


def test_links_inside_the_page_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert target in anchors, target


def test_every_invariant_names_tests_that_exist() -> None:
    rows = tables("9")[0]
    assert [row[0] for row in rows] == [f"I{number}" for number in range(1, len(rows) + 1)]
    for number, _, cell in rows:
        tests = re.findall(r"`([^`]+)::(\w+)`", cell)
        assert tests, number
        for file, name in tests:
            tree = ast.parse((ROOT / file).read_text())
            assert any(isinstance(node, ast.FunctionDef) and node.name == name for node in ast.walk(tree)), (
                f"{number}: {file} has no {name}"
            )


def test_every_document_model_has_a_schema() -> None:
    module = importlib.import_module("clipperfs.documents")
    stored: set[type[Document]] = {
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Document) and "schema_" in kind.model_fields
    }
    base: set[type[Document]] = {kind for kind in stored if any(kind in other.__mro__[1:] for other in stored)}
    assert stored - base == set(DOCUMENTS.values()) - {ChangeHint, AuthorFile}
    assert AppRecord in stored


@pytest.mark.parametrize("word", ["deploy", "latest", "container", "endpoint", "repository", "servable"])
def test_page_keeps_to_the_words_of_the_project(word: str) -> None:
    assert not re.search(rf"\b{word}", TEXT, re.IGNORECASE)
