"""Terminal text: hostile characters are made visible, columns line up, sizes are short."""

from __future__ import annotations

import pytest

from clipperfs.cli.text import plural, size, table, visible


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("line\nbreak\r", "line\\x0abreak\\x0d"),
        ("\x9b2J", "\\x9b2J"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\x7f", "\\x7f"),
        ("\ud800", "\\ud800"),
        ("\u2028", "\\u2028"),
        ("\U000e0041", "\\U000e0041"),
        ("Grüße, 模型", "Grüße, 模型"),
        (7, "7"),
    ],
)
def test_hostile_character_is_shown_as_an_escape(hostile: object, shown: str) -> None:
    assert visible(hostile) == shown


def test_kept_characters_stay() -> None:
    assert visible("a\tb\x1b", keep="\t") == "a\tb\\x1b"


def test_table_lines_up_and_escapes() -> None:
    text = table(("name", "n", "why"), [("a", 1, "x\x1b"), ("longer", None, ""), ("b", 22, "free text here")])
    assert text.splitlines() == [
        "NAME    N   WHY",
        "a       1   x\\x1b",
        "longer  -   -",
        "b       22  free text here",
    ]


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (999_600, "1 MB"),
        (12_300_000, "12.3 MB"),
        (None, None),
    ],
)
def test_size_has_three_digits(size_bytes: int | None, text: str | None) -> None:
    assert size(size_bytes) == text


def test_plural_follows_the_count() -> None:
    assert (plural(1, "file"), plural(2, "file")) == ("1 file", "2 files")
