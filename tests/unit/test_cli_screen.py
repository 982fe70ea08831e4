"""What of a live view is shown in a terminal that is too small for it."""

from __future__ import annotations

from clipperfs.cli.screen import fit


def test_text_that_fits_stays_as_it_is() -> None:
    assert fit("one\ntwo", 3, 2) == "one\ntwo"


def test_long_lines_and_many_lines_are_cut_visibly() -> None:
    assert fit("abcdef\nx", 4, 5) == "abc…\nx"
    assert fit("1\n2\n3\n4", 20, 3) == "1\n2\n… 2 more lines"
    assert max(map(len, fit("1\n2\n3\n4", 5, 2).split("\n"))) <= 5
