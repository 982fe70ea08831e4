"""The client against a frontend: an array gets the answer that its list gets, whatever the application takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clipperfs.client import Client, Prediction
from clipperfs.errors import InvalidInput
from tests.integration.frontend_rig import Rig

DTYPES = ["float32", "float64", "int32", "int64", "uint8"]
TAKEN = {"ints": "int32", "floats": "float32", "doubles": "float64"}


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


def same(prediction: Prediction) -> Prediction:
    """Return a prediction without its number."""
    return replace(prediction, query_id=0)


@pytest.mark.parametrize("input_type", list(TAKEN))
def test_array_is_answered_as_its_list_is(rig: Rig, input_type: str) -> None:
    replica = rig.start_replica(input_type=input_type, output={"label": 3})
    rig.serve(replica, input_type=input_type, input_size=3, key=input_type)
    with Client(f"http://127.0.0.1:{rig.port}") as client:
        for dtype in DTYPES:
            row: Any = np.array([1, 2, 3], dtype)
            rows: Any = np.array([[1, 2, 3], [4, 5, 6]], dtype)
            if input_type == "ints" and dtype.startswith("float"):
                with pytest.raises(InvalidInput):
                    client.predict("app", row)
                continue
            assert same(client.predict("app", row)) == same(client.predict("app", row.tolist()))
            found = client.predict("app", batch=rows)
            assert list(map(same, found)) == list(map(same, client.predict("app", batch=rows.tolist())))
            assert len(client.predict("app", batch=rows[:1])) == 1
        refused = {dtype for _, dtype in client._refused}
        assert refused == set(DTYPES) - {TAKEN[input_type], "int64"}
        with pytest.raises(InvalidInput, match="expects 3 elements"):
            client.predict("app", np.array([1, 2], TAKEN[input_type]))


def test_numbers_arrive_as_they_were(rig: Rig) -> None:
    rig.serve(rig.start_peer(), key="k7", version="7")
    with Client(f"http://127.0.0.1:{rig.port}") as client:
        rows = np.array([[0.1, 1e300], [-0.0, 5e-324]])
        answers = client.predict("app", batch=rows, version="7")
        assert [one.output for one in answers] == rows.tolist()
        assert {one.version for one in answers} == {"7"}
        assert client.predict("app", rows[1]).output == rows[1].tolist()
        assert client._refused == set()


def test_bytes_of_an_array_are_an_input_of_bytes(rig: Rig) -> None:
    rig.serve(rig.start_replica(input_type="bytes", output="cat"), input_type="bytes", key="bytes")
    with Client(f"http://127.0.0.1:{rig.port}") as client:
        assert client.predict("app", np.frombuffer(b"\0\xff", np.uint8)).output == "cat"
        assert [one.output for one in client.predict("app", batch=np.zeros((2, 4), np.uint8))] == ["cat", "cat"]
