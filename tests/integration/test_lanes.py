"""Lanes between real replicas and a real frontend: who gets one, what goes over it, and what happens without."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from clipperfs.serverd import control

from clipperfs import wire
from tests.integration.frontend_rig import Rig, predict, wait_for


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


def lanes(rig: Rig) -> int:
    """Return how many connections the frontend has taken at its lanes' socket."""
    path = control.lane_path(rig.endpoint)
    return sum(line.split()[-1] == path for line in Path("/proc/net/unix").read_text().splitlines()) - 1


def frame(header: bytes, body: bytes = b"") -> bytes:
    return wire.pack_frame_head(header, len(body)) + body


def stranger(rig: Rig) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(control.lane_path(rig.endpoint))
    return connection


def test_replica_takes_the_lane_and_answers_over_it(rig: Rig) -> None:
    rig.serve(rig.start_replica(output="[7]"))
    wait_for(lambda: lanes(rig) == 1)
    assert [predict(rig, {"input": [1]}).json["output"] for _ in range(20)] == [[7]] * 20


@pytest.mark.parametrize("size", [wire.LANE_BODY_BYTES - 10, wire.LANE_BODY_BYTES + 10, 3_000_000])
def test_outputs_and_inputs_of_any_size_arrive(rig: Rig, size: int) -> None:
    rig.serve(rig.start_replica(output="x" * size), slo_ms=10_000)
    wait_for(lambda: lanes(rig) == 1)
    reply = predict(rig, {"input": [0.0] * (size // 8)}).json
    assert reply["output"] == "x" * size


@pytest.mark.parametrize(
    "said",
    [
        frame(wire.pack_header(wire.LANE, "0" * 32)),
        frame(wire.pack_header(wire.OUTPUT, 1, 1, [1]), b"0"),
        frame(b"\xc1"),
        struct.pack("<II", 1 << 31, 1 << 31),
        frame(wire.pack_header(wire.LANE, 7)),
    ],
    ids=["a token nobody got", "no token", "no header", "a frame without end", "a number for a token"],
)
def test_stranger_is_shown_the_door(rig: Rig, said: bytes) -> None:
    rig.serve(rig.start_peer())
    with stranger(rig) as connection:
        connection.sendall(said)
        assert connection.recv(1) == b""
    assert predict(rig, {"input": [3]}).json["output"] == [3.0]


def test_replica_that_breaks_the_framing_is_reached_over_zeromq_again(rig: Rig) -> None:
    identity = rig.start_peer("lane", "unframed")
    rig.serve(identity, slo_ms=5000)
    wait_for(lambda: lanes(rig) == 0)
    assert predict(rig, {"input": [3]}).json["output"] == [3.0]


def test_restarted_frontend_has_lanes_again() -> None:
    with Rig() as first:
        identity = first.start_replica(output="[7]")
        first.serve(identity)
        wait_for(lambda: lanes(first) == 1)
        first.process.kill()
        first.process.wait(5)
        with Rig(runtime=first.runtime, index=first.index) as second:
            wait_for(lambda: lanes(second) == 1)
            second.serve(identity)
            assert predict(second, {"input": [1]}).json["output"] == [7]


def test_ended_replica_leaves_no_lane(rig: Rig) -> None:
    identity = rig.start_replica(output="[7]")
    rig.serve(identity)
    wait_for(lambda: lanes(rig) == 1)
    rig.replicas[0].kill_group()
    wait_for(lambda: lanes(rig) == 0)
    rig.serve(rig.start_replica(output="[8]"))
    assert predict(rig, {"input": [1]}).json["output"] == [8]


def test_batch_of_a_replica_that_dies_is_tried_on_another_before_the_controller_knows(rig: Rig) -> None:
    rig.ways = ("lane",)
    rig.serve(rig.start_peer("die"), rig.start_peer(), slo_ms=5000)
    wait_for(lambda: lanes(rig) == 2)
    reply = predict(rig, {"input": [4]}).json
    assert (reply["output"], reply["default"]) == ([4.0], False)
    assert rig.metrics()["versions"][0]["retries"] == 1
