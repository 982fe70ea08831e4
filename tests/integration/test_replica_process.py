"""The replica process seen from its peers: the protocol on the socket, its signals, and its end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from clipperfs import wire
from clipperfs.errors import LoadFailed
from clipperfs.replica.process import clean_environment, exit_reason, spawn
from clipperfs.replica.session import ReplicaSession
from clipperfs.replica.spec import ReplicaSpec, new_identity
from clipperfs.replica.text import can_read_text
from clipperfs.wrapper import LoadContext
from tests.integration.replica_peers import Peers, peers_in_rooms


@pytest.fixture
def peers() -> Iterator[Callable[[int], Peers]]:
    with peers_in_rooms() as make:
        yield make


def test_start_is_told_to_every_peer_and_the_state_to_the_first(peers: Callable[[int], Peers]) -> None:
    room = peers(2)
    process = room.start()
    hello = [wire.HELLO, wire.MAJOR, wire.MINOR, process.pid, int(can_read_text("doubles"))]
    assert room.receive(0) == (hello, [])
    assert room.receive(1) == (hello, [])
    assert room.receive(0) == ([wire.STATE, wire.LOADING, ""], [])
    assert room.receive(0) == ([wire.STATE, wire.READY, ""], [])
    assert not room.sockets[1].poll(50)


def test_failed_load_is_told_and_the_process_exits(peers: Callable[[int], Peers]) -> None:
    room = peers(1)
    process = room.start(options={"speed": 9})
    room.receive()
    room.receive()
    fields, _ = room.receive()
    assert fields[:2] == [wire.STATE, wire.FAILED]
    assert fields[2] == "the wrapper noop has no option 'speed'\nits options: delay_ms, load_s, output, per_input_ms"
    assert process.wait(5) == 1


def test_each_peer_gets_the_answer_to_its_own_batch(peers: Callable[[int], Peers]) -> None:
    room = peers(3)
    room.start(options={"output": "[7]"})
    room.until_ready()
    for index in (1, 2):
        room.receive(index)
        for batch in range(5):
            room.predict(index, 10 * index + batch, values=2)
    for index in (1, 2):
        for batch in range(5):
            fields, frames = room.receive(index)
            assert (fields[0], fields[1], fields[3]) == (wire.OUTPUT, 10 * index + batch, [3, 3])
            assert frames == [b"[7][7]"]
            assert isinstance(fields[2], int)


def test_large_batch_of_odd_alignment_arrives_unchanged(peers: Callable[[int], Peers]) -> None:
    room = peers(1)
    (room.folder / "wrapper.py").write_text(
        "import numpy\n"
        "class Wrapper:\n"
        "    def predict(self, inputs):\n"
        "        assert not inputs.flags.writeable and inputs.flags.aligned and inputs.flags.c_contiguous\n"
        "        return [[int(x.sum()), str(x.dtype)] for x in inputs]\n"
    )
    room.start("python", allow_code=True)
    room.until_ready()
    import numpy as np

    for batch, width in enumerate((1, 3, 511, 1000, 5000, 100_000)):
        rows = np.arange(3 * width, dtype="<f8").reshape(3, width)
        room.send(0, wire.pack_header(wire.PREDICT, batch, 2, 3, width), rows.tobytes())
        fields, frames = room.receive()
        assert fields[0] == wire.OUTPUT, fields
        assert frames[0].decode() == "".join(f'[{int(row.sum())},"float64"]' for row in rows)


def test_ping_is_answered(peers: Callable[[int], Peers]) -> None:
    room = peers(1)
    room.start()
    room.until_ready()
    room.send(0, wire.pack_header(wire.PING, 42))
    assert room.receive() == ([wire.PONG, 42], [])


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"garbage \xff\xc1"],
        [b"", b"", b""],
        [wire.pack_header(99, 1, 2)],
        [wire.pack_header(wire.PREDICT)],
        [wire.pack_header(wire.PREDICT, 1, 2, 1, 1)],
        [wire.pack_header(wire.PREDICT, 1), b"x"],
        [wire.pack_header(wire.PREDICT, 1, 2, "many", None), b"x"],
        [wire.pack_header(wire.PING)],
        [wire.pack_header(wire.PING, 1, 2), b"more", b"frames"],
        [b"\x90"],
    ],
)
def test_message_that_breaks_the_protocol_is_dropped(peers: Callable[[int], Peers], frames: list[bytes]) -> None:
    room = peers(1)
    room.start()
    room.until_ready()
    room.send(0, *frames)
    room.predict(0, 77)
    while True:
        fields, _ = room.receive()
        if fields[:2] == [wire.OUTPUT, 77]:
            break
        assert fields[0] in (wire.FAULT, wire.PONG)


@pytest.mark.parametrize(
    "fields",
    [(5, 2, 3, 1), (5, 9, 1, 1), (5, 2, 0, 1), (5, 2, -1, -1), (5, 2, 1, [1, 1]), (5, 2, 1, [-1]), (5, 2, 1, True)],
)
def test_batch_whose_numbers_contradict_is_a_fault(peers: Callable[[int], Peers], fields: tuple[Any, ...]) -> None:
    room = peers(1)
    room.start()
    room.until_ready()
    room.send(0, wire.pack_header(wire.PREDICT, *fields), b"\0" * 8)
    answer, _ = room.receive()
    assert answer[:2] == [wire.FAULT, 5]
    room.predict(0, 6)
    assert room.receive()[0][:2] == [wire.OUTPUT, 6]


def test_stop_finishes_what_has_arrived_at_every_peer(peers: Callable[[int], Peers]) -> None:
    room = peers(2)
    process = room.start(options={"delay_ms": 50})
    room.until_ready()
    room.receive(1)
    for batch in range(4):
        room.predict(1, batch)
    room.predict(0, 100)
    room.send(0, wire.pack_header(wire.STOP))
    assert room.receive(0)[0][:2] == [wire.OUTPUT, 100]
    assert [room.receive(1)[0][1] for _ in range(4)] == [0, 1, 2, 3]
    assert process.wait(5) == 0


def test_terminate_finishes_the_current_batch(peers: Callable[[int], Peers]) -> None:
    room = peers(1)
    (room.folder / "wrapper.py").write_text(
        "import pathlib, time\n"
        "class Wrapper:\n"
        "    def predict(self, inputs):\n"
        "        pathlib.Path('begun').touch(); time.sleep(0.4); return [1] * len(inputs)\n"
    )
    process = room.start("python", allow_code=True)
    room.until_ready()
    room.predict(0, 1)
    wait_until(lambda: (room.folder / "begun").exists())
    process.terminate()
    assert room.receive()[0][:2] == [wire.OUTPUT, 1]
    assert process.wait(5) == 0


@pytest.mark.parametrize("count", [1, 2])
def test_terminate_ends_an_idle_replica_at_once(peers: Callable[[int], Peers], count: int) -> None:
    room = peers(count)
    process = room.start()
    room.until_ready()
    began = time.monotonic()
    assert process.terminate_group(5) == 0
    assert time.monotonic() - began < 2


def test_terminate_ends_a_replica_that_loads(peers: Callable[[int], Peers]) -> None:
    room = peers(1)
    process = room.start(options={"load_s": 60})
    while room.receive()[0][:2] != [wire.STATE, wire.LOADING]:
        pass
    assert process.terminate_group(5) == 0


def test_terminate_that_is_ignored_ends_in_a_kill(peers: Callable[[int], Peers]) -> None:
    room = peers(1)
    (room.folder / "wrapper.py").write_text(
        "import pathlib, time\n"
        "class Wrapper:\n"
        "    def predict(self, inputs):\n"
        "        pathlib.Path('begun').touch(); time.sleep(600)\n"
    )
    process = room.start("python", allow_code=True)
    room.until_ready()
    room.predict(0, 1)
    wait_until(lambda: (room.folder / "begun").exists())
    assert process.terminate_group(0.3) == -signal.SIGKILL


def test_interrupt_is_ignored(peers: Callable[[int], Peers]) -> None:
    room = peers(1)
    process = room.start()
    room.until_ready()
    os.kill(process.pid, signal.SIGINT)
    room.predict(0, 1)
    assert room.receive()[0][:2] == [wire.OUTPUT, 1]


def test_peer_that_was_restarted_is_greeted_and_served_again(peers: Callable[[int], Peers]) -> None:
    room = peers(2)
    process = room.start()
    room.until_ready()
    room.receive(1)
    for _ in range(2):
        room.sockets[1].close(0)
        room.sockets[1] = room.context.socket(zmq.ROUTER)
        room.sockets[1].setsockopt(zmq.LINGER, 0)
        room.sockets[1].bind(room.endpoints[1])
        hello = [wire.HELLO, wire.MAJOR, wire.MINOR, process.pid, int(can_read_text("doubles"))]
        assert room.receive(1) == (hello, [])
        room.predict(1, 9)
        assert room.receive(1)[0][:2] == [wire.OUTPUT, 9]


def test_greeting_says_how_many_frontends_share_the_replica(peers: Callable[[int], Peers]) -> None:
    pytest.importorskip("simdjson")
    room = peers(4)
    room.start()
    assert room.receive()[0][4:] == [3]


def test_texts_are_read_and_predicted_and_the_others_come_back(peers: Callable[[int], Peers]) -> None:
    pytest.importorskip("simdjson")
    room = peers(1)
    room.start(options={"output": "[7]"})
    room.until_ready()
    texts = [b'{"input":[1, 2]}', b'{"input":[1]}', b'{"input":[1,]}', b'{ "input" : [3,4] } ']
    for elements, expected in ((2, [3, 0, 0, 3]), (0, [3, 3, 0, 3]), (3, [0, 0, 0, 0])):
        room.send(0, wire.pack_header(wire.PREDICT, 1, 6, 4, [*map(len, texts)], elements), b"".join(texts))
        fields, frames = room.receive()
        assert fields[:2] == [wire.OUTPUT, 1]
        assert fields[3] == expected
        assert 0 <= fields[4] <= fields[2]
        assert frames == [b"[7]" * sum(length > 0 for length in expected)]


@pytest.mark.parametrize("fields", [(4, [1], 0), (1, 3, 0), (1, 2, -1), (1, 2, "x"), (1, 2, None)])
def test_texts_whose_numbers_contradict_are_a_fault(peers: Callable[[int], Peers], fields: tuple[Any, ...]) -> None:
    room = peers(1)
    room.start()
    room.until_ready()
    room.send(0, wire.pack_header(wire.PREDICT, 5, 6, *fields), b"{}")
    assert room.receive()[0][:2] == [wire.FAULT, 5]
    room.predict(0, 6)
    assert room.receive()[0][:2] == [wire.OUTPUT, 6]


def test_process_has_a_group_of_its_own_and_becomes_readable_at_its_end(peers: Callable[[int], Peers]) -> None:
    room = peers(1)
    process = room.start()
    assert os.getpgid(process.pid) == os.getsid(process.pid) == process.pid
    assert select.select([process.pidfd()], [], [], 0)[0] == []
    process.kill_group()
    assert select.select([process.pidfd()], [], [], 5)[0] == [process.pidfd()]
    assert process.poll() == -signal.SIGKILL
    assert not Path(f"/proc/{process.pid}").exists(), "a zombie stayed"
    process.kill_group()  # nothing to do any more: another process may have the number
    process.terminate()
    process.dump_stacks()


def test_replica_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from clipperfs.replica.process import spawn\n"
        "from clipperfs.replica.spec import ReplicaSpec, new_identity\n"
        f"spec = ReplicaSpec(new_identity(), ('ipc:///tmp/cfs-nobody',), {str(tmp_path)!r}, 'm', '1', 'noop', 'ints')\n"
        f"process = spawn(spec, log_path=__import__('pathlib').Path({str(tmp_path / 'log')!r}))\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        pid = int(parent.stdout.readline())
        watch = os.pidfd_open(pid)
        try:
            parent.kill()
            assert select.select([watch], [], [], 5)[0], "the replica outlived its parent"
        finally:
            os.close(watch)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_replica_whose_parent_died_before_it_began_leaves_at_once(tmp_path: Path) -> None:
    spec = ReplicaSpec(new_identity(), ("ipc:///tmp/cfs-nobody",), str(tmp_path), "m", "1", "noop", "ints")
    run = subprocess.run(
        [sys.executable, "-P", "-m", "clipperfs.replica.host", "999999999"], input=spec.to_bytes(), timeout=20
    )
    assert run.returncode == 1


def test_spawn_in_a_folder_that_is_not_there_is_a_failed_load(tmp_path: Path) -> None:
    spec = ReplicaSpec(new_identity(), ("ipc:///tmp/x",), str(tmp_path / "absent"), "m", "1", "noop", "ints")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LoadFailed, match="cannot be started"):
        spawn(spec, log_path=tmp_path / "log")
    assert len(os.listdir("/proc/self/fd")) == before


def test_sessions_leave_no_descriptor_and_no_process(tmp_path: Path) -> None:
    context = LoadContext(tmp_path, "m", "1", "doubles", False, {})
    with ReplicaSession(context, "noop"):
        pass
    before, children = len(os.listdir("/proc/self/fd")), child_pids()
    for _ in range(5):
        with ReplicaSession(context, "noop") as session:
            session.predict([[1.0]])
    assert len(os.listdir("/proc/self/fd")) == before
    assert child_pids() <= children


def child_pids() -> set[str]:
    """Return the processes that this one has started and not yet reaped, dead ones too."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_session_splits_more_inputs_than_a_batch_may_hold(tmp_path: Path) -> None:
    (tmp_path / "wrapper.py").write_text(
        "class Wrapper:\n    def predict(self, inputs):\n        return [len(inputs)] * len(inputs)\n"
    )
    context = LoadContext(tmp_path, "m", "1", "ints", True, {})
    with ReplicaSession(context, "python", max_batch=4) as session:
        assert session.predict([[1]] * 10) == [4] * 8 + [2] * 2
        outputs, spent_ms = session.predict_timed([[1]])
        assert outputs == [1] and spent_ms >= 0


def test_session_that_was_not_started_says_so(tmp_path: Path) -> None:
    session = ReplicaSession(LoadContext(tmp_path, "m", "1", "ints", False, {}), "noop")
    with pytest.raises(Exception, match="has not been started"):
        session.predict([[1]])
    session.close()


def test_spec_survives_the_way_to_the_child() -> None:
    spec = ReplicaSpec(
        new_identity(), ("ipc://a", "ipc://b"), "/p", "m", "1", "noop", "ints", {"a": [1, {"b": "ü"}]}, True, 4
    )
    assert ReplicaSpec.from_bytes(spec.to_bytes()) == spec


def test_identities_differ_and_never_begin_with_zero() -> None:
    identities = {new_identity() for _ in range(2000)}
    assert len(identities) == 2000
    assert all(len(bytes.fromhex(identity)) == 16 and bytes.fromhex(identity)[0] != 0 for identity in identities)


def test_environment_keeps_what_a_program_needs_and_nothing_else() -> None:
    given = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "SSL_CERT_FILE": "/c",
        "AWS_PROFILE": "x",
        "PYTHONHOME": "/y",
        "MKL_NUM_THREADS": "64",
    }
    kept = clean_environment(given, 3)
    assert kept == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "SSL_CERT_FILE": "/c",
        "OMP_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
    }


def test_exit_codes_are_worded() -> None:
    assert exit_reason(0) == "exited with code 0"
    assert exit_reason(-11) == "was killed by SIGSEGV"
    assert exit_reason(-250) == "was killed by signal 250"


def wait_until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
