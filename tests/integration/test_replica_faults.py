"""A replica whose wrapper misbehaves: each fault is named, contained and survived where it can be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clipperfs.errors import LoadFailed, PredictFailed, ReplicaLost, TimedOut
from clipperfs.replica.session import ReplicaSession
from clipperfs.wrapper import LoadContext

Open = Callable[..., ReplicaSession]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Open]:
    """Return a function that starts a session on a wrapper.py with the given ``load`` and ``predict`` bodies."""
    sessions: list[ReplicaSession] = []

    def start(predict: str = "return [0] * len(inputs)", load: str = "pass", **limits: Any) -> ReplicaSession:
        (tmp_path / "wrapper.py").write_text(
            "import ctypes, os, sys, time\n"
            "class Wrapper:\n"
            f"    def load(self, context):\n        {load}\n"
            f"    def predict(self, inputs):\n        {predict}\n"
        )
        context = LoadContext(tmp_path, "m", "1", "doubles", True, {})
        session = ReplicaSession(context, "python", **{"load_timeout_s": 20, "predict_timeout_s": 20, **limits})
        sessions.append(session)
        session.start()
        return session

    yield start
    for session in sessions:
        session.close()
        assert session.process is None


def test_predict_raises_the_reason_names_it_and_the_process_lives(started: Open) -> None:
    session = started("if inputs[0][0] < 0: raise ValueError('no negatives')\n        return [1] * len(inputs)")
    with pytest.raises(PredictFailed, match=r"ValueError: no negatives \[wrapper.py:6 in predict: if inputs"):
        session.predict([[-1.0]])
    assert "Traceback" in session.log_tail()
    assert session.predict([[1.0]]) == [1]


def test_same_fault_again_and_again_is_traced_once(started: Open) -> None:
    session = started("raise ValueError('again')")
    for _ in range(20):
        with pytest.raises(PredictFailed):
            session.predict([[1.0]])
    assert session.log_tail().count("Traceback") == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return [1]", "predict returned 1 outputs for 2 inputs"),
        ("return [1, 2, 3]", "predict returned 3 outputs for 2 inputs"),
        ("return inputs.sum()", "predict returned a single value"),
        ("return None", "predict returned NoneType; expected a list of 2 outputs"),
        ("return 'ab'", "predict returned str; expected a list of 2 outputs"),
        ("return {0: 1, 1: 2}", "predict returned dict; expected a list of 2 outputs"),
        ("return (x for x in inputs)", "predict returned generator"),
        ("return [object(), 1]", "an output of type object, which has no JSON form"),
        ("return [{1.5: 1}, 1]", "a key of type float"),
        ("return [b'\\xff', 1]", "cannot be written as JSON"),
        ("return ['\\ud800', 1]", "cannot be written as JSON"),
        ("inputs[0] = 1", "read-only"),
        ("sys.exit(3)", "SystemExit: 3"),
        ("raise MemoryError", "MemoryError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_wrong_answer_is_a_fault_of_the_batch_only(started: Open, body: str, reason: str) -> None:
    session = started(f"if len(inputs) == 1: return [0]\n        {body}")
    with pytest.raises(PredictFailed) as caught:
        session.predict([[1.0], [2.0]])
    assert reason in caught.value.message
    assert session.predict([[1.0]]) == [0]


def test_outputs_that_are_not_finite_arrive_as_their_names(started: Open) -> None:
    session = started("import numpy; return numpy.array([numpy.nan, -numpy.inf, 1.5])")
    assert session.predict([[1.0]] * 3) == ["NaN", "-Infinity", 1.5]


def test_hanging_batch_times_out_with_its_stacks_and_ends_the_session(started: Open) -> None:
    session = started("if len(inputs) > 1: time.sleep(600)\n        return [0]", predict_timeout_s=0.5)
    assert session.predict([[1.0]]) == [0]
    process = session.process
    assert process is not None
    with pytest.raises(TimedOut, match=r"did not answer a batch within 0\.5 s") as caught:
        session.predict([[1.0], [2.0]])
    assert "in predict" in caught.value.fields["log"]
    assert process.poll() is not None
    with pytest.raises(ReplicaLost, match="was stopped"):
        session.predict([[1.0]])


def test_wrapper_that_never_lets_go_of_the_interpreter_is_killed(started: Open) -> None:
    body = "ctypes.PyDLL(None).sleep(600)"  # PyDLL keeps the lock: no Python signal handler can run
    session = started(body, predict_timeout_s=0.5)
    with pytest.raises(TimedOut):
        session.predict([[1.0]])


@pytest.mark.parametrize(
    ("body", "how"),
    [
        ("os._exit(7)", "exited with code 7"),
        ("ctypes.string_at(0)", "was killed by SIGSEGV"),
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("os.abort()", "was killed by SIGABRT"),
    ],
)
def test_process_that_dies_in_a_batch_is_lost_with_the_cause(started: Open, body: str, how: str) -> None:
    session = started(body)
    with pytest.raises(ReplicaLost, match=how):
        session.predict([[1.0]])
    with pytest.raises(ReplicaLost, match=how):
        session.predict([[1.0]])


def test_segmentation_fault_leaves_the_python_stack_in_the_log(started: Open) -> None:
    session = started("ctypes.string_at(0)")
    with pytest.raises(ReplicaLost) as caught:
        session.predict([[1.0]])
    assert 'wrapper.py", line 6 in predict' in caught.value.fields["log"]


def test_flood_of_prints_does_not_stall(started: Open) -> None:
    session = started("print('x' * 5_000_000); sys.stderr.write('y' * 5_000_000); return [0] * len(inputs)")
    for _ in range(3):
        assert session.predict([[1.0]]) == [0]


def test_print_and_stdin_stay_off_the_conversation(started: Open) -> None:
    session = started("print('hello from the wrapper'); return [sys.stdin.read()] * len(inputs)")
    assert session.predict([[1.0]]) == [""]
    assert "hello from the wrapper" in session.log_tail()


def test_log_grows_past_its_limit_is_trimmed_and_goes_on(started: Open) -> None:
    session = started("print('z' * 999); return [0] * len(inputs)")
    process = session.process
    assert process is not None and process.log_path is not None
    for _ in range(10):
        session.predict([[1.0]])
    assert process.trim_log(limit_bytes=5000)
    assert process.log_path.stat().st_size == 0
    session.predict([[1.0]])
    assert process.log_tail() == "z" * 999
    assert not process.trim_log(limit_bytes=5000)


@pytest.mark.parametrize(
    ("body", "reason", "hint"),
    [
        (
            "import nonexistent_module_x",
            "No module named 'nonexistent_module_x'",
            "install nonexistent_module_x beside",
        ),
        ("raise RuntimeError('bad weights')", "RuntimeError: bad weights [wrapper.py:4 in load", None),
        ("open('weights.bin')", "FileNotFoundError", None),
        ("sys.exit('giving up')", "SystemExit: giving up", None),
        ("os._exit(9)", "exited with code 9 while it was loading", None),
        ("ctypes.string_at(0)", "was killed by SIGSEGV while it was loading", "the last line of its log"),
    ],
)
def test_load_that_fails_says_why(started: Open, body: str, reason: str, hint: str | None) -> None:
    with pytest.raises(LoadFailed) as caught:
        started(load=body)
    assert reason in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


def test_load_that_hangs_times_out(started: Open) -> None:
    began = time.monotonic()
    with pytest.raises(TimedOut, match=r"the wrapper of m/1 did not load within 0.7 s") as caught:
        started(load="time.sleep(600)", load_timeout_s=0.7)
    assert time.monotonic() - began < 5
    assert "in load" in caught.value.fields["log"]


def test_syntax_error_in_the_version_is_named(started: Open) -> None:
    with pytest.raises(LoadFailed, match="SyntaxError"):
        started("return [")


def test_unknown_wrapper_is_named_with_those_installed(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="no wrapper is called 'nothing'") as caught:
        ReplicaSession(LoadContext(tmp_path, "m", "1", "ints", False, {}), "nothing").start()
    assert "noop" in (caught.value.hint or "")


@pytest.mark.parametrize("end", ["close", "death"])
def test_process_that_the_wrapper_left_behind_dies_with_the_group(started: Open, end: str) -> None:
    """A double fork: the grandchild's parent is gone, but it is still in the replica's process group."""
    session = started(
        "if len(inputs) == 2: os._exit(0)\n"
        "        r, w = os.pipe()\n"
        "        child = os.fork()\n"
        "        if child == 0:\n"
        "            if os.fork() == 0:\n"
        "                os.write(w, str(os.getpid()).encode()); time.sleep(600)\n"
        "            os._exit(0)\n"
        "        os.waitpid(child, 0)\n"
        "        return [int(os.read(r, 20))]"
    )
    [grandchild] = session.predict([[1.0]])
    descriptor = os.pidfd_open(grandchild)
    try:
        assert is_alive(grandchild)
        if end == "close":
            session.close()
        else:
            with pytest.raises(ReplicaLost):
                session.predict([[1.0], [2.0]])
        wait_until(lambda: not is_alive(grandchild))
    finally:
        os.close(descriptor)


def test_environment_of_the_daemon_is_not_visible(started: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "CLIPPERFS_REGISTRY",
        "MY_TOKEN",
        "OMP_NUM_THREADS",
    ):
        monkeypatch.setenv(name, "/secret")
    session = started("return [dict(os.environ)]", threads=2)
    [environment] = session.predict([[1.0]])
    assert not [name for name, value in environment.items() if "secret" in value.lower()]
    assert {name for name in environment if name.startswith(("PYTHON", "AWS", "CLIPPERFS"))} == set()
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "2"
    assert "PATH" in environment


def test_descriptors_of_the_daemon_are_not_visible(started: Open, tmp_path: Path) -> None:
    secret = tmp_path.parent / "secret.txt"
    secret.write_text("x")
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        session = started(
            "links = []\n"
            "        for name in os.listdir('/proc/self/fd'):\n"
            "            try: links.append(os.readlink('/proc/self/fd/' + name))\n"
            "            except OSError: pass\n"
            "        return [links]"
        )
        [links] = session.predict([[1.0]])
    assert not [link for link in links if "secret" in link or "memfd" in link]


def test_modules_in_the_version_never_hide_installed_ones(started: Open, tmp_path: Path) -> None:
    for name in ("json", "sitecustomize", "usercustomize", "numpy", "zmq", "clipperfs", "wire", "colorsys"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n")
    session = started("import colorsys, json, numpy; return [[json.__file__, colorsys.__file__]]")
    [where] = session.predict([[1.0]])
    assert not [file for file in where if str(tmp_path) in file]
    assert not (tmp_path / "ran").exists()


def test_loading_leaves_the_version_as_it_was(started: Open, tmp_path: Path) -> None:
    (tmp_path / "extra.py").write_text("X = 1\n")
    session = started("import extra; return [extra.X]")
    assert session.predict([[1.0]]) == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["extra.py", "wrapper.py"]


def test_no_file_of_a_session_stays(started: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Path(os.environ["XDG_RUNTIME_DIR"])
    before = set(run.iterdir())
    session = started()
    [folder] = set(run.iterdir()) - before
    assert folder.stat().st_mode & 0o777 == 0o700
    session.close()
    assert set(run.iterdir()) == before


def test_predictions_never_overlap(started: Open) -> None:
    import zmq

    from clipperfs import wire

    session = started(
        "if getattr(self, 'busy', False): raise RuntimeError('called concurrently')\n"
        "        self.busy = True; time.sleep(0.02); self.busy = False; self.n = getattr(self, 'n', 0) + 1\n"
        "        return [self.n] * len(inputs)"
    )
    socket: zmq.Socket[bytes] = session._socket  # type: ignore[assignment]
    for batch in range(100, 110):
        header = wire.pack_header(wire.PREDICT, batch, 2, 1, 1)
        socket.send_multipart([session._identity, header, b"\0" * 8])
    answers: list[Any] = []
    while len(answers) < 10:
        assert socket.poll(5000)
        frames = socket.recv_multipart()
        fields = wire.unpack_header(frames[1])
        answers.append((fields[0], fields[1], frames[2]))
    assert answers == [(wire.OUTPUT, batch, str(batch - 99).encode()) for batch in range(100, 110)]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
