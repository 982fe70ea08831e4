"""The error tree: drawn once in the docstring, and the same in the code."""

from __future__ import annotations

import json
import re

import pytest

from clipperfs import errors
from clipperfs.errors import (
    CallerError,
    ClipperfsError,
    Conflict,
    NotFound,
    ServingError,
    StorageError,
    StoredDataError,
)

BRANCHES = (CallerError, StoredDataError, StorageError, ServingError)
ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ClipperfsError)]


def test_drawn_tree_names_exactly_the_classes_that_exist() -> None:
    drawing = (errors.__doc__ or "").split("Fields are data")[0]
    drawn = {word for word in re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)*\b", drawing) if hasattr(errors, word)}
    assert drawn == {error.__name__ for error in ALL}


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_every_error_stands_on_one_branch_and_says_what_it_is(error: type[ClipperfsError]) -> None:
    if error is not ClipperfsError:
        assert sum(issubclass(error, branch) for branch in BRANCHES) == 1
    assert error.__doc__
    assert error.__doc__.strip().endswith(".")


def test_message_ends_with_the_next_step() -> None:
    error = NotFound("no model is called 'x'", hint="clipperfs list", model="x")
    assert str(error) == "no model is called 'x' (clipperfs list)"
    assert error.message == "no model is called 'x'"
    assert str(NotFound("gone")) == "gone"


def test_error_as_document_is_plain_data_with_its_fields() -> None:
    document = Conflict("somebody was first", seq=4, holder={"actor": "ci"}).as_document()
    assert document == {
        "error": "Conflict",
        "message": "somebody was first",
        "hint": None,
        "seq": 4,
        "holder": {"actor": "ci"},
    }
    json.dumps(document)


def test_core_errors_carry_no_exit_code_and_no_http_status() -> None:
    for error in ALL:
        assert not {"exit_code", "status", "status_code", "http_status"} & set(vars(error))
