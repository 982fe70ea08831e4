"""The grammar of names, against every trick that has got past a neighbour."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clipperfs.errors import InvalidName
from clipperfs.names import (
    MAX_NAME_CHARS,
    alias_name,
    app_name,
    model_name,
    name_problem,
    replica_name,
    split_reference,
    version_name,
)

HOSTILE: list[object] = [
    "",
    " ",
    "a ",
    " a",
    "a\n",  # `$` would let a trailing newline pass
    "a\r",
    "\na",
    "a\x00",
    "a\x00b",
    "a\x1bb",
    ".",
    "..",
    "...",
    "a..b",
    "../a",
    "a/..",
    "a/b",
    "/a",
    "a/",
    "a\\b",
    "..\\a",
    "%2e%2e",
    "a%2fb",
    ".hidden",
    "_private",
    "-option",
    "--help",
    "a.",
    "a-",
    "a_",
    "A",
    "Digits",
    "digitS",
    "ä",
    "a\u0308",
    "１２",  # full-width digits: str.isdigit() is true
    "ａｂｃ",  # full-width letters: str.isalnum() is true
    "²",
    "٣",  # an Arabic-Indic digit: \d matches it outside re.ASCII
    "ſ",  # long s, which lower-cases and case-folds into ASCII
    "K",  # the Kelvin sign
    "a\u202eb",  # right-to-left override
    "a\u200bb",  # zero-width space
    "\ud800",  # a lone surrogate, as a file name that is not UTF-8 arrives
    "a:b",
    "c:",
    "a*",
    "a?",
    "a|b",
    "~",
    "$HOME",
    "a;b",
    "a'b",
    'a"b',
    "a,b",
    "a@b",
    "a+b",
    "a=b",
    "con",
    "prn",
    "aux",
    "nul",
    "nul.txt",
    "con.1.0",
    "com0",
    "com1",
    "com9.tar.gz",
    "lpt1",
    "lpt9.x",
    "a" * 64,
    "a" * 100_000,
    None,
    1,
    1.0,
    True,
    b"a",
    ["a"],
]

VALID = [
    "a",
    "0",
    "1",
    "1.0.3",
    "2026-11-20",
    "fraud-eu",
    "digits_v2",
    "5f0c1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b",
    "a.b",
    "a--b",
    "a__b",
    "a.-b",
    "console",
    "con1",
    "com10",
    "com",
    "lpt",
    "x.con",
    "a" * 63,
    "0" * 63,
]

MAKERS: list[Callable[[object], str]] = [model_name, version_name, app_name, alias_name, replica_name]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:24])
def test_hostile_name_is_refused_with_a_reason(name: object) -> None:
    problem = name_problem(name)
    assert problem, f"{name!r} was let through"
    assert "\n" not in problem
    assert "\x1b" not in problem


@pytest.mark.parametrize("name", VALID)
def test_valid_name_is_accepted(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_every_kind_of_name_follows_the_one_grammar(make: Callable[[object], str]) -> None:
    assert all(make(name) == name for name in VALID)
    for name in HOSTILE:
        with pytest.raises(InvalidName):
            make(name)


def test_refusal_names_the_noun_and_shows_the_name_in_short_printable_ascii() -> None:
    with pytest.raises(InvalidName) as caught:
        version_name("\x1b[31m\u202e" + "x" * 10_000)
    message = str(caught.value)
    assert message.startswith("version name '\\x1b[31m\\u202e")
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 300
    assert caught.value.hint


def test_length_limit_is_exact() -> None:
    assert name_problem("a" * MAX_NAME_CHARS) is None
    assert name_problem("a" * (MAX_NAME_CHARS + 1)) == "is 64 characters long; the limit is 63"


def test_reference_splits_at_the_first_slash_only() -> None:
    assert split_reference("digits") == ("digits", None)
    assert split_reference("digits/1.0.3") == ("digits", "1.0.3")


@pytest.mark.parametrize("text", ["", "/", "digits/", "/1", "digits/1/2", "digits/../x", "Digits/1", "digits//1"])
def test_bad_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        split_reference(text)
