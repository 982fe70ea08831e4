"""Fuzzes the reading of a registry's documents: ``python -m tests.fuzz.fuzz_documents --help``.

An input's first byte chooses the kind of document; the others are the file's bytes.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any, Final

from clipperfs.errors import InvalidDocument
from tests.fuzz.driver import instrumented, run
from tests.fuzz.replies import Broken

with instrumented("clipperfs.documents"):
    from clipperfs import documents
    from clipperfs.documents.base import canonical_bytes

KINDS: Final = (
    documents.ModelRecord, documents.AppRecord, documents.Manifest, documents.RegistryDocument, documents.Tombstone,
    documents.ChangeHint, documents.CheckReport, documents.ReplicaStatus,
)  # fmt: skip
LIMIT_BYTES: Final = 1 << 16
FIXTURES: Final = Path(__file__).parents[1] / "spec" / "fixtures"
SAMPLES: Final = [path.read_bytes() for path in sorted(FIXTURES.rglob("*.json"))]
VALUES: Final[tuple[Any, ...]] = (
    None, True, 0, -1, 2**63, 2**70, 0.5, 1e300, "", "x" * 300, "\ud800", "\u0000", "..", "/", "é", [], {}, [[]],
    "0" * 64,
    "2026-11-20T12:00:00.000Z", "2026-13-40T99:00:00.000Z", "v2", "../../etc", {"a": {"b": [1]}},
)  # fmt: skip
TOKENS: Final = (
    b"NaN",
    b"Infinity",
    b"\\ud800",
    b'"',
    b"{",
    b"}",
    b"[" * 80,
    b"1e999",
    b"\xff",
    b"\x00",
    b"\xef\xbb\xbf",
    b",",
)


def check(data: bytes) -> None:
    """Raise for bytes that are neither read nor refused, or that are written and read as something else."""
    choice, body = (data[0] if data else 0), data[1:]
    if choice % 9 == 8:
        try:
            documents.parse_author_file(body)
        except InvalidDocument:
            pass
        return
    kind = KINDS[choice % 9]
    try:
        document = documents.parse_document(kind, body, limit_bytes=LIMIT_BYTES)
    except InvalidDocument as error:
        str(error).encode()
        return
    if documents.parse_document(kind, canonical_bytes(document), limit_bytes=4 * LIMIT_BYTES) != document:
        raise Broken(f"{kind.__name__} is another after it was written: {body!r}")


def make(random: Random) -> bytes:
    """Return a kind and a document of the fixtures with some fields changed."""
    tree = json.loads(random.choice(SAMPLES))
    for _ in range(random.randrange(3)):
        _change_tree(tree, random)
    return random.randbytes(1) + json.dumps(tree).encode("utf-8", "surrogatepass")


def _change_tree(tree: Any, random: Random) -> None:
    while isinstance(tree, dict) and tree:
        name = random.choice(list(tree))
        if isinstance(tree[name], dict) and tree[name] and random.random() < 0.7:
            tree = tree[name]
            continue
        roll = random.random()
        if roll < 0.2:
            del tree[name]
        elif roll < 0.3:
            tree["x" + name] = deepcopy(random.choice(VALUES))
        else:
            tree[name] = deepcopy(random.choice(VALUES))
        return


def change(data: bytes, random: Random) -> bytes:
    """Change the kind or some bytes."""
    if random.random() < 0.2:
        return random.randbytes(1) + data[1:]
    place = random.randrange(1, len(data) + 1) if data else 0
    stop = min(len(data), place + random.choice((0, 1, 4)))
    return data[:place] + random.choice((*TOKENS, random.randbytes(stop - place))) + data[stop:]


if __name__ == "__main__":
    run(check, make, change)
