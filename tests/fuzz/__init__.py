"""Searches for bytes that break something: run by `make fuzz`, and for a while by the property tests."""

import tests.interpreted  # noqa: F401 (first: it decides how everything after it is imported)
