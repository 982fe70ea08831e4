"""Reads ``registry_layout.md``: its sections, its fenced blocks and its tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "registry_layout.md").read_text()

_FENCE = re.compile(r"^```(?P<language>\w+)(?: (?P<name>\S+))?\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{2,3} (?P<number>\d+(?:\.\d+)?)\. (?P<title>.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block."""

    language: str
    name: str
    """What follows the language: the document that the block is an example of."""
    body: str
    line: int


def blocks() -> list[Block]:
    """Return every fenced block of the page, in order."""
    return [
        Block(found["language"], found["name"] or "", found["body"], TEXT[: found.start()].count("\n") + 1)
        for found in _FENCE.finditer(TEXT)
    ]


def sections() -> dict[str, str]:
    """Return the title of every numbered section."""
    return {found["number"]: found["title"] for found in _HEADING.finditer(_FENCE.sub("", TEXT))}


def section(number: str) -> str:
    """Return a section's text, up to the next heading."""
    starts = [found for found in _HEADING.finditer(TEXT) if found["number"] == number]
    assert len(starts) == 1, f"§{number} appears {len(starts)} times"
    rest = TEXT[starts[0].end() :]
    end = re.search(r"^#{2,3} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest
