"""stages: what each stage of the predict path costs in processor time, with everything real but the sockets.

A turn takes one request from each of so many connections through the frontend's own objects, through what a replica
does with the batch, and back to the replies. Kernel, event loop and the wire are left out: ``predict`` measures those.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from clipperfs.serverd import dispatch, outbox
from clipperfs.serverd.cache import PredictionCache
from clipperfs.serverd.counters import Counters
from clipperfs.serverd.exchange import Exchange
from clipperfs.serverd.http import HttpServer
from clipperfs.serverd.predict import PredictHandler
from clipperfs.serverd.routing import AppRoute, ModelRoute, RoutingTable, VersionRoute
from clipperfs.serverd.slow import SlowLog

from benchmarks.table import render_table, spread
from clipperfs import wire
from clipperfs.replica.batch import unpack_batch
from clipperfs.replica.encode import encode_outputs
from clipperfs.replica.text import NumberReader, can_read_text

STAGES = {
    "head": "compare the head, cut the body out",
    "query": "parse the body, or find that a replica may, route, look for the cache, queue the query",
    "batch": "choose a replica and a size, put the batch together",
    "replica": "cut the frame, make the array, of long bodies from their text, write the outputs (without the model)",
    "reply": "learn from the batch, answer each of its queries",
}
REPLICA = "80" + "0" * 30


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    queries: int = 20_000
    """A round, of which the quickest half counts: the machine disturbs, it never helps."""
    rounds: int = 15
    cells: tuple[tuple[str, int, int], ...] = (("noop", 10, 1), ("noop", 10, 8), ("noop", 10, 64), ("linear", 784, 32))
    """Model, numbers in an input, connections: that many queries make a batch."""


QUICK = Plan(queries=500, rounds=2)


class Client:
    """Stands in for a connection's transport."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, raw: bytes) -> None:
        """Keep the last reply."""
        self.written = raw


class Replicas:
    """Stands in for the wire to the replicas."""

    def __init__(self, _endpoint: str, hear: Callable[[bytes, list[bytes]], None], *_: Any) -> None:
        self.hear = hear
        self.sent: list[tuple[bytes, bytes, bytes]] = []

    def send(self, identity: bytes, header: bytes, body: bytes) -> bool:
        """Keep a batch, in the two pieces that a lane writes."""
        self.sent.append((identity, wire.pack_frame_head(header, len(body)), body))
        return True

    def settle(self) -> None:
        """Do nothing: there is no descriptor."""

    def close(self) -> None:
        """Do nothing."""


