"""A frontend's dispatcher and predict handler with replicas that run the real replica's code, in virtual time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from clipperfs.serverd import dispatch, predict
from clipperfs.serverd.cache import PredictionCache
from clipperfs.serverd.counters import Counters
from clipperfs.serverd.exchange import Exchange
from clipperfs.serverd.http import HttpServer
from clipperfs.serverd.query import CODECS, QUERY_ERROR, REFUSALS, BadQueryError, check_input
from clipperfs.serverd.routing import AppRoute, ModelRoute, RoutingTable, VersionRoute
from clipperfs.serverd.slow import SlowLog

from clipperfs import wire
from clipperfs.replica.conversation import Conversation
from tests.property.frontend_world import Loop, live_by

SLO_S = 0.5
WAY: Any = object()
"""Stands for a lane: answers go back where ``HeldConversation`` keeps them."""


class Mirror:
    """A wrapper that gives each input back as it was given, and sees to what a batch must be."""

    def __init__(self, input_type: str) -> None:
        self.dtype = {"floats": "<f4", "doubles": "<f8"}[input_type]
        self.sizes: list[int] = []

    def predict(self, inputs: Any) -> list[str]:
        self.sizes.append(len(inputs))
        is_array = isinstance(inputs, np.ndarray)
        assert is_array == (len(set(map(len, inputs))) == 1)
        for one in (inputs, *inputs) if is_array else inputs:
            assert one.dtype == self.dtype and one.flags.c_contiguous and not one.flags.writeable
        return ["x" + row.tobytes().hex() for row in inputs]  # digits alone could be read as a number


class HeldConversation(Conversation):
    """The replica's end without its sockets."""

    def __init__(self, wrapper: Mirror) -> None:
        self._readers = {}
        self._last_fault = ("", 0.0)
        self.sent: list[list[bytes]] = []
        self.wrapper = wrapper

    def _send(self, way: Any, *frames: bytes) -> None:
        self.sent.append(list(frames))

    def take(self, header: bytes, body: bytes) -> list[bytes]:
        """Return the answer to a batch, as a lane hands it on."""
        self._answer_frame(WAY, header, memoryview(body), self.wrapper, "int8")  # type: ignore[arg-type]
        answer = self.sent.pop()
        return [frame for frame in answer if frame]


class Transport:
    """Keeps what is sent until a test has the replica answer."""

    def __init__(self, _endpoint: str, hear: Any, _lane_path: str, lose: Any) -> None:
        self.hear, self.lose = hear, lose
        self.sent: list[tuple[bytes, bytes, bytes]] = []
        self.unreachable: set[bytes] = set()

    def send(self, identity: bytes, header: bytes, body: bytes) -> bool:
        if identity in self.unreachable:
            return False
        self.sent.append((identity, header, body))
        return True

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


class Client:
    """One request on a connection of its own, whose transport this stands in for."""

    def __init__(self, server: HttpServer) -> None:
        self.replies: list[tuple[int, Any]] = []
        transport: Any = self
        connection = server()
        connection.connection_made(transport)
        self.exchange = connection.first = Exchange(connection, 0)

    def write(self, raw: bytes) -> None:
        head, _, body = raw.partition(b"\r\n\r\n")
        plain = json.loads(body)
        plain.pop("query_id", None)
        self.replies.append((int(head.split()[1]), plain))

    def leave(self) -> None:
        self.exchange.leave()


