"""How much of all bodies together a server holds: while they come, and until they are answered."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.test_http_protocol import Site, statuses

MOST = 200_000


def site(**limits: Any) -> Site:
    return Site(answer_now=False, body_bytes=100_000, bodies_bytes=MOST, **limits)


def post(size: int, sent: int | None = None) -> bytes:
    """Return a request, or the beginning of one, with a body of so many bytes."""
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    return head + b"x" * (size if sent is None else sent)


def test_body_is_held_until_it_is_answered() -> None:
    room = site()
    connection, _ = room.connect()
    connection.data_received(post(90_000, 40_000))
    assert room.server.held_bytes == 40_000
    connection.data_received(b"x" * 50_000)
    assert room.server.held_bytes == 90_000
    room.exchanges[0].reply(200, b"")
    assert room.server.held_bytes == 0


def test_more_than_all_may_hold_is_refused_and_others_go_on() -> None:
    room = site()
    first, first_out = room.connect()
    first.data_received(post(100_000))
    second, second_out = room.connect()
    second.data_received(post(100_000, 99_999))
    third, third_out = room.connect()
    third.data_received(post(70_000))
    assert statuses(third_out.written) == [503]
    assert b"bodies of more than 200000 bytes are on their way at once" in third_out.written
    assert room.server.held_bytes == 199_999
    small, small_out = room.connect()
    small.data_received(post(60_000))
    room.exchanges.pop().reply(200, b"")
    assert statuses(small_out.written) == [200], "else a few slow clients could keep all others out"
    second.data_received(b"x")
    for exchange in room.exchanges:
        exchange.reply(200, b"")
    assert (statuses(first_out.written), statuses(second_out.written)) == ([200], [200])
    assert room.server.held_bytes == 0
    fourth, fourth_out = room.connect()
    fourth.data_received(post(100_000))
    room.exchanges[-1].reply(200, b"")
    assert statuses(fourth_out.written) == [200]


def test_one_connection_cannot_hold_more_by_asking_again_before_it_is_answered() -> None:
    room = site()
    connection, transport = room.connect()
    for _ in range(3):
        connection.data_received(post(100_000, 50_000))
        connection.data_received(b"x" * 50_000)
    assert len(room.exchanges) == 2
    for exchange in room.exchanges:
        exchange.reply(200, b"")
    assert statuses(transport.written) == [200, 200, 503]
    assert room.server.held_bytes == 0


@pytest.mark.parametrize("sent", [50_000, 100_000])
@pytest.mark.parametrize("how", ["lost", "refused", "half-closed"])
def test_client_that_goes_leaves_nothing_behind(sent: int, how: str) -> None:
    room = site(body_timeout_s=1.0)
    connection, transport = room.connect()
    connection.data_received(post(100_000, sent))
    assert room.server.held_bytes == sent
    if how == "refused" and sent < 100_000:
        room.server.tick += 100
        connection.check_times()
        assert statuses(transport.written) == [408]
    elif how == "half-closed":
        connection.eof_received()
        connection.connection_lost(None)
    else:
        connection.connection_lost(None)
    assert room.server.held_bytes == 0


def test_request_behind_the_last_one_holds_nothing() -> None:
    room = site()
    connection, transport = room.connect()
    connection.data_received(post(50_000))
    room.server.drain(lambda: None, linger_s=5.0)
    connection.data_received(post(50_000, 0))
    connection.data_received(b"x" * 50_000)
    assert room.server.held_bytes == 50_000
    room.exchanges[0].reply(200, b"")
    assert (statuses(transport.written), room.server.held_bytes) == ([200], 0)


def test_limit_leaves_room_for_two_of_the_largest() -> None:
    assert Site(body_bytes=5000, bodies_bytes=100).server.most_held_bytes == 10_000
