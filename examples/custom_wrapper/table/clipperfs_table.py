"""``table``: predictions that were made beforehand, such as every night for all customers, looked up by key.

A version is a ``model.csv`` of two columns, key and output, and a ``model.yaml``:

    wrapper: {kind: table, missing: unknown}
    input_type: strings
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any, ClassVar

from clipperfs.errors import LoadFailed
from clipperfs.wrapper import BytesAs, LoadContext

FILE = "model.csv"


class Table:
    """Answers a key with its output; any other key with the option ``missing`` (``null`` unless given).

    An output that is JSON, such as ``{"risk": 0.2}``, reaches the client as JSON.
    """

    bytes_as: ClassVar[BytesAs] = "int8"  # of no matter here: keys are texts

    def load(self, context: LoadContext) -> None:
        """Read the table. Raises LoadFailed, with a hint for the version's author."""
        unknown = sorted(context.options.keys() - {"missing"})
        if unknown:
            raise LoadFailed(f"the wrapper table has no option {unknown[0]!r}", hint="its options: missing")
        if context.input_type != "strings":
            raise LoadFailed(f"table: keys are texts, not {context.input_type}", hint="model.yaml: input_type: strings")
        path = context.path / FILE
        if not path.is_file():
            raise LoadFailed(f"table: the version has no {FILE}", hint="publish a folder that holds it")
        self.missing = context.options.get("missing")
        self.outputs: dict[str, str] = {}
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if len(row) != 2 or row[0] in self.outputs:
                    what = "its key came before" if len(row) == 2 else f"it has {len(row)} columns"
                    raise LoadFailed(f"table: row {number} of {FILE}: {what}", hint="each row: a key, its output")
                self.outputs[row[0]] = row[1]

    def predict(self, inputs: Sequence[str]) -> list[Any]:
        """Return one output for each key, in the same order."""
        return [self.outputs.get(key, self.missing) for key in inputs]
