"""Bodies that replicas read get the replies, and the counters, of bodies that the frontend reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from clipperfs.serverd.quick import quick_packer
from hypothesis import example, given
from hypothesis import strategies as st

from clipperfs.replica.batch import unpack_batch
from clipperfs.replica.text import NumberReader, can_read_text, is_plain
from clipperfs.wire import WireError, common_length
from tests.property.text_world import SLO_S, TextWorld

pytest.importorskip("simdjson")

PAD = " " * 1100
"""Makes a body long enough to be worth it."""

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70), st.floats(-1, 1), st.integers(-9, 9)
)
strange = st.sampled_from(
    [
        "1e400", "-1e400", "1e39", "3.4028235677973366e38", "01", "1.", ".5", "+1", "0x1", "NaN", "Infinity", "-0",
        "-0.0", "1E5", "null", "true", '"1"', "[1]", "{}", "", "1 2", "1,", "18446744073709551616", "1e-400", "\u00e9",
        "-", "1e", "\x00", "1//", "16777217", "0.1",
    ]
)  # fmt: skip
plain_lists = st.lists(numbers.map(json.dumps), min_size=1, max_size=4)
frames = st.sampled_from(
    [
        '{"input": [%s]}', '{"input":[%s]}', ' {"input":[%s]}', '{"input":[%s]} ', '{"input":[%s]}x', '{"input":[%s]',
        '{"inputs":[%s]}', '{"input":[%s],"x":1}', '{"input":[%s],"input":[1]}', '{"input":{"input":[%s]}}',
        '\ufeff{"input":[%s]}', "[%s]", '{"input":%s}', "{'input':[%s]}", '{"input":[%s]}\n{"input":[1]}',
        '{"\\u0069nput":[%s]}', '{"input":[%s]}\x00', '{"input":1,[%s]}', '{"input":[%s],}', '\t{"input":[%s]}',
    ]
)  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    values = draw(
        st.one_of(plain_lists, plain_lists, st.lists(st.one_of(numbers.map(json.dumps), strange), max_size=5))
    )
    frame = draw(st.one_of(st.just('{"input": [%s]}'), frames))
    body = (frame % (", ".join(values) + PAD)).encode()
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 2)) :]
    return body


@contextmanager
def world(*arguments: Any, **settings: Any) -> Iterator[TextWorld]:
    made = TextWorld(*arguments, **settings)
    try:
        yield made
    finally:
        made.close()


def a_body(*values: float) -> bytes:
    return json.dumps({"input": list(values)}).encode()[:-2] + PAD.encode() + b"]}"


@given(
    st.sampled_from(["floats", "doubles"]), st.sampled_from([None, 1, 2]), st.lists(bodies(), min_size=1, max_size=8)
)
@example("floats", 1, [a_body(1), a_body(1e39), a_body(1, 2), a_body(3)])
def test_replies_are_those_of_the_usual_way(kind: str, size: int | None, sent: list[bytes]) -> None:
    with world(kind, size) as made:
        for body in sent:
            made.ask(body)
        made.finish()
        made.check()


steps = st.one_of(
    bodies(),
    st.sampled_from(["turn", "answer", "answer", "fault", "lose 0", "lose 1"]),
    st.floats(0.001, 2 * SLO_S),
)


@given(
    st.sampled_from([None, 2]), st.sampled_from([(2, 2), (1, 0), (2, 1)]), st.booleans(), st.lists(steps, max_size=25)
)
def test_bad_bodies_are_refused_and_good_ones_answered_once_whatever_happens(
    size: int | None, readers: tuple[int, int], is_idempotent: bool, taken: list[Any]
) -> None:
    with world("floats", size, readers, idempotent=is_idempotent) as made:
        for step in taken:
            if isinstance(step, bytes):
                made.ask(step)
            elif isinstance(step, float):
                made.loop.advance(step)
            elif step == "turn":
                made.loop.settle()
            elif step == "answer":
                made.answer()
            elif step == "fault":
                made.fault()
            else:
                made.lose(int(step[-1]))
        made.loop.advance(2 * SLO_S)
        made.finish()
        made.check(may_default=True)


def test_usual_long_bodies_go_out_as_they_came_and_are_answered() -> None:
    with world(input_size=3) as made:
        for number in range(5):
            made.ask(a_body(number, 0.5, -0.0))
        made.loop.settle()
        assert made.is_text()
        made.finish()
        made.check()


@pytest.mark.parametrize("how", ["no reader", "old", "more frontends", "cache", "limit", "dear"])
def test_body_is_read_by_the_frontend_where_a_replica_cannot_or_should_not(how: str) -> None:
    readers = {"no reader": (1, 0), "more frontends": (3, 3)}.get(how, (2, 2))
    with world(input_size=1, readers=readers) as made:
        if how == "old":
            made.transport.hear(made.identities[1], [b"\x94\x01\x01\x01\x07"])
        elif how in ("cache", "limit"):
            made.route(cache=how == "cache", **({"max_concurrent": 5} if how == "limit" else {}))
        elif how == "dear":
            made.version.learn([None], 0.0, 0.001, 0.001)  # type: ignore[list-item]  # they are counted only
        made.ask(a_body(1))
        made.loop.settle()
        assert not made.is_text()
        made.finish()
        made.check()


def test_text_that_waits_while_its_reader_dies_is_packed_for_the_next() -> None:
    with world(input_size=1, readers=(2, 2), fixed_batch=8) as made:
        clients = [made.ask(a_body(1)), made.ask(a_body(1, 2))]
        made.loop.settle()
        assert made.is_text()
        made.lose(0)
        assert [client.replies[0][0] for client in clients if client.replies] == [400]
        assert not made.is_text()
        made.finish()
        made.check()


def test_batch_of_texts_and_packed_inputs_is_packed() -> None:
    with world(input_size=1, fixed_batch=8) as made:
        made.ask(a_body(1))
        made.ask(b'{"input":[2]}')
        made.ask(a_body(1, 2))
        made.loop.settle()
        assert not made.is_text()
        made.finish()
        made.check()
        assert made.mirror.sizes == [2]


def test_failed_batch_is_read_before_it_is_tried_again() -> None:
    with world(input_size=1, fixed_batch=8) as made:
        bad, good = made.ask(a_body(1, 2)), made.ask(a_body(1))
        made.loop.settle()
        assert made.is_text()
        made.fault()
        assert bad.replies[0][0] == 400
        assert good.replies[0][1]["default"] is True
        made.check(may_default=True)


def test_late_text_is_sent_to_a_second_replica_as_numbers() -> None:
    with world(input_size=1, readers=(2, 2), fixed_batch=8) as made:
        for _ in range(40):
            made.ask(a_body(1))
            made.finish()
        made.ask(a_body(7))
        bad = made.ask(a_body(7, 8))
        made.loop.settle()
        assert len(made.transport.sent) == 1
        made.loop.advance(0.3)
        assert [made.is_text(at) for at in range(2)] == [True, False]
        assert bad.replies[0][0] == 400
        made.transport.sent.reverse()
        made.finish()
        made.check()


def test_missed_deadline_of_a_bad_body_is_a_refusal() -> None:
    with world(input_size=1, fixed_batch=8) as made:
        bad, good = made.ask(a_body(1, 2)), made.ask(a_body(1))
        made.loop.settle()
        assert made.is_text()
        made.loop.advance(SLO_S)
        assert (bad.replies[0][0], good.replies[0][1]["default"]) == (400, True)
        made.finish()
        made.check(may_default=True)


def test_client_that_leaves_is_counted_as_usual() -> None:
    with world(input_size=1, fixed_batch=8) as made:
        made.ask(a_body(1)).leave()
        made.ask(a_body(1, 2)).leave()
        made.finish()
        app = made.counters.app("a")
        assert (app.queries, app.bad_requests, made.version.live) == (1, 1, 0)


def test_full_queue_takes_no_text() -> None:
    with world(input_size=1, fixed_batch=8) as made:
        made.version.bearable = 1
        clients = [made.ask(a_body(number)) for number in range(3)]
        bad = made.ask(a_body(1, 2))
        made.finish()
        assert bad.replies[0][0] == 400
        assert [client.replies[0][1]["default"] for client in clients] == [False, True, True]


def test_text_that_would_come_too_late_is_refused_like_any_other() -> None:
    with world(input_size=1, fixed_batch=8) as made:
        made.version.late_before = made.loop.now + 1000.0
        good, bad = made.ask(a_body(1)), made.ask(a_body(1, 2))
        assert (good.replies[0][1]["default"], bad.replies[0][0]) == (True, 400)
        made.version.late_before = made.loop.now
        good = made.ask(a_body(1))
        made.finish()
        assert good.replies[0][1]["default"] is False


def test_version_that_leaves_is_released_when_its_last_text_is_refused() -> None:
    with world(input_size=1) as made:
        made.ask(a_body(1, 2))
        made.loop.settle()
        made.names = ()
        made.dispatcher.apply(type(made.handler._followed[0])())
        made.finish()
        assert made.released == ["load"]


@given(st.sampled_from(["floats", "doubles"]), st.integers(0, 2), st.lists(bodies(), min_size=1, max_size=6))
def test_batch_of_texts_is_the_batch_of_the_same_numbers(kind: str, elements: int, sent: list[bytes]) -> None:
    sent = [body for body in sent if is_plain(body)] or [b'{"input":[1]}']
    reader = NumberReader(kind)
    batch, unread = reader.read(len(sent), [*map(len, sent)], elements, memoryview(b"".join(sent)))
    code, size = {"floats": (1, 4), "doubles": (2, 8)}[kind]
    packed = [reader.pack(body) for body in sent]
    read = [one for one in packed if one and elements in (0, len(one) // size)]
    assert unread == [at for at, one in enumerate(packed) if not one or elements not in (0, len(one) // size)]
    if not read:
        assert len(batch) == 0
        return
    usual = unpack_batch(code, len(read), common_length([len(one) // size for one in read]), b"".join(read))
    assert isinstance(batch, np.ndarray) == isinstance(usual, np.ndarray)
    for one, other in zip(batch, usual, strict=True):
        assert isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes() and not one.flags.writeable


@pytest.mark.parametrize("kind", ["floats", "doubles"])
def test_texts_of_different_lengths_stay_in_their_order(kind: str) -> None:
    sent = [b'{"input":[%s]}' % numbers for numbers in (b"1,2", b"3", b"x", b"4,5", b"6e99", b"7,8,9", b"")]
    batch, unread = NumberReader(kind).read(len(sent), [*map(len, sent)], 0, memoryview(b"".join(sent)))
    expected = [[1.0, 2.0], [3.0], [4.0, 5.0], [6e99], [7.0, 8.0, 9.0]]
    if kind == "floats":
        expected.remove([6e99])  # too large for one
    assert [np.asarray(one).tolist() for one in batch] == expected
    assert unread == [2, 4, 6] if kind == "floats" else [2, 6]
    sent = [b'{"input":[1e99,2]}', b'{"input":[3]}', b'{"input":[4]}']
    batch, unread = NumberReader("floats").read(len(sent), [*map(len, sent)], 0, memoryview(b"".join(sent)))
    assert isinstance(batch, np.ndarray) and batch.tolist() == [[3.0], [4.0]] and unread == [0]


@pytest.mark.parametrize(
    ("count", "lengths", "elements", "size"),
    [(0, 1, 0, 0), (1, 2, 0, 1), (2, [1], 0, 1), (1, 1, -1, 1), (1, 1, "1", 1), (1, -1, 0, 1), (1, 1, None, 1)],
)
def test_texts_whose_numbers_contradict_are_refused(count: int, lengths: Any, elements: Any, size: int) -> None:
    with pytest.raises(WireError):
        NumberReader("floats").read(count, lengths, elements, b"x" * size)


def test_count_of_elements_cannot_ask_for_memory() -> None:
    batch, unread = NumberReader("doubles").read(2, 13, 1 << 50, b'{"input":[1]}' * 2)
    assert len(batch) == 0 and unread == [0, 1]


def test_environment_without_simdjson_reads_no_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_read_text("floats") and can_read_text("doubles")
    assert not any(map(can_read_text, ("ints", "bytes", "strings")))
    monkeypatch.setitem(sys.modules, "simdjson", None)
    assert not can_read_text("floats")
    assert quick_packer("floats") is None
