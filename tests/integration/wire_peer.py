"""A replica by hand, well-behaved or not: answers each input with the list of its elements (doubles).

Run as ``wire_peer.py ENDPOINT IDENTITY [BEHAVIOUR…]``; says ``connected`` on stdout when the other side knows it.

    slow:MS        waits before each batch          silent        never answers
    fault          every batch fails                fault-on:X    a batch with an input that begins with X fails
    die            ends on the first batch          die-on:X      ends on an input that begins with X
    garbage        sends frames that mean nothing before each answer
    twice          answers twice, and for batches that never were
    short          one length too few               lying         lengths that do not add up
    empty          no bytes for the first output    name:TEXT     answers with TEXT
    guess          answers the batch before its own, too
    once           answers the first batch, then falls silent
    lane           takes the lane that it is offered; answers go back the way that the batch came
    unframed       breaks the lane's framing at once
    text           says that it can read texts; those whose list has a 13 it says that it could not read
    log:PATH       writes the size of each batch, its inputs' first elements, and "text" if they were, to a file
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from typing import Any

import msgpack
import zmq

HELLO, PREDICT, OUTPUT, FAULT, STOP, LANE = 1, 3, 4, 5, 6, 9
DOUBLES, DOUBLES_AS_TEXT = 2, 6


class LaneEnd:
    """A lane by hand, after docs/wire.md: as much of a ZeroMQ socket as is needed here."""

    def __init__(self, path: str, token: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.send(msgpack.packb([LANE, token]))

    def send(self, header: bytes) -> None:
        self.send_multipart([header])

    def send_multipart(self, frames: list[bytes]) -> None:
        header, body = frames[0], b"".join(frames[1:])
        self.socket.sendall(struct.pack("<II", len(header), len(body)) + header + bytes(-len(header) % 8) + body)

    def recv_multipart(self) -> list[bytes]:
        header_bytes, body_bytes = struct.unpack("<II", self._read(8))
        header = self._read(header_bytes + -header_bytes % 8)[:header_bytes]
        return [header, self._read(body_bytes)]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                os._exit(0)  # the frontend has gone
            data += piece
        return data


def main() -> None:
    """Answer until told to stop."""
    endpoint, identity, *rest = sys.argv[1:]
    behaviour = {name: value for name, _, value in (word.partition(":") for word in rest)}
    peer = zmq.Context().socket(zmq.DEALER)
    peer.setsockopt(zmq.ROUTING_ID, bytes.fromhex(identity))
    peer.setsockopt(zmq.PROBE_ROUTER, 1)
    peer.setsockopt(zmq.LINGER, 0)
    monitor = peer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    peer.connect(endpoint)
    minor = 2 if "text" in behaviour else "lane" in behaviour
    peer.send(msgpack.packb([HELLO, 1, minor, os.getpid(), *([1] if "text" in behaviour else [])]))
    monitor.recv_multipart()
    peer.disable_monitor()
    poller = zmq.Poller()
    poller.register(peer, zmq.POLLIN)
    ways: dict[Any, Any] = {peer: peer}
    if "lane" in behaviour:
        fields = msgpack.unpackb(peer.recv())
        assert fields[0] == LANE
        end = LaneEnd(*fields[1:])
        if "unframed" in behaviour:
            end.socket.sendall(b"\xff" * 64)
        else:
            ways[end.socket.fileno()] = end
            poller.register(end.socket.fileno(), zmq.POLLIN)
    print("connected", flush=True)
    answered = 0
    while True:
        for source, _ in poller.poll():
            way = ways[source]
            frames = way.recv_multipart()
            fields = msgpack.unpackb(frames[0]) if frames[0] else [0]
            if fields[0] == STOP:
                peer.close(0)
                return
            if fields[0] == PREDICT:
                answer(way, behaviour, fields, frames[1], answered)
                answered += 1


def answer(peer: Any, behaviour: dict[str, str], fields: list[Any], body: bytes, seen: int) -> None:
    """Answer one batch as told."""
    _, batch, code, count, lengths = fields[:5]
    sizes = lengths if isinstance(lengths, list) else [lengths] * count
    width = 1 if code == DOUBLES_AS_TEXT else 8
    assert code in (DOUBLES, DOUBLES_AS_TEXT) and ("text" in behaviour or code == DOUBLES)
    assert sum(sizes) * width == len(body), "a PREDICT whose lengths do not add up"
    inputs: list[Any] = []
    start = 0
    for size in sizes:
        if code == DOUBLES:
            inputs.append(struct.unpack_from(f"<{size}d", body, start))
        else:
            inputs.append([float(value) for value in json.loads(body[start : start + size])["input"]])
        start += size * width
    firsts = [values[0] for values in inputs]
    if "log" in behaviour:
        with open(behaviour["log"], "a") as log:
            log.write(json.dumps([count, firsts, *(["text"] if code == DOUBLES_AS_TEXT else [])]) + "\n")
    if "die" in behaviour or float(behaviour.get("die-on", "nan")) in firsts:
        os._exit(9)
    if "silent" in behaviour or ("once" in behaviour and seen):
        return
    if "guess" in behaviour:
        peer.send_multipart([msgpack.packb([OUTPUT, batch - 1, 1, [1]]), b"0"])
    time.sleep(float(behaviour.get("slow", 0)) / 1000)
    if "fault" in behaviour or float(behaviour.get("fault-on", "nan")) in firsts:
        peer.send(msgpack.packb([FAULT, batch, "ValueError: no"]))
        return
    texts = [json.dumps(behaviour.get("name", values)).encode() for values in inputs]
    if code == DOUBLES_AS_TEXT:
        texts = [b"" if 13.0 in values else text for values, text in zip(inputs, texts, strict=True)]
    if "empty" in behaviour:
        texts[0] = b""
    if "garbage" in behaviour:
        for frame in (b"\xc1", b"\x00", msgpack.packb([]), msgpack.packb({"a": 1}), msgpack.packb([99]), b"x" * 1000):
            peer.send(frame)
        peer.send(msgpack.packb([OUTPUT]))
        peer.send(msgpack.packb([OUTPUT, "a", 1, [1]]))
        peer.send_multipart([msgpack.packb([OUTPUT, [], None, None]), b"x", b"y", b"z"])
    out = [len(text) for text in texts]
    if "short" in behaviour:
        out = out[:-1]
    if "lying" in behaviour:
        out[0] += 1
    read_us = [3] if code == DOUBLES_AS_TEXT else []
    reply = [msgpack.packb([OUTPUT, batch, 7, out, *read_us]), b"".join(texts)]
    peer.send_multipart(reply)
    if "twice" in behaviour:
        peer.send_multipart(reply)
        peer.send_multipart([msgpack.packb([OUTPUT, 1 << 40, 7, out]), b"".join(texts)])


main()