class TextWorld:
    """One version with its replicas, one application, and replicas that answer when they are told to."""

    def __init__(
        self, input_type: str = "floats", input_size: int | None = None, readers: Sequence[int] = (1,), **route: Any
    ) -> None:
        """``readers``: what each replica's HELLO says of texts."""
        self.loop = Loop()
        self.codec = CODECS[input_type]
        self.input_size = input_size
        self._stack = ExitStack()
        live_by(self.loop, Transport, self._stack)
        self.counters = Counters()
        slow = SlowLog(None, lambda _: None)
        cache = PredictionCache(100_000)
        self.released: list[str] = []
        self.dispatcher = dispatch.Dispatcher(
            "", cache, self.counters, self.released.append, lambda *_: None, lambda _: None, slow
        )
        self.handler = predict.PredictHandler(self.dispatcher, cache, 1)
        self.transport: Transport = self.dispatcher._outbox.transport  # type: ignore[assignment]
        self.mirror = Mirror(input_type)
        self.replica = HeldConversation(self.mirror)
        self.identities = [bytes([number]) * 16 for number in range(1, 1 + len(readers))]
        names = tuple(one.hex() for one in self.identities)
        self.settings = {"input_size": input_size, **route}
        self.names = names
        self.input_type = input_type
        for identity, shared_by in zip(self.identities, readers, strict=True):
            hello = wire.pack_header(wire.HELLO, wire.MAJOR, wire.MINOR, 7, shared_by)
            self.transport.hear(identity, [hello])
        self.route()
        self.version = self.dispatcher.versions["load"]
        self.version.rows = 1.0  # as many in a batch, and no time: as cheap as a model can be
        self.version.follow_readers()
        self.server = HttpServer(lambda *_: None)
        self.asked: list[tuple[bytes, Client]] = []

    def route(self, cache: bool = False, **limits: Any) -> None:
        """Follow a table."""
        version = VersionRoute("load", "d" * 64, self.input_type, self.names, **self.settings)
        table = RoutingTable(
            1,
            True,
            {"a": AppRoute(self.input_type, int(SLO_S * 1e6), "none", "m", **limits)},
            {"m": ModelRoute(active="1", cache=cache, versions={"1": version})},
        )
        self.handler.follow(table, self.dispatcher.apply(table), self.counters)
        self.loop.settle()

    def ask(self, body: bytes) -> Client:
        """Have a client send a body."""
        client = Client(self.server)
        self.asked.append((body, client))
        self.handler.posts[b"/a/predict"](client.exchange, body)
        return client

    def is_text(self, at: int = 0) -> bool:
        """Return whether a batch that is out consists of texts."""
        return wire.unpack_header(self.transport.sent[at][1])[2] in wire.TEXT_CODES.values()

    def answer(self) -> None:
        """Have the replicas answer what they have got."""
        sent, self.transport.sent = self.transport.sent, []
        for identity, header, body in sent:
            self.transport.hear(identity, self.replica.take(header, body))
        self.loop.settle()

    def fault(self) -> None:
        """Have the replicas fail on what they have got."""
        sent, self.transport.sent = self.transport.sent, []
        for identity, header, _ in sent:
            number = wire.unpack_header(header)[1]
            self.transport.hear(identity, [wire.pack_header(wire.FAULT, number, "it raised")])
        self.loop.settle()

    def lose(self, at: int) -> None:
        """Have a replica die with what it has got."""
        identity = self.identities[at]
        self.transport.sent = [one for one in self.transport.sent if one[0] != identity]
        self.transport.lose(identity)
        self.loop.settle()

    def finish(self) -> None:
        """Have everything answered."""
        self.loop.settle()
        while self.transport.sent:
            self.answer()

    def usual(self, body: bytes) -> tuple[int, Any]:
        """Return the reply to a body when all goes well, by the plainest reading of it."""
        try:
            value = self.codec.decode(body)
            if not isinstance(value.input, list):
                raise BadQueryError(QUERY_ERROR, "the body must have the field input, or input_batch")
            packed = self.codec.pack(value.input)
            check_input(packed, self.codec, self.input_size, "m")
        except REFUSALS as error:
            bad = self.codec.explain(error, body)
        except BadQueryError as error:
            bad = error
        else:
            return 200, {"output": "x" + packed.hex(), "default": False}
        return 400, {"error": bad.error, "cause": bad.cause}

    def check(self, *, may_default: bool = False) -> None:
        """See that everybody has got the usual reply, once, and that everything was counted as usual."""
        good = bad = 0
        for body, client in self.asked:
            expected = self.usual(body)
            assert len(client.replies) == 1, body
            [found] = client.replies
            if expected[0] == 200:
                good += 1
                if may_default and found[1].get("default"):
                    continue
            else:
                bad += 1
            assert found == expected, body
        app, counter = self.counters.app("a"), self.counters.version("m", "1")
        assert (app.queries, app.bad_requests, counter.queries) == (good, bad, good)
        assert sum(app.latency) == good
        assert self.version.live == 0
        assert (self.version.queue.rows, self.version.queue.size_bytes) == (0, 0)

    def close(self) -> None:
        self.dispatcher.close()
        self._stack.close()
