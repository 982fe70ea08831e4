"""Large JSON bodies: read in pieces they say what they say in one go, and others get their turn in between."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from clipperfs.serverd import pieces
from clipperfs.serverd.pieces import Outcome, PieceReader, PiecewiseQuery, Reading, read_pieces
from clipperfs.serverd.query import CODECS, MAX_BATCH_INPUTS, REFUSALS, BadQueryError
from hypothesis import given
from hypothesis import strategies as st

KINDS = sorted(CODECS)


def read(body: bytes, kind: str) -> tuple[Outcome, int]:
    """Return what a body says, and the number of turns that it took to read."""
    reading = read_pieces(body, CODECS[kind])
    turns = 1
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value, turns
        except BadQueryError as error:
            return error, turns
        turns += 1


def whole(body: Any, kind: str) -> tuple[list[bytes], str | None, str | None] | None:
    """Return what the codec reads in one go: inputs, version and key; None when it refuses the body."""
    codec = CODECS[kind]
    try:
        found: Any = codec.decode(body)
        values = [found.input] if isinstance(found.input, list | str | bytes) else found.input_batch
        return [codec.pack(value) for value in values], found.version, found.key
    except (*REFUSALS, TypeError):
        return None


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 8)


def test_long_list_is_packed_over_many_turns() -> None:
    values = [number / 7 for number in range(60_000)]
    found, turns = read(json.dumps({"input": values, "version": "2", "key": "u]1"}).encode(), "doubles")
    assert isinstance(found, PiecewiseQuery)
    assert found.inputs == struct.pack("<60000d", *values)
    assert (found.version, found.key) == ("2", "u]1")
    assert turns > 10


def test_base64_is_read_over_many_turns() -> None:
    data = bytes(range(256)) * 2000
    body = json.dumps({"version": "2", "input": base64.b64encode(data).decode()}).encode()
    found, turns = read(body, "bytes")
    assert found == PiecewiseQuery(data, "2", None)
    assert turns > 8


def test_batch_of_long_and_of_short_rows_is_read_over_many_turns() -> None:
    rows = [[number + 0.5] * 50 for number in range(2000)] + [[0.25] * 40_000]
    found, turns = read(json.dumps({"input_batch": rows}).encode(), "floats")
    assert isinstance(found, PiecewiseQuery)
    assert found.inputs == [struct.pack(f"<{len(row)}f", *row) for row in rows]
    assert turns > 8


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "body",
    [
        b'{"input":[1,2,3,4,5,6,7,8,9,10]}',
        b' { "input" : [ 1 , 2 , 3 , 4 , 5 , 6 ] , "key" : "a" } ',
        b'{"input":[1,2,3,4,5,6,7,8,9,10],"input":[5]}',
        b'{"input":[1,2,3,4,5,6,7,8,9,10],"in\\u0070ut":[5]}',
        b'{"input":[1,2,3,4,5,6,7,8],"input_batch":[[5]]}',
        b'{"input_batch":[[1,2,3,4,5,6,7,8,9],[1],[2,3]],"version":"v"}',
        b'{"input_batch":[[1,2,3,4,5,6,7,8,9],[1],[2,3]],"input":[5]}',
        b'{"input_batch":[[1,2,3],[]]}',
        b'{"input_batch":[[1,2,3],]}',
        b'{"input_batch":[[1,2,3]',
        b'{"input_batch":[1,2,3]}',
        b'{"input":[1,2,3,4,5,6,7,8,]}',
        b'{"input":[1,2,3,4,5,6,7,8]',
        b'{"input":[1,2,3,4,,5,6,7,8]}',
        b'{"input":[1,2,3,4,5,[6,7],8,9]}',
        b'{"input":[1,2,3,4,5,6,7,8]}}',
        b'{"input":[1,2,3,4,5,6,7,8],"other":[1,[2]],"key":null}',
        b'{"other":1,"input":[1,2,3,4,5,6,7,8]}',
        b'{"input":"AAAAAAAAAAAAAAAAAAAAAAAA"}',
        b'{"input":"AAAAAAAAAAAAAAAAAAAAAA=="}',
        b'{"input":"AAAAAA==AAAAAAAAAAAAAA=="}',
        b'{"input":"AAAA\\/AAAAAAAAAAAAAAAAAA"}',
        b'{"input":"AAAAAAAAAAAAAAAAAAAAAAA"}',
        b'{"input":"AAAAAAAAAAAAAAAAAAAAAAAA',
        b'{"input_batch":["AAAAAAAAAAAA","AAAA","AA=="]}',
        b'{"key":"a","version":"b","input":[1,2,3,4,5,6,7,8],"key":"c"}',
        b"",
        b"[" * 50,
        b'{"input":[' + b" " * 5000 + b"1]}",
    ],
)
def test_pieces_say_what_the_whole_says(kind: str, body: bytes) -> None:
    check(kind, body)


def check(kind: str, body: bytes) -> None:
    expected = whole(body, kind)
    found, _ = read(body, kind)
    if isinstance(found, PiecewiseQuery):
        inputs = found.inputs if isinstance(found.inputs, list) else [found.inputs]
        assert (inputs, found.version, found.key) == expected
    elif isinstance(found, BadQueryError):
        assert expected is None, "a good body was refused"


@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_any_damage_is_judged_as_in_the_whole(data: st.DataObject, kind: str) -> None:
    number = st.integers(-5, 2**31) | st.floats(-1e40, 1e40)
    values: Any = st.lists(number, max_size=12)
    if kind == "bytes":
        values = st.binary(max_size=40).map(lambda some: base64.b64encode(some).decode())
    tree = data.draw(
        st.fixed_dictionaries({"input": values}, optional={"key": st.text(max_size=3), "version": st.just("1")})
        | st.fixed_dictionaries({"input_batch": st.lists(values, max_size=4)})
    )
    body = bytearray(json.dumps(tree, separators=data.draw(st.sampled_from([(",", ":"), (" , ", " : ")]))).encode())
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from([b"", b",", b"]", b"[", b'"', b"0"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", 8)
        check(kind, bytes(body))


def test_element_that_does_not_fit_is_named_with_its_place() -> None:
    body = json.dumps({"input": [1.5] * 60_000 + [None] + [2.5] * 10}).encode()
    found, _ = read(body, "doubles")
    assert isinstance(found, BadQueryError)
    assert "is null, not a number, in the piece of the body that begins at byte " in found.cause
    assert int(found.cause.rsplit(" ", 1)[1]) > 200_000


def test_too_many_rows_are_refused_before_all_are_read() -> None:
    body = b'{"input_batch":[' + b"[1]," * (4 * MAX_BATCH_INPUTS) + b"[1]]}"
    found, _ = read(body, "floats")
    assert isinstance(found, BadQueryError)
    assert "more than 16384" in found.cause


def run(*acts: Callable[[PieceReader, list[str]], None]) -> list[str]:
    """Return what happened on a loop on which all acts began in one turn."""
    told: list[str] = []

    async def live() -> None:
        reader = PieceReader()
        for act in acts:
            act(reader, told)
        for turn in range(8):
            told.append(f"turn {turn}")
            await asyncio.sleep(0)

    asyncio.run(live())
    return told


def counted(
    name: str, count: int, is_gone: Callable[[], bool] = lambda: False
) -> Callable[[PieceReader, list[str]], None]:
    def act(reader: PieceReader, told: list[str]) -> None:
        def reading() -> Reading:
            for number in range(count):
                told.append(f"{name}{number}")
                yield
            return None

        reader.read(reading(), lambda outcome: told.append(f"{name} done"), is_gone)

    return act


def test_a_piece_of_one_body_is_read_in_each_turn_and_the_bodies_take_turns() -> None:
    told = run(counted("a", 3), counted("b", 1))
    assert [one for one in told if not one.startswith("turn")] == ["a0", "b0", "a1", "b done", "a2", "a done"]
    between = " ".join(told).split("turn")
    assert all(len(part.split()) <= 3 for part in between), "no turn has two pieces"


def test_body_of_a_client_that_has_gone_is_not_read_on() -> None:
    gone: list[bool] = []

    def leave(reader: PieceReader, told: list[str]) -> None:
        asyncio.get_running_loop().call_soon(gone.append, True)

    told = run(counted("a", 5, lambda: bool(gone)), leave)
    assert [one for one in told if one.startswith("a")] == ["a0"]
