"""Feeds one byte stream to a site in several ways, and says which promise was not kept.

Two runs must give the same replies: one in pieces, with answers that come late and out of order; one in a single piece
(or in the same pieces), answered at once, with nothing remembered of heads. Other inputs go through a rough run, in
which clients leave, stop reading and time passes: there, only what holds always is checked.
"""

from __future__ import annotations

import re
from random import Random
from typing import Final

from clipperfs.serverd.connection import HttpConnection
from clipperfs.serverd.replying import IDLE, REFUSED

from tests.fuzz.replies import Broken, Reply, Requests, count_requests, read_replies
from tests.fuzz.site import LIMITS, FakeTransport, Site, running

PLAN_BYTES: Final = 4
"""The first bytes of an input decide how the others are cut and when answers come."""
REFUSALS: Final = frozenset({400, 408, 413, 415, 417, 431, 503, 505})
"""Statuses of the protocol itself, each of which ends the connection."""
ANSWERS: Final = frozenset({200, 400, 404, 405, 413, 415})
BOUNDARY: Final = re.compile(rb"(?=(?:POST|GET|HEAD|PUT) /)")
KEPT_BYTES: Final = 2 * (2 * LIMITS.header_bytes + LIMITS.body_bytes)
"""What a connection may keep of a request that is not whole, beside the piece that it was just given."""


def judge(site: Site, data: bytes) -> tuple[int, int]:
    """Check one input. Returns how many requests and replies it came to. Raises Broken."""
    plan = Random(data[:PLAN_BYTES])
    stream = data[PLAN_BYTES:]
    with running(site.loop):
        if plan.random() < 0.25:
            return _judge_rough(site, stream, plan)
        return _judge_twice(site, stream, plan)


def _judge_twice(site: Site, stream: bytes, plan: Random) -> tuple[int, int]:
    requests = count_requests(stream)
    pieces = cut(stream, plan)
    connection, transport = _connect(site)
    site.dispatcher.holds = plan.random() < 0.5
    _feed(site, connection, transport, pieces, plan)
    found = _check_all(site, connection, transport, requests)
    is_whole = plan.random() < 0.5
    connection, transport = _connect(site)
    connection.heads_left = 0
    site.dispatcher.holds = False
    _feed(site, connection, transport, [stream] if is_whole else pieces, plan)
    expected = _check_all(site, connection, transport, requests)
    # Where a limit on heads is crossed depends on how they are cut: an unfinished one is measured by the piece.
    if not _are_alike(found, expected) and not (
        is_whole and any(reply.status == 431 for reply in (*found[-1:], *expected[-1:]))
    ):
        raise Broken(f"replies differ:\n {found}\n {expected}\n pieces {str(pieces)[:3000]}")
    return len(requests.methods), len(found)


def _are_alike(some: list[Reply], others: list[Reply]) -> bool:
    """Compare replies. Of several reasons to refuse a request, the one that is seen first depends on how it is cut."""
    if some and others and is_refusal(some[-1]) and is_refusal(others[-1]):
        return some[:-1] == others[:-1]
    return some == others


def is_refusal(reply: Reply) -> bool:
    """Whether a reply is the protocol's own, and not a handler's."""
    return reply.closes and reply.status in REFUSALS and (not reply.body or b'"Request refused"' in reply.body)


def cut(stream: bytes, plan: Random) -> list[bytes]:
    """Return the stream in pieces: at the beginnings of requests, at random places, or both."""
    how = plan.random()
    places: set[int] = set()
    if how < 0.7:
        places.update(found.start() for found in BOUNDARY.finditer(stream) if plan.random() < 0.9)
    if how > 0.5 and len(stream) > 1:
        places.update(plan.randrange(1, len(stream)) for _ in range(plan.randrange(1, 8)))
    if how > 0.98:
        places.update(range(1, min(len(stream), 600)))
    places.discard(0)
    ends = [*sorted(places), len(stream)]
    starts = [0, *ends]
    return [stream[start:stop] for start, stop in zip(starts, ends, strict=False) if stop > start]


def _connect(site: Site) -> tuple[HttpConnection, FakeTransport]:
    site.reset()
    connection = site.server()
    transport = FakeTransport()
    connection.connection_made(transport)
    return connection, transport


def _feed(site: Site, connection: HttpConnection, transport: FakeTransport, pieces: list[bytes], plan: Random) -> None:
    for piece in pieces:
        if transport.paused:
            site.dispatcher.release(plan, len(site.dispatcher.held))
            if transport.paused and not transport.closed:
                raise Broken("reading stays paused although every query is answered")
        if transport.closed:
            break
        connection.data_received(piece)
        _check_kept(connection, len(piece))
        if site.dispatcher.held and plan.random() < 0.4:
            site.dispatcher.release(plan, plan.randrange(1, 4))
    site.dispatcher.release(plan, len(site.dispatcher.held))


