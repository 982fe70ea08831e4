"""The compiled frontend and the same modules as they are written: given any bytes, they say the same."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from clipperfs.serverd.routing import AppRoute, ModelRoute, VersionRoute

from tests.fuzz import grammar
from tests.fuzz.site import INPUT_TYPES
from tests.integration.frontend_rig import Rig

STREAMS = 2000
CHANCE = re.compile(rb'(?<="query_id":)\d+|Connection: close\r\n')
"""What differs between two runs: whether the end of what a client sends is seen before its last reply or after."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not list((Path(__file__).parents[2] / "serverd").glob("dispatch.*.so")), reason="nothing is compiled here"
    ),
]


@pytest.fixture(scope="module")
def rigs() -> Iterator[tuple[Rig, Rig]]:
    """A compiled frontend and one that is not, each with a replica for each input type."""
    with Rig("--max-body", "65536") as compiled, Rig("--max-body", "65536", interpreted=True) as written:
        for rig in (compiled, written):
            apps = {"off": AppRoute("doubles", 10_000_000, '{"none":1}')}
            models = {}
            for name in (*INPUT_TYPES, "sized"):
                input_type = "doubles" if name == "sized" else name
                replica = rig.start_replica(input_type=input_type)
                size = 3 if name == "sized" else None
                route = VersionRoute(name, "d" * 64, input_type, (replica,), size)
                apps[name] = AppRoute(input_type, 10_000_000, "-1", name)
                models[name] = ModelRoute(active="1", versions={"1": route}, cache=name == "ints")
            rig.route(apps, models)
        yield compiled, written


def say(rig: Rig, stream: bytes) -> bytes:
    """Send a stream, and return all that comes back."""
    said = b""
    with socket.create_connection(("127.0.0.1", rig.port), timeout=20) as client:
        try:
            client.sendall(stream)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(1 << 16):
                said += piece
        except ConnectionError:  # cut, after whatever it has said
            pass
    return CHANCE.sub(b"", said)


@pytest.mark.timeout(300)
def test_any_stream_gets_the_same_replies(rigs: tuple[Rig, Rig]) -> None:
    compiled, written = rigs
    random = Random(11)
    answered = refused = 0
    for _ in range(STREAMS):
        stream = grammar.make_stream(random)
        if random.random() < 0.4:
            stream = grammar.change(stream, random)
        said = say(compiled, stream)
        assert said == say(written, stream), stream
        assert b"HTTP/1.1 500" not in said, stream
        answered += said.count(b"HTTP/1.1 200")
        refused += said.count(b"HTTP/1.1 400")
    assert answered > STREAMS / 6
    assert refused > STREAMS / 10
