"""The HTTP protocol on a transport without sockets: limits, order, keep-alive, times, drain."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from clipperfs.serverd.connection import TURN_BYTES, HttpConnection
from clipperfs.serverd.exchange import Exchange, StreamReply
from clipperfs.serverd.http import HttpLimits, HttpServer
from hypothesis import given
from hypothesis import strategies as st

from clipperfs.wire import Body

POST = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


class FakeTransport:
    """Remembers what a connection does with its transport."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = self.aborted = self.paused = self.ended = False
        self.buffered = 0
        self.breaks = False

    def write(self, data: bytes) -> None:
        if self.breaks or self.closed:
            raise RuntimeError("unable to perform operation; the handler is closed")
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return self.buffered


class Site:
    """A server whose handler keeps the exchanges, or answers at once with what it was asked."""

    def __init__(self, answer_now: bool = True, **limits: Any) -> None:
        self.server = HttpServer(self.handle, replace(HttpLimits(tick_s=1.0), **limits))
        self.answer_now = answer_now
        self.asked: list[tuple[bytes, bytes, Body]] = []
        self.exchanges: list[Exchange] = []

    def handle(self, exchange: Exchange, method: bytes, target: bytes, body: Body) -> None:
        self.asked.append((method, target, body))
        self.exchanges.append(exchange)
        if self.answer_now:
            exchange.reply(200, bytes(body))

    def connect(self) -> tuple[HttpConnection, FakeTransport]:
        connection = self.server()
        transport = FakeTransport()
        connection.connection_made(transport)
        return connection, transport


