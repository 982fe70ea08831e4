"""A replica whose lanes never run dry: it must still hear what comes over ZeroMQ."""

from __future__ import annotations

import socket
import threading
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


class FullLane:
    """A frontend's end of a lane that sends a batch for each that comes back."""

    def __init__(self, room: Peers, index: int) -> None:
        path = f"{room.folder}/lane{index}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            listener.settimeout(10)
            room.send(index, wire.pack_header(wire.LANE, path, "token"))
            self._socket, _ = listener.accept()
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
        header = wire.pack_header(wire.PREDICT, self.sent, 2, 1, 1)
        self._socket.sendall(wire.pack_frame_head(header, 8) + bytes(8))

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
