"""A replica with batches waiting in several lanes: it hears what comes over ZeroMQ, and is fair to its frontends."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from clipperfs import wire
from tests.integration.frontend_rig import wait_for
from tests.integration.replica_peers import Peers, peers_in_rooms

OUT = 32
"""Batches that are out at any time: with 1 ms for each there is always one to read."""

ENOUGH = 400
"""After so many batches the replica has learned to look at its lanes before anything else."""


@pytest.fixture
def peers() -> Iterator[Callable[[int], Peers]]:
    with peers_in_rooms() as make:
        yield make


def offer_lane(room: Peers, index: int) -> socket.socket:
    """Return a frontend's end of a lane that the replica has taken."""
    path = f"{room.folder}/lane{index}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(10)
        room.send(index, wire.pack_header(wire.LANE, path, "token"))
        return listener.accept()[0]


def batch_of_one(number: int) -> bytes:
    """Return the frame of a batch."""
    header = wire.pack_header(wire.PREDICT, number, 2, 1, 1)
    return wire.pack_frame_head(header, 8) + bytes(8)


class FullLane:
    """A frontend's end of a lane that sends a batch for each that comes back."""

    def __init__(self, room: Peers, index: int) -> None:
        self._socket = offer_lane(room, index)
        self.answered = self.sent = 0
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        cutter = wire.FrameCutter()
        for _ in range(OUT):
            self._send()
        while data := self._socket.recv(65536):
            for header, _ in cutter.feed(data):
                if wire.unpack_header(header)[0] == wire.OUTPUT:
                    self.answered += 1
                    if not self._is_ending:
                        self._send()

    def _send(self) -> None:
        self.sent += 1
        self._socket.sendall(batch_of_one(self.sent))

    def end(self) -> None:
        """Send no more."""
        self._is_ending = True

    def join(self) -> None:
        """Wait until the replica has closed its end."""
        self._thread.join(10)
        self._socket.close()


def test_replica_with_full_lanes_answers_its_other_peers(peers: Callable[[int], Peers]) -> None:
    room = peers(3)
    process = room.start(options={"delay_ms": 1, "output": "[7]"})
    room.until_ready()
    lanes = [FullLane(room, index) for index in (1, 2)]
    wait_for(lambda: min(lane.answered for lane in lanes) > ENOUGH)
    for number in range(5):
        room.send(0, wire.pack_header(wire.PING, number))
        assert room.receive() == ([wire.PONG, number], [])
    room.predict(0, 99)
    fields, frames = room.receive()
    assert (fields[:2], frames) == ([wire.OUTPUT, 99], [b"[7]"])
    before = [lane.answered for lane in lanes]
    room.send(0, wire.pack_header(wire.PING, 99))
    assert room.receive() == ([wire.PONG, 99], [])
    assert all(lane.answered > count for lane, count in zip(lanes, before, strict=True))
    for lane in lanes:
        lane.end()
    room.send(0, wire.pack_header(wire.STOP))
    assert process.wait(10) == 0
    for lane in lanes:
        lane.join()
        assert lane.answered == lane.sent


def test_batches_of_several_lanes_are_answered_in_turn(peers: Callable[[int], Peers]) -> None:
    room = peers(3)
    room.start(options={"delay_ms": 50, "output": "[7]"})
    room.until_ready()
    lanes = [offer_lane(room, index) for index in (1, 2)]
    cutters = [wire.FrameCutter() for _ in lanes]
    room.predict(0, 99)
    time.sleep(0.02)
    for lane in lanes:
        lane.sendall(b"".join(batch_of_one(number) for number in range(3)))
    order: list[int] = []
    while len(order) < 6:
        ready, _, _ = select.select(lanes, [], [], 10)
        assert ready, order
        for lane in ready:
            index = lanes.index(lane)
            said = [wire.unpack_header(header) for header, _ in cutters[index].feed(lane.recv(65536))]
            order += [index for fields in said if fields[0] == wire.OUTPUT]
    assert [order[place] != order[place + 1] for place in (0, 2, 4)] == [True] * 3, order
    for lane in lanes:
        lane.close()


def test_replica_that_is_told_to_end_answers_no_other_lane_first(peers: Callable[[int], Peers]) -> None:
    room = peers(3)
    process = room.start(options={"delay_ms": 300, "output": "[7]"})
    room.until_ready()
    lanes = [offer_lane(room, index) for index in (1, 2)]
    room.predict(0, 99)
    time.sleep(0.1)
    for lane in lanes:
        lane.sendall(b"".join(batch_of_one(number) for number in range(20)))
    assert room.receive()[0][:2] == [wire.OUTPUT, 99]
    time.sleep(0.1)  # the first batch of a lane is being predicted
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(3) is not None, "39 more would take twelve seconds"
    for lane in lanes:
        lane.close()
