"""The pages about wrappers and their protocol: the programs on them run and say what is promised."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import zmq

from clipperfs import wire
from clipperfs.plugins import plugin_names
from clipperfs.replica.batch import MAX_INPUTS
from clipperfs.replica.spec import ReplicaSpec, new_identity

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def test_replica_on_the_page_speaks_the_protocol(tmp_path: Path) -> None:
    [source] = blocks("wire.md")
    (tmp_path / "replica.py").write_text(source)
    endpoint = f"ipc://{os.environ['XDG_RUNTIME_DIR']}/page-{os.getpid()}"
    spec = ReplicaSpec(new_identity(), (endpoint,), str(tmp_path), "m", "1", "own", "doubles")
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.bind(endpoint)
    command = [sys.executable, str(tmp_path / "replica.py"), str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=tmp_path) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(spec.to_bytes())
            process.stdin.close()

            def receive() -> list[object]:
                assert socket.poll(20_000)
                identity, *frames = socket.recv_multipart()
                assert identity == spec.identity_bytes
                return [wire.unpack_header(frames[0]) if frames[0] else [], *frames[1:]]

            def send(*frames: bytes) -> None:
                socket.send_multipart([spec.identity_bytes, *frames])

            assert receive() == [[]]
            assert receive() == [[wire.HELLO, wire.MAJOR, 0, process.pid]]  # it knows no lanes
            assert [receive(), receive()] == [[[wire.STATE, wire.LOADING, ""]], [[wire.STATE, wire.READY, ""]]]
            send(wire.pack_header(wire.PREDICT, 90, 2, 2, 3), np.array([0, 0.5, 1, 0.5, 1, 1]).tobytes())
            assert receive() == [[wire.OUTPUT, 90, 0, [3, 3]], b"1.52.5"]
            send(wire.pack_header(wire.PREDICT, 91, 2, 2, [0, 1]), np.array([4.5]).tobytes())
            assert receive() == [[wire.OUTPUT, 91, 0, [1, 3]], b"04.5"]
            send(wire.pack_header(wire.PREDICT, 92, 0, 1, 1), b"\0" * 4)
            assert receive() == [[wire.FAULT, 92, "this model takes doubles"]]
            send(wire.pack_header(wire.PING, 5))
            assert receive() == [[wire.PONG, 5]]
            send(wire.pack_header(wire.STOP))
            assert process.wait(10) == 0
        finally:
            process.kill()
            context.destroy(0)


def test_page_states_the_numbers_of_the_code() -> None:
    page = (DOCS / "wire.md").read_text()
    for name in ("HELLO", "STATE", "PREDICT", "OUTPUT", "FAULT", "STOP", "PING", "PONG", "LANE"):
        assert f"| {getattr(wire, name)} | {name} |" in page
    for code, input_type in enumerate(wire.INPUT_TYPES):
        assert re.search(rf"\b{code}\s+{input_type}", page)
    assert "version 1.2" in page and (wire.MAJOR, wire.MINOR) == (1, 2)
    assert f"{wire.LANE_BODY_BYTES:,} bytes" in page and wire.MAX_LANE_FRAME_BYTES == 64 * 2**20 and "64 MiB" in page
    assert "2³⁰" in page and wire.MAX_BODY_BYTES == 2**30
    assert "2²⁰" in page and MAX_INPUTS == 2**20
    assert f"{wire.MAX_REASON_CHARS} characters" in page
    for field in ReplicaSpec.__dataclass_fields__:
        assert f"`{field}`" in page


def test_page_lists_every_wrapper_that_is_installed() -> None:
    page = (DOCS / "wrappers.md").read_text()
    for kind in plugin_names("clipperfs.wrappers"):
        assert f"| `{kind}` |" in page


def test_wrapper_closure_and_session_on_the_page_run(tmp_path: Path) -> None:
    saved, wrapper, _suite, session = blocks("wrappers.md")
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "wrapper.py").write_text(wrapper)
    for source, printed in (
        (session, "[3.5, 7.5]"),
        (saved, ""),
        (session.replace('"python"', '"closure"'), "[3.0, 7.0]"),
    ):
        source = source.replace(', options={"bias": 0.5}', "") if printed == "[3.0, 7.0]" else source
        run = subprocess.run(
            [sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert (run.returncode, run.stdout.strip()) == (0, printed), run.stderr
    assert (tmp_path / "my-model" / "closure.pkl").exists()