def _check_kept(connection: HttpConnection, piece_bytes: int) -> None:
    if len(connection.body) + len(connection.target) > KEPT_BYTES + piece_bytes:
        raise Broken("more of a request is kept than the limits allow")
    server = connection.server
    if server.held_bytes != sum(map(_held_bytes, server.connections)):
        raise Broken(f"{server.held_bytes} bytes of bodies are said to be held")
    waiting = len(connection.rest)
    if waiting > LIMITS.pipeline and not connection.reading_paused and not connection.transport.is_closing():
        raise Broken(f"{waiting} requests wait and reading goes on")


def _held_bytes(connection: HttpConnection) -> int:
    first = [] if connection.first is None else [connection.first]
    return connection.held_bytes + sum(exchange.held_bytes for exchange in (*first, *connection.rest))


def _check_always(site: Site, transport: FakeTransport, methods: list[bytes]) -> list[Reply]:
    if site.loop.bugs:
        bug = site.loop.bugs[0]
        raise Broken(bug["message"]) from bug["exception"]
    if transport.late:
        raise Broken("something was written after the end")
    replies = read_replies(bytes(transport.written), methods)
    for reply in replies[:-1]:
        if reply.closes:
            raise Broken("a reply follows one that closes")
    for reply in replies:
        if reply.status not in ANSWERS and not (reply.closes and reply.status in REFUSALS):
            raise Broken(f"status {reply.status}: {reply.body!r}")
    return replies


def _check_all(site: Site, connection: HttpConnection, transport: FakeTransport, requests: Requests) -> list[Reply]:
    replies = _check_always(site, transport, requests.methods)
    whole = len(requests.methods)
    has_ended = transport.closed or transport.ended
    if transport.aborted:
        raise Broken("the connection was cut")
    if connection.first is not None or connection.rest:
        raise Broken("a request waits for its reply although every query is answered")
    if has_ended != (bool(replies) and replies[-1].closes):
        raise Broken(f"the connection has ended: {has_ended}, but the last reply is {replies[-1:]}")
    if not has_ended and (len(replies) != whole or requests.is_broken):
        raise Broken(f"{len(replies)} replies to {whole} whole requests; broken: {requests.is_broken}")
    if len(replies) > whole and not (len(replies) == whole + 1 and replies[-1].status in REFUSALS):
        raise Broken(f"{len(replies)} replies to {whole} whole requests")
    return replies


def _judge_rough(site: Site, stream: bytes, plan: Random) -> tuple[int, int]:
    """Several connections share the pieces' clock; clients leave, stop reading, half-close; the server drains."""
    site.reset()
    site.dispatcher.holds = True
    requests = count_requests(stream)
    count = plan.randrange(1, 4)
    clients = []
    for _ in range(count):
        connection, transport = site.server(), FakeTransport()
        connection.connection_made(transport)
        clients.append((connection, transport, iter(cut(stream, plan))))
    drains = plan.random() < 0.15
    for _ in range(12 * count):
        connection, transport, pieces = plan.choice(clients)
        if connection.transport is None:
            continue
        event = plan.random()
        piece = None if transport.paused or transport.closed else next(pieces, None)
        if piece is not None:
            connection.data_received(piece)
            _check_kept(connection, len(piece))
        elif transport.closed:
            connection.connection_lost(None)
            continue
        if event < 0.3:
            site.dispatcher.release(plan, plan.randrange(1, 5))
        elif event < 0.36:
            site.server.tick += plan.choice((1, 10, 40, 200))
            for one in list(site.server.connections):
                one.check_times()
        elif event < 0.40:
            connection.connection_lost(ConnectionResetError())
        elif event < 0.43 and not transport.closed and not connection.eof_received():
            transport.close()
            connection.connection_lost(None)
        elif event < 0.47 and not transport.closed:
            (connection.resume_writing if connection.blocked else connection.pause_writing)()
        elif event < 0.5 and drains and not site.server.draining:
            site.server.drain(lambda: None)
    site.dispatcher.release(plan, len(site.dispatcher.held))
    replies = 0
    for connection, transport, _ in clients:
        replies += len(_check_always(site, transport, requests.methods))
        if connection.transport is not None and not transport.closed:
            if connection.first is not None and not connection.blocked:
                raise Broken("a request waits for its reply although every query is answered")
            site.server.tick += 4000
            connection.check_times()  # whoever says nothing more is closed in the end, or refused first and then cut
            site.server.tick += 4000
            connection.check_times()
            if not transport.closed and connection.phase != IDLE and connection.phase != REFUSED:
                raise Broken("a silent client is kept for ever")
        if connection.transport is not None:
            connection.connection_lost(None)
    if site.server.connections:
        raise Broken("a connection that has ended is still on the list")
    return len(requests.methods) * count, replies
