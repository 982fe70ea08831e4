"""A frontend whose daemon is replaced and whose connections nobody takes over: none is reset, none left in the dark."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.integration.frontend_rig import Rig

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as one:
        yield one


def connect(rig: Rig) -> socket.socket:
    """Return a connection that has had a reply and rests."""
    client = socket.create_connection(("127.0.0.1", rig.port), timeout=10)
    client.sendall(LIVEZ)
    assert client.recv(4096).startswith(b"HTTP/1.1 200")
    return client


def test_resting_connection_may_send_one_more_request_then_is_closed(rig: Rig) -> None:
    with connect(rig) as asking, connect(rig) as resting:
        rig.send("drain", heirs=["/nowhere/h0.sock"])
        began_s = time.monotonic()
        time.sleep(0.3)
        asking.sendall(LIVEZ * 2)  # it does not wait for the reply, as a client that cannot know
        reply = b""
        while data := asking.recv(4096):
            reply += data
        assert reply.startswith(b"HTTP/1.1 200") and b"\r\nConnection: close\r\n" in reply
        assert resting.recv(10) == b""
        assert 1.0 < time.monotonic() - began_s < 5.0
        asking.close()
        resting.close()
        assert rig.process.wait(5) == 0


def test_client_that_never_closes_does_not_hold_up_the_end(rig: Rig) -> None:
    with connect(rig):
        rig.send("drain", heirs=["/nowhere/h0.sock"])
        assert rig.process.wait(10) == 0