class PredictPath:
    """The frontend's objects with one version and so many connections."""

    def __init__(self, model: str, features: int, connections: int) -> None:
        counters, cache = Counters(), PredictionCache(0)
        with patch.object(outbox, "ReplicaTransport", Replicas):
            self.dispatcher = dispatch.Dispatcher(
                "",
                cache,
                counters,
                lambda _: None,
                lambda *_: None,
                lambda _: None,
                SlowLog(None, lambda _: None),
            )
        self.replicas: Replicas = self.dispatcher._outbox.transport  # type: ignore[assignment]
        handler = PredictHandler(self.dispatcher, cache, 1 << 46)
        route = VersionRoute("load", "0" * 64, "floats", (REPLICA,), input_size=features)
        table = RoutingTable(
            1,
            True,
            {model: AppRoute("floats", 500_000, "none", model)},
            {model: ModelRoute(active="1", cache=False, versions={"1": route})},
        )
        self.reader = NumberReader("floats") if can_read_text("floats") else None
        hello = wire.pack_header(wire.HELLO, wire.MAJOR, wire.MINOR, 1, int(self.reader is not None))
        self.replicas.hear(bytes.fromhex(REPLICA), [hello])
        self.frames = wire.FrameBuffer()
        handler.follow(table, self.dispatcher.apply(table), counters)
        [self.version] = self.dispatcher.versions.values()
        numbers = random.Random(7)
        body = json.dumps({"input": [round(numbers.random(), 4) for _ in range(features)]}).encode()
        head = b"POST /%b/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
        self.request = head % (model.encode(), len(body)) + body
        self.arrived: list[tuple[Exchange, wire.Body]] = []
        server = HttpServer(lambda *_: None)
        self.answer = handler.posts[b"/%b/predict" % model.encode()]
        server.posts = {b"/%b/predict" % model.encode(): lambda exchange, body: self.arrived.append((exchange, body))}
        self.connections = [server() for _ in range(connections)]
        self.clients = [Client() for _ in range(connections)]
        for connection, client in zip(self.connections, self.clients, strict=True):
            connection.connection_made(client)
            connection.data_received(self.request)  # its head is learned from the first request
            connection.first = None

    def turn(self, spent: dict[str, float]) -> None:
        """Take one request of each connection through; add the processor seconds of each stage."""
        clock = time.perf_counter
        self.version.batch_limit.limit = 512
        times = [clock()]
        for connection in self.connections:
            connection.data_received(self.request)
        times.append(clock())
        for exchange, body in self.arrived:
            self.answer(exchange, body)
        times.append(clock())
        self.dispatcher._flush()
        times.append(clock())
        [(identity, head, body)] = self.replicas.sent
        frames = self.replica(head + body)
        times.append(clock())
        self.replicas.hear(identity, frames)
        times.append(clock())
        self.arrived.clear()
        self.replicas.sent.clear()
        for stage, begin, end in zip(STAGES, times, times[1:], strict=False):
            spent[stage] += end - begin

    def replica(self, frame: bytes) -> list[bytes]:
        """Return what a replica whose model takes no time answers."""
        messages: list[tuple[bytes, memoryview]] = []
        while not messages:  # as the kernel hands it over
            room = self.frames.room()
            size = min(len(room), len(frame))
            room[:size] = frame[:size]
            frame = frame[size:]
            messages = list(self.frames.take(size))
        [(header, body)] = messages
        _, batch, code, count, lengths, *elements = wire.unpack_header(header)
        read_us: tuple[int, ...] = ()
        if elements:
            assert self.reader is not None
            inputs, unread = self.reader.read(count, lengths, elements[0], body)
            assert not unread
            read_us = (1,)
        else:
            inputs = unpack_batch(code, count, lengths, bytes(body))
        texts = encode_outputs(["0"] * len(inputs), count)
        return [wire.pack_header(wire.OUTPUT, batch, 1, [*map(len, texts)], *read_us), b"".join(texts)]

    def check(self) -> None:
        """See that everybody has got an answer."""
        assert all(client.written.endswith(b'"output":0,"default":false}') for client in self.clients)


def run_stages(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure all cells; return plain data. ``folder`` is not used."""
    return asyncio.run(_measure(plan))


async def _measure(plan: Plan) -> dict[str, Any]:
    rows = []
    for model, features, connections in plan.cells:
        path = PredictPath(model, features, connections)
        turns = max(1, plan.queries // connections // (1 + features // 100))
        gc.collect()
        gc.freeze()
        rounds: list[dict[str, float]] = []
        for _ in range(plan.rounds):
            spent = dict.fromkeys(STAGES, 0.0)
            for _ in range(turns):
                path.turn(spent)
            rounds.append({stage: seconds / turns / connections * 1e6 for stage, seconds in spent.items()})
        gc.unfreeze()
        path.check()
        path.dispatcher.close()
        rounds.sort(key=lambda one: sum(one.values()))
        kept = rounds[: (len(rounds) + 1) // 2]
        stages = {stage: spread([one[stage] for one in kept]).document() for stage in STAGES}
        rows.append({"model": model, "connections": connections, "stages_us": stages})
    return {"plan": {"rounds": plan.rounds, "queries": plan.queries}, "rows": rows}


def render_stages(result: dict[str, Any]) -> str:
    """Return the table that people read."""
    columns = ["stage, µs a query", *(f"{row['model']}, batch of {row['connections']}" for row in result["rows"])]
    rows: list[list[object]] = [
        [f"{stage}: {what}", *(f"{row['stages_us'][stage]['median']:.2f}" for row in result["rows"])]
        for stage, what in STAGES.items()
    ]
    sums = (sum(value["median"] for value in row["stages_us"].values()) for row in result["rows"])
    rows.append(["together", *(f"{total:.2f}" for total in sums)])
    return f"stages: medians of the quicker half of {result['plan']['rounds']} rounds\n\n{render_table(columns, rows)}"
