"""The table from errors to HTTP status codes."""

from __future__ import annotations

import inspect

from clipperfs.serverd.http_status import REASONS, STATUS, status_of

from clipperfs import errors


def test_every_error_has_its_row_and_every_code_its_phrase() -> None:
    tree = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.ClipperfsError)}
    assert tree == set(STATUS)
    assert set(STATUS.values()) <= set(REASONS)


def test_error_without_a_row_has_its_ancestors_code() -> None:
    class Special(errors.Conflict):
        pass

    assert status_of(Special("x")) == 409
    assert status_of(ValueError("x")) == 500
