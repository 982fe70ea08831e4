"""Exit codes: every error of the tree has one, and the documented ones are fixed."""

from __future__ import annotations

import pytest

from clipperfs import errors
from clipperfs.cli import exit as exit_table
from clipperfs.errors import ClipperfsError


def tree(root: type[ClipperfsError]) -> list[type[ClipperfsError]]:
    below = [kind for child in root.__subclasses__() if child.__module__ == "clipperfs.errors" for kind in tree(child)]
    return [root, *below]


def test_every_error_of_the_tree_has_an_exit_code() -> None:
    assert {kind.__name__ for kind in tree(ClipperfsError)} == {kind.__name__ for kind in exit_table.CODES}


def test_every_code_has_a_meaning_and_none_means_ok() -> None:
    assert set(exit_table.CODES.values()) <= set(exit_table.MEANINGS) - {exit_table.OK, exit_table.INTERRUPTED}


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.InvalidName, 2),
        (errors.InvalidSetting, 2),
        (errors.InvalidDocument, 2),
        (errors.InvalidSource, 2),
        (errors.NotFound, 3),
        (errors.DaemonNotRunning, 3),
        (errors.Conflict, 4),
        (errors.DaemonAlreadyRunning, 4),
        (errors.DamagedLog, 5),
        (errors.IncompleteVersion, 5),
        (errors.ActivationRefused, 6),
        (errors.TimedOut, 7),
        (errors.Degraded, 8),
        (errors.StorageDenied, 9),
        (errors.StorageFull, 1),
        (errors.OutcomeUnknown, 1),
    ],
)
def test_code_scripts_rely_on_is_fixed(kind: type[ClipperfsError], code: int) -> None:
    assert exit_table.exit_code(kind("x")) == code


def test_error_of_a_plug_in_takes_the_code_of_its_ancestor() -> None:
    class Mine(errors.Conflict):
        pass

    assert exit_table.exit_code(Mine("x")) == exit_table.CONFLICT