def statuses(raw: bytes) -> list[int]:
    """Return the status codes of a series of replies."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", raw)]


def test_request_in_one_piece_reaches_the_handler() -> None:
    site = Site()
    connection, transport = site.connect()
    connection.data_received(POST)
    assert site.asked == [(b"POST", b"/a", b"hi")]
    assert transport.written.endswith(b"Content-Length: 2\r\n\r\nhi")
    assert not transport.closed


def test_request_byte_by_byte_reaches_the_handler() -> None:
    site = Site()
    connection, _ = site.connect()
    for byte in POST * 2:
        connection.data_received(bytes([byte]))
    assert site.asked == [(b"POST", b"/a", b"hi")] * 2


def test_repeated_head_with_another_length_is_taken_without_parsing() -> None:
    site = Site()
    connection, _ = site.connect()
    connection.data_received(POST)
    connection.parser = None  # from here on a parse would raise
    connection.data_received(POST.replace(b"Length: 2", b"Length: 5").replace(b"hi", b"hello"))
    connection.data_received(POST)
    assert [body for _, _, body in site.asked] == [b"hi", b"hello", b"hi"]


def test_repeated_head_in_pieces_or_with_a_neighbour_is_parsed() -> None:
    site = Site()
    connection, _ = site.connect()
    connection.data_received(POST)
    connection.data_received(POST[:-1])
    connection.data_received(b"i")
    connection.data_received(POST + POST)
    connection.data_received(POST)
    assert site.asked == [(b"POST", b"/a", b"hi")] * 5


def test_other_head_after_a_known_one_goes_to_its_own_target() -> None:
    site = Site()
    connection, _ = site.connect()
    other = POST.replace(b"/a", b"/b")
    for data in (POST, other, POST, other, GET, POST):
        connection.data_received(data)
    assert [target for _, target, _ in site.asked] == [b"/a", b"/b", b"/a", b"/b", b"/a", b"/a"]


def test_head_that_differs_behind_the_length_is_not_the_known_one() -> None:
    site = Site()
    connection, transport = site.connect()
    head = b"POST /a HTTP/1.1\r\nContent-Length: 2\r\nConnection: %b\r\n\r\nhi"
    connection.data_received(head % b"keep-alive")
    connection.data_received(head % b"keep-alive")
    connection.data_received(head % b"close     ")
    assert transport.closed


def test_old_client_that_keeps_the_connection_is_told_so_each_time() -> None:
    site = Site()
    connection, transport = site.connect()
    for _ in range(3):
        connection.data_received(POST.replace(b"1.1", b"1.0").replace(b"Host: x", b"Connection: keep-alive"))
    assert transport.written.count(b"Connection: keep-alive") == 3


def test_known_head_with_a_signed_or_padded_length_is_not_taken_for_a_number() -> None:
    for digits in (b"+2", b"-2", b" 2", b"2 ", b"2_0", b"\xb2", b"0x2"):
        site = Site()
        connection, transport = site.connect()
        connection.data_received(POST)
        connection.data_received(POST.replace(b"Length: 2", b"Length: " + digits))
        fresh_site = Site()
        fresh, fresh_transport = fresh_site.connect()
        fresh.data_received(POST.replace(b"Length: 2", b"Length: " + digits))
        assert statuses(transport.written)[1:] == statuses(fresh_transport.written)
        assert site.asked[1:] == fresh_site.asked


message = st.builds(
    lambda target, headers, body, chunked: (
        b"POST /%b HTTP/1.1\r\n%b" % (target, b"".join(b"%b: v\r\n" % name for name in headers))
        + (
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            if chunked and body
            else b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
    ),
    st.sampled_from([b"a", b"b"]),
    st.lists(st.sampled_from([b"Host", b"X-Content-Length", b"Accept"]), max_size=2),
    st.sampled_from([b"", b"x", b"\r\n\r\n", b"Content-Length: 3\r\n\r\nabc", b"y" * 40]),
    st.booleans(),
)


@given(st.lists(message, min_size=1, max_size=6), st.lists(st.integers(0, 400), max_size=8))
def test_any_cut_of_a_stream_gives_the_same_requests(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(messages)
    whole = Site()
    connection, _ = whole.connect()
    connection.heads_left = 0
    connection.data_received(stream)
    pieces = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    for bounds in (list(itertools.pairwise(pieces)), _bounds(messages)):
        site = Site()
        connection, transport = site.connect()
        for start, end in bounds:
            connection.data_received(stream[start:end])
        assert site.asked == whole.asked
        assert len(site.asked) == len(messages)
        assert statuses(transport.written) == [200] * len(messages)


def _bounds(messages: list[bytes]) -> list[tuple[int, int]]:
    ends = [sum(map(len, messages[: index + 1])) for index in range(len(messages))]
    return list(zip([0, *ends], ends, strict=False))


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", 415),
        (b"POST / HTTP/1.1\r\nExpect: a-miracle\r\nContent-Length: 1\r\n\r\nx", 417),
        (b"GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 400),
        (b"GET / HTTP/0.9\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
def test_bad_request_is_refused_with_a_reason_and_closed(raw: bytes, status: int) -> None:
    site = Site()
    connection, transport = site.connect()
    connection.data_received(raw)
    assert statuses(transport.written) == [status]
    assert b"Connection: close" in transport.written
    assert json.loads(transport.written.partition(b"\r\n\r\n")[2])["cause"]
    assert transport.ended
    assert site.asked == []
    connection.data_received(GET)
    assert site.asked == []


def test_bad_request_behind_good_ones_waits_for_their_replies() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(POST + b"NONSENSE\r\n\r\n")
    assert transport.written == b""
    site.exchanges[0].reply(200, b"{}")
    assert statuses(transport.written) == [200, 400]
    assert transport.ended


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 2000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 5000,
        b"GET /" + b"a" * 5000,
    ],
)
@pytest.mark.parametrize("piece", [7, 100_000])
def test_head_over_the_limit_is_refused(raw: bytes, piece: int) -> None:
    site = Site(header_bytes=1000, headers=10)
    connection, transport = site.connect()
    for start in range(0, len(raw), piece):
        connection.data_received(raw[start : start + piece])
    assert statuses(transport.written) == [431]
    assert site.asked == []


def test_many_requests_in_one_piece_are_not_a_large_head() -> None:
    site = Site(header_bytes=1000, pipeline=10_000)
    connection, transport = site.connect()
    for _ in range(3):
        connection.data_received(GET[10:] * (len(site.asked) > 0) + GET * 500 + GET[:10])
    connection.data_received(GET[10:])
    assert statuses(transport.written) == [200] * len(site.asked)
    assert len(site.asked) > 1500


def test_body_over_the_limit_is_refused_before_it_is_read() -> None:
    site = Site(body_bytes=100)
    connection, transport = site.connect()
    connection.data_received(b"POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n")
    assert statuses(transport.written) == [413]
    for length in (b"9" * 30, b"99999999999999999"):
        connection, transport = site.connect()
        connection.data_received(b"POST / HTTP/1.1\r\nContent-Length: %b\r\n\r\n" % length)
        assert statuses(transport.written) in ([413], [400])
    assert site.asked == []


def test_chunked_body_over_the_limit_is_refused_by_counting() -> None:
    site = Site(body_bytes=100)
    connection, transport = site.connect()
    connection.data_received(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(101):
        connection.data_received(b"1\r\nx\r\n")
    assert statuses(transport.written) == [413]
    assert site.asked == []


def test_repeated_head_with_a_body_over_the_limit_is_refused() -> None:
    site = Site(body_bytes=100)
    connection, transport = site.connect()
    connection.data_received(POST)
    connection.data_received(POST.replace(b"Length: 2", b"Length: 101").replace(b"hi", b"x" * 101))
    assert statuses(transport.written) == [200, 413]


def test_body_at_the_limit_in_tiny_chunks_is_taken() -> None:
    site = Site(body_bytes=100)
    connection, transport = site.connect()
    connection.data_received(
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100 + b"0\r\n\r\n"
    )
    assert site.asked == [(b"POST", b"/", b"x" * 100)]
    assert statuses(transport.written) == [200]


def test_expectation_is_met_before_the_body() -> None:
    site = Site()
    connection, transport = site.connect()
    connection.data_received(b"POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
    assert transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.data_received(b"ok")
    assert site.asked == [(b"POST", b"/", b"ok")]


def test_expectation_of_a_body_over_the_limit_is_not_met() -> None:
    site = Site(body_bytes=1)
    connection, transport = site.connect()
    connection.data_received(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert statuses(transport.written) == [413]


@pytest.mark.parametrize(
    ("version", "header", "expected", "closes"),
    [
        (b"1.1", b"", b"", False),
        (b"1.1", b"Connection: close\r\n", b"Connection: close", True),
        (b"1.0", b"", b"Connection: close", True),
        (b"1.0", b"Connection: keep-alive\r\n", b"Connection: keep-alive", False),
    ],
)
def test_connection_is_kept_as_the_client_asks(version: bytes, header: bytes, expected: bytes, closes: bool) -> None:
    site = Site()
    connection, transport = site.connect()
    connection.data_received(b"GET / HTTP/%b\r\n%b\r\n" % (version, header))
    assert expected in transport.written
    assert transport.closed is closes


def test_requests_after_connection_close_are_not_handled() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(GET.replace(b"Host: x", b"Connection: close") + GET)
    assert len(site.asked) == 1
    site.exchanges[0].reply(200, b"{}")
    assert statuses(transport.written) == [200]
    assert transport.closed


def test_head_gets_the_headers_of_get_and_no_body() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(GET.replace(b"GET", b"HEAD"))
    site.exchanges[0].reply(200, b"four")
    assert transport.written.endswith(b"Content-Length: 4\r\n\r\n")


def test_replies_leave_in_the_order_of_the_requests() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(b"".join(POST.replace(b"hi", b"%02d" % number) for number in range(8)))
    for number in (3, 1, 0, 7, 2, 6, 5, 4):
        site.exchanges[number].reply(200, b"%d" % number)
    bodies = [piece.partition(b"\r\n\r\n")[2] for piece in transport.written.split(b"HTTP/1.1 ")[1:]]
    assert bodies == [b"%d" % number for number in range(8)]


def test_second_reply_to_a_request_is_dropped() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(POST + POST)
    for number, status in ((1, 200), (1, 500), (0, 200), (0, 500), (1, 500)):
        site.exchanges[number].reply(status, b"{}")
    assert statuses(transport.written) == [200, 200]


def test_pipeline_over_the_bound_pauses_reading_until_replies_leave() -> None:
    site = Site(answer_now=False, pipeline=4)
    connection, transport = site.connect()
    connection.data_received(POST * 6)
    assert transport.paused
    for exchange in site.exchanges[:4]:
        exchange.reply(200, b"{}")
    assert not transport.paused


def test_client_that_does_not_read_is_paused_then_cut() -> None:
    site = Site(write_timeout_s=5.0)
    connection, transport = site.connect()
    connection.pause_writing()
    assert transport.paused
    site.server.tick += 5
    connection.check_times()
    assert not transport.aborted
    site.server.tick += 1
    connection.check_times()
    assert transport.aborted


def test_client_that_reads_again_is_resumed() -> None:
    site = Site()
    connection, transport = site.connect()
    connection.pause_writing()
    connection.resume_writing()
    assert not transport.paused
    site.server.tick += 40
    connection.check_times()
    assert not transport.closed


def test_idle_connection_is_closed_without_a_reply() -> None:
    site = Site(idle_timeout_s=10.0)
    connection, transport = site.connect()
    connection.data_received(POST)
    written = transport.written
    site.server.tick += 11
    connection.check_times()
    assert transport.closed
    assert transport.written == written


def test_connection_that_waits_for_its_reply_is_not_idle() -> None:
    site = Site(answer_now=False, idle_timeout_s=10.0)
    connection, transport = site.connect()
    connection.data_received(POST)
    site.server.tick += 100
    connection.check_times()
    assert not transport.closed


def test_slow_head_is_refused_however_it_trickles() -> None:
    site = Site(header_timeout_s=10.0)
    connection, transport = site.connect()
    for byte in b"GET / HTTP/1.1":
        connection.data_received(bytes([byte]))
        site.server.tick += 1
        connection.check_times()
    assert statuses(transport.written) == [408]


def test_slow_body_is_refused_and_a_steady_one_is_not() -> None:
    site = Site(body_timeout_s=10.0, body_rate_bytes_s=100)
    for rate, expected in ((10, [408]), (200, [200])):
        connection, transport = site.connect()
        connection.data_received(b"POST / HTTP/1.1\r\nContent-Length: 20000\r\n\r\n")
        for _ in range(20000 // rate):
            if transport.written:
                break
            connection.data_received(b"x" * rate)
            site.server.tick += 1
            connection.check_times()
        assert statuses(transport.written) == expected


def test_client_that_stalls_late_in_a_large_body_is_refused_as_soon_as_one_that_stalls_early() -> None:
    site = Site(body_timeout_s=10.0, body_rate_bytes_s=100)
    connection, transport = site.connect()
    connection.data_received(b"POST / HTTP/1.1\r\nContent-Length: 100001\r\n\r\n" + b"x" * 100_000)
    for _ in range(10):
        site.server.tick += 1
        connection.check_times()
        assert not transport.written
    site.server.tick += 1
    connection.check_times()
    assert statuses(transport.written) == [408]
    assert b"nothing of the body arrived for 10 s" in transport.written


def test_client_that_is_not_read_does_not_stall() -> None:
    site = Site(answer_now=False, body_timeout_s=10.0, body_rate_bytes_s=1, pipeline=1)
    connection, transport = site.connect()
    connection.data_received(POST + POST + b"POST / HTTP/1.1\r\nContent-Length: 100001\r\n\r\n" + b"x" * 100)
    assert transport.paused
    site.server.tick += 12
    connection.check_times()
    assert len(connection.rest) == 1, "no refusal is among the replies that are owed"


def test_refused_client_is_given_time_to_read_then_cut() -> None:
    site = Site(linger_s=2.0)
    connection, transport = site.connect()
    connection.data_received(b"NONSENSE\r\n\r\n")
    assert transport.ended
    assert not transport.closed
    site.server.tick += 3
    connection.check_times()
    assert transport.aborted


def test_refused_client_that_goes_on_sending_is_cut_in_the_end() -> None:
    site = Site(linger_s=2.0, write_timeout_s=10.0)
    connection, transport = site.connect()
    connection.data_received(b"NONSENSE\r\n\r\n")
    for _ in range(11):
        connection.data_received(b"x")
        assert not transport.aborted
        site.server.tick += 1
        connection.check_times()
    assert transport.aborted


def test_connection_over_the_limit_is_told_so() -> None:
    site = Site(connections=1)
    site.connect()
    _, transport = site.connect()
    assert statuses(transport.written) == [503]
    assert site.server.refused == {503: 1}


def test_place_of_a_closed_connection_is_free_again() -> None:
    site = Site(connections=1)
    connection, _ = site.connect()
    connection.connection_lost(None)
    _, transport = site.connect()
    assert transport.written == b""


def test_reply_after_the_client_has_gone_is_dropped() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(POST * 2)
    connection.connection_lost(ConnectionResetError())
    for exchange in site.exchanges:
        assert exchange.connection is None
        exchange.reply(200, b"{}")
    assert transport.written == b""


def test_write_to_a_transport_that_closed_cuts_the_connection_and_nothing_else() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(POST)
    transport.breaks = True
    site.exchanges[0].reply(200, b"{}")
    assert transport.aborted


def test_half_closed_client_gets_its_replies() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(POST * 2)
    assert connection.eof_received() is True
    for exchange in site.exchanges:
        exchange.reply(200, b"{}")
    assert statuses(transport.written) == [200, 200]
    assert transport.closed


def test_client_that_ends_without_waiting_is_closed() -> None:
    site = Site()
    connection, _ = site.connect()
    assert connection.eof_received() is False
    connection.data_received(POST[:20])
    assert connection.eof_received() is False


def test_drain_closes_idle_connections_and_finishes_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    drained: list[bool] = []
    monkeypatch.setattr("asyncio.get_running_loop", _SoonNow)
    site = Site(answer_now=False)
    idle, idle_transport = site.connect()
    busy, busy_transport = site.connect()
    busy.data_received(POST)
    reading, reading_transport = site.connect()
    reading.data_received(POST[:30])
    site.server.drain(lambda: drained.append(True))
    assert idle_transport.closed
    assert not busy_transport.closed
    idle.connection_lost(None)
    reading.data_received(POST[30:])
    for exchange in site.exchanges:
        exchange.reply(200, b"{}")
    for connection, transport in ((busy, busy_transport), (reading, reading_transport)):
        assert b"Connection: close" in transport.written
        assert transport.closed
        assert not drained
        connection.connection_lost(None)
    assert drained == [True]


def test_connection_that_comes_while_draining_is_refused() -> None:
    site = Site()
    site.server.draining = True
    _, transport = site.connect()
    assert statuses(transport.written) == [503]


def lingering_site(monkeypatch: pytest.MonkeyPatch) -> tuple[Site, Callable[[], None]]:
    """Return a site that can be drained with a linger of two ticks, and what lets a tick pass."""
    monkeypatch.setattr("asyncio.get_running_loop", _SoonNow)
    site = Site(answer_now=False)
    return site, site.server._beat


def test_lingering_drain_answers_one_more_request_of_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    site, _ = lingering_site(monkeypatch)
    connection, transport = site.connect()
    site.server.drain(lambda: None, linger_s=2.0)
    assert not transport.closed
    connection.data_received(POST)
    site.exchanges[0].reply(200, b"{}")
    assert b"Connection: close" in transport.written
    assert transport.ended and not transport.closed  # what the client still sends must not reset the reply away
    connection.data_received(POST)
    assert statuses(transport.written) == [200]


def test_connection_accepted_just_before_a_lingering_drain_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    site, _ = lingering_site(monkeypatch)
    site.server.drain(lambda: None, linger_s=2.0)
    connection, transport = site.connect()
    connection.data_received(POST)
    site.exchanges[0].reply(200, b"{}")
    assert statuses(transport.written) == [200]


def test_pipelined_requests_in_a_lingering_drain_get_one_last_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    site, _ = lingering_site(monkeypatch)
    site.answer_now = True
    connection, transport = site.connect()
    site.server.drain(lambda: None, linger_s=2.0)
    connection.data_received(POST[:10])
    connection.data_received(POST[10:] + POST * 2)
    assert statuses(transport.written) == [200]
    assert transport.ended and not transport.aborted


def test_connection_that_rests_through_the_linger_is_half_closed_then_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    site, beat = lingering_site(monkeypatch)
    _, transport = site.connect()
    busy, busy_transport = site.connect()
    busy.data_received(POST)
    site.server.drain(lambda: None, linger_s=2.0)
    seen = []
    for _ in range(5):
        beat()
        seen.append((transport.ended, transport.aborted, busy_transport.ended))
    assert seen == [(False, False, False), *[(True, False, False)] * 3, (True, True, False)]


def test_connection_is_between_requests_only_when_nothing_is_owed_or_half_read() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    steps: list[tuple[Callable[[], object], bool]] = [
        (lambda: None, True),
        (lambda: connection.data_received(POST[:30]), False),
        (lambda: connection.data_received(POST[30:]), False),
        (lambda: site.exchanges[0].reply(200, b"{}"), True),
        (lambda: setattr(transport, "buffered", 1), False),
        (lambda: setattr(transport, "buffered", 0), True),
        (connection.pause_writing, False),
        (connection.resume_writing, True),
        (transport.close, False),
    ]
    for number, (step, expected) in enumerate(steps):
        step()
        assert connection.is_between_requests is expected, number


def test_handler_that_raises_costs_only_its_own_request(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr("asyncio.get_running_loop", lambda: _SoonNow(told))
    site = Site()
    plain: Callable[..., None] = site.handle

    def handle(exchange: Exchange, method: bytes, target: bytes, body: Body) -> None:
        if body == b"no":
            raise ValueError("a bug")
        plain(exchange, method, target, body)

    site.server.handler = handle
    connection, transport = site.connect()
    connection.data_received(POST + POST.replace(b"hi", b"no") + POST)
    assert statuses(transport.written) == [200, 500, 200]
    assert len(told) == 1
    assert b"a bug" not in transport.written


class _SoonNow:
    """A loop that calls at once."""

    def __init__(self, told: list[Any] | None = None) -> None:
        self.told = told

    def call_soon(self, function: Callable[[], None]) -> None:
        function()

    def call_later(self, delay_s: float, function: Callable[[], None]) -> None:
        """Never: the tests let the time pass themselves."""

    def call_exception_handler(self, context: Any) -> None:
        assert self.told is not None
        self.told.append(context)


def stream_of(site: Site, exchange: Exchange, gone: list[bool]) -> StreamReply:
    return exchange.stream(200, b"application/json", lambda: gone.append(True))


def test_streamed_reply_is_chunked_and_keeps_the_connection() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(GET)
    reply = stream_of(site, site.exchanges[0], [])
    reply.write(b'{"a":1}\n')
    reply.write(b"")
    reply.end()
    reply.write(b"more")
    assert b"Transfer-Encoding: chunked\r\n\r\n8\r\n" in transport.written
    assert transport.written.endswith(b'{"a":1}\n\r\n0\r\n\r\n')
    connection.data_received(GET)
    site.exchanges[1].reply(200, b"{}")
    assert transport.written.endswith(b"\r\n\r\n{}")


def test_streamed_reply_behind_another_waits_for_its_turn() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(GET * 3)
    site.exchanges[2].reply(200, b"third")
    reply = stream_of(site, site.exchanges[1], [])
    reply.write(b"second")
    assert transport.written == b""
    site.exchanges[0].reply(200, b"first")
    assert transport.written.endswith(b"6\r\nsecond\r\n")
    reply.write(b"again")
    assert transport.written.endswith(b"5\r\nagain\r\n")
    reply.end()
    assert transport.written.endswith(b"third")


def test_streamed_reply_to_an_old_client_ends_by_closing() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(b"GET / HTTP/1.0\r\n\r\n")
    reply = stream_of(site, site.exchanges[0], [])
    reply.write(b"line\n")
    assert transport.written.endswith(b"Connection: close\r\n\r\nline\n")
    reply.end()
    assert transport.closed


def test_streamed_reply_to_head_is_only_its_head() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(GET.replace(b"GET", b"HEAD"))
    reply = stream_of(site, site.exchanges[0], [])
    reply.write(b"line\n")
    assert transport.written.endswith(b"\r\n\r\n")
    assert not reply.is_open


def test_reader_of_a_stream_that_leaves_is_noticed_once() -> None:
    site = Site(answer_now=False)
    connection, _ = site.connect()
    connection.data_received(GET)
    gone: list[bool] = []
    reply = stream_of(site, site.exchanges[0], gone)
    connection.connection_lost(None)
    reply.write(b"x")
    reply.end()
    assert gone == [True]
    assert not reply.is_open


def test_reader_of_a_stream_that_falls_behind_is_cut() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(GET)
    reply = stream_of(site, site.exchanges[0], [])
    transport.buffered = 5 * 1024 * 1024
    reply.write(b"x")
    assert transport.aborted


def test_pipelined_requests_while_draining_get_one_last_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncio.get_running_loop", _SoonNow)
    site = Site()
    connection, transport = site.connect()
    connection.data_received(POST[:10])
    site.server.drain(lambda: None)
    connection.data_received(POST[10:] + POST * 2)
    assert statuses(transport.written) == [200]
    assert len(site.asked) == 1
    assert transport.closed
    assert not transport.aborted


@pytest.mark.parametrize("more", [POST[:20], POST[:-1], b"garbage\r\n\r\n"])
def test_half_closed_client_gets_its_replies_whatever_it_began_last(more: bytes) -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(POST + more)
    assert connection.eof_received() is True
    site.exchanges[0].reply(200, b"{}")
    assert statuses(transport.written)[0] == 200
    assert transport.closed or transport.ended


def test_half_closed_client_that_asked_to_close_gets_its_reply() -> None:
    site = Site(answer_now=False)
    connection, transport = site.connect()
    connection.data_received(POST.replace(b"Host: x", b"Connection: close") + b"more")
    assert connection.eof_received() is True
    site.exchanges[0].reply(200, b"{}")
    assert statuses(transport.written) == [200]


def test_refused_client_is_read_to_its_end_also_when_reading_had_paused() -> None:
    site = Site(answer_now=False, pipeline=4)
    connection, transport = site.connect()
    connection.data_received(POST * 6 + b"garbage\r\n\r\n")
    assert transport.paused
    for exchange in reversed(site.exchanges):  # the last of these lets all replies leave at once
        exchange.reply(200, b"{}")
    assert statuses(transport.written) == [200] * 6 + [400]
    assert transport.ended
    assert not transport.paused


def test_refusal_of_head_has_no_body() -> None:
    site = Site()
    connection, transport = site.connect()
    connection.data_received(b"HEAD / HTTP/1.1\r\nExpect: wonders\r\n\r\n")
    assert statuses(transport.written) == [417]
    assert transport.written.endswith(b"\r\n\r\n")


def test_trailer_says_nothing() -> None:
    site = Site()
    forms: list[Any] = []
    site.server.form_handler = lambda exchange, method, target, body, form: forms.append(form)
    connection, transport = site.connect()
    head = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n"
    connection.data_received(head + b"Clipperfs-Version: 2\r\nContent-Encoding: gzip\r\nExpect: x\r\n\r\n")
    assert statuses(transport.written) == [200]
    assert not forms


@pytest.mark.parametrize("endless", [b"0\r\nX: ", b"2;"])
def test_endless_trailer_or_chunk_extension_is_refused(endless: bytes) -> None:
    site = Site()
    connection, transport = site.connect()
    connection.data_received(b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n" + endless)
    sent = 0
    while not transport.written and sent < 1_000_000:
        connection.data_received(b"a" * 1000)
        sent += 1000
    assert statuses(transport.written) == [431]
    assert sent <= 2 * site.server.limits.header_bytes + 2000


def test_body_in_crumbs_is_kept_in_one_buffer() -> None:
    site = Site()
    connection, _ = site.connect()
    count = 50_000
    connection.data_received(b"POST /a HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (2 * count))
    for number in range(count):
        connection.data_received(b"%02d" % (number % 100))
        assert sys.getsizeof(connection.body) < 1.2 * connection.body_bytes + 1000
    assert site.asked == [(b"POST", b"/a", b"".join(b"%02d" % (number % 100) for number in range(count)))]
    whole: Any = site.asked[0][2]
    assert isinstance(whole, bytearray), "not copied once more"


def test_others_get_their_turn_while_a_large_body_arrives() -> None:
    site = Site(body_bytes=10 * TURN_BYTES)
    connection, transport = site.connect()
    told: list[bool] = []

    async def live() -> None:
        connection.data_received(b"POST /a HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (3 * TURN_BYTES))
        connection.data_received(bytes(TURN_BYTES - 1))
        told.append(transport.paused)
        for _ in range(2):
            connection.data_received(bytes(TURN_BYTES // 2 + 1))
            told.append(transport.paused)
        await asyncio.sleep(0)
        told.append(transport.paused)
        connection.data_received(bytes(3 * TURN_BYTES - connection.body_bytes))
        told.append(transport.paused)

    asyncio.run(live())
    assert told == [False, True, True, False, False]
    assert len(site.asked[0][2]) == 3 * TURN_BYTES


def test_small_body_in_pieces_is_handed_on_as_bytes() -> None:
    site = Site()
    connection, _ = site.connect()
    connection.data_received(b"POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\n")
    connection.data_received(b"12")
    connection.data_received(b"34")
    assert site.asked == [(b"POST", b"/a", b"1234")]
    assert type(site.asked[0][2]) is bytes
