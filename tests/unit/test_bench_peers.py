"""The benchmark beside other servers: its arguments, its table, and what it takes for a right answer."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.load import Measurement
from benchmarks.peers.check import compare, inputs_of
from benchmarks.peers.environments import PINNED_FOR, PINS, Environment
from benchmarks.peers.peer import NotRun
from benchmarks.peers.rows import add_leads, render, summarise
from benchmarks.peers.run import PEERS, QUICK, Plan, main, parse_arguments
from benchmarks.peers.served.answers import CLASSES, load, write_weights
from benchmarks.peers.triton import find_libpython
from benchmarks.tools import ToolMissing

NEIGHBOURS = [name for name in PEERS if name != "clipperfs"]
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def measurement(rate: float, failed: int = 0) -> Measurement:
    return Measurement(rate, p50_ms=1.0, p99_ms=2.0, cpu_us=10.0, failed=failed)


def test_plain_arguments_mean_all_peers_and_the_whole_plan() -> None:
    options, plan = parse_arguments([])
    assert list(options.peers) == list(PEERS)
    assert plan == Plan()


def test_quick_is_a_plan_of_which_every_part_can_be_overruled() -> None:
    _, plan = parse_arguments(["--quick"])
    assert plan == QUICK
    _, plan = parse_arguments(
        ["--quick", "--models", "linear", "--connections", "8,64", "--rounds", "4", "--seconds", "2"]
    )
    assert (plan.models, plan.connections, plan.rounds, plan.seconds) == (("linear",), (8, 64), 4, 2.0)
    assert plan.echo_s == QUICK.echo_s


def test_peers_run_in_their_own_order_whatever_is_asked() -> None:
    assert parse_arguments(["--peers", "mlserver,clipperfs"])[0].peers == ("clipperfs", "mlserver")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "triton,kserve"], "there is no 'kserve'; there are clipperfs, triton, mlserver"),
        (["--models", "resnet"], "there is no 'resnet'; there are noop, linear"),
        (["--rounds", "0"], "'0' is not a number above 0"),
        (["--connections", "1,many"], "'many' is not a number above 0"),
    ],
)
def test_wrong_argument_is_refused_with_what_there_is(
    arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(arguments)
    assert message in capsys.readouterr().err


def test_ratio_is_taken_with_the_echo_of_the_same_moment() -> None:
    # The machine slows down by half from round to round, for both alike.
    pairs = [(measurement(400), measurement(100)), (measurement(200), measurement(50, failed=3))]
    row = summarise("triton", "noop", 32, pairs)
    assert row["ratio_to_echo"] == {"median": 0.25, "low": 0.25, "high": 0.25}
    assert row["failed"] == 3


def test_lead_is_our_ratio_over_theirs_and_unknown_without_ours() -> None:
    rows = [
        summarise("clipperfs", "noop", 32, [(measurement(100), measurement(60))]),
        summarise("triton", "noop", 32, [(measurement(200), measurement(30))]),
        summarise("triton", "noop", 128, [(measurement(200), measurement(30))]),
    ]
    add_leads(rows)
    assert [row["ours_is_times"] for row in rows] == [1.0, pytest.approx(4.0), None]


def test_table_groups_by_model_and_connections_and_keeps_who_did_not_run() -> None:
    rows = [
        summarise(server, model, connections, [(measurement(100), measurement(50))])
        for server in ("triton", "clipperfs")
        for model in ("noop", "linear")
        for connections in (32, 1)
    ]
    add_leads(rows)
    lines = render(rows, {"ray": "pip failed"}, order=["clipperfs", "triton", "ray"]).splitlines()
    first_two = [[cell.strip() for cell in line.split("|")[1:3]] for line in lines[2:]]
    assert first_two == [
        [cell, server]
        for cell in ("noop, 1", "noop, 32", "linear, 1", "linear, 32")
        for server in ("clipperfs", "triton")
    ] + [["–", "ray"]]
    assert "not run" in lines[-1]
    assert len({line.count("|") for line in lines}) == 1


REPLIES = {
    "clipperfs": {"query_id": 1, "output": 7, "default": False},
    "triton": {"outputs": [{"name": "OUTPUT", "datatype": "INT32", "shape": [1, 1], "data": [7]}]},
    "mlserver": {"outputs": [{"name": "output", "datatype": "INT32", "shape": [1, 1], "data": [7]}]},
    "litserve": {"output": 7},
    "bentoml": [7],
    "mlflow": {"predictions": [7]},
    "ray": {"output": 7},
    "torchserve": {"output": 7},
}


@pytest.mark.parametrize("name", PEERS)
def test_answer_is_read_out_of_each_server_s_reply_and_an_error_is_none(name: str, tmp_path: Path) -> None:
    peer = PEERS[name](tmp_path)
    assert peer.answer(json.dumps(REPLIES[name]).encode()) == 7
    for wrong in (b'{"error": "busy"}', b"{}", b"null", b"oops"):
        with pytest.raises((ValueError, LookupError, TypeError)):
            peer.answer(wrong)
    assert b"0.25" in peer.body([0.25, 1.0])


def test_default_output_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="default output"):
        PEERS["clipperfs"](tmp_path).answer(b'{"query_id": 1, "output": 7, "default": true}')


def test_one_wrong_answer_is_found_and_named() -> None:
    compare([1, 2, 3], [1, 2, 3])
    with pytest.raises(NotRun, match="1 of 3 answers are not the model's own: input 1 gave 9, the model says 2"):
        compare([1, 9, 3], [1, 2, 3])


def test_linear_answers_differ_between_inputs_so_that_mixed_up_batches_show(tmp_path: Path) -> None:
    write_weights(tmp_path)
    answers = load("linear", tmp_path)(inputs_of("linear", 104))
    assert set(answers) == set(range(CLASSES))
    assert sum(one != other for one, other in itertools.pairwise(answers)) > 80


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_every_package_of_a_neighbour_is_pinned(name: str, tmp_path: Path) -> None:
    lines = [line for line in (PINS / f"{name}.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.fullmatch(r"[\w.\-]+(\[\w+\])?==[\w.]+", line), line
    assert re.search(r"\d", PEERS[name](tmp_path).version())


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_pins_are_for_the_python_that_is_asked_for(name: str) -> None:
    assert f"for Python {PINNED_FOR[0]}.{PINNED_FOR[1]}." in (PINS / f"{name}.txt").read_text().splitlines()[0]


def test_another_python_is_told_at_once_and_still_measures_clipperfs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def require_tool(name: str) -> str:
        raise ToolMissing("no wrk")

    monkeypatch.setattr("benchmarks.peers.run.require_tool", require_tool)  # ends what is not refused before
    monkeypatch.setattr("benchmarks.peers.run.PINNED_FOR", (3, 7))
    for arguments in ([], ["--peers", "litserve"]):
        assert main(arguments) == 1
        assert "pinned for Python 3.7, and this is 3." in capsys.readouterr().err
    assert main(["--peers", "clipperfs"]) == 1
    assert capsys.readouterr().err == "no wrk\n"


def test_server_that_lacks_something_of_the_system_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("benchmarks.tools.find_tool", lambda name: None)
    monkeypatch.setattr("benchmarks.peers.triton.find_libpython", lambda: None)
    monkeypatch.setattr(Environment, "ensure", lambda self: pytest.fail("installed what cannot start"))
    with pytest.raises(NotRun, match=r"needs java: .*apt-get install openjdk-17-jre-headless"):
        PEERS["torchserve"](tmp_path).install()
    with pytest.raises(NotRun, match=r"needs libpython3\.\d+\.so\.1\.0: .*apt-get install libpython3\.\d+\); a Python"):
        PEERS["triton"](tmp_path).install()


def test_library_of_python_is_found_beside_it_or_by_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_config_var", {"LIBDIR": str(tmp_path)}.get)
    monkeypatch.setattr("ctypes.util.find_library", {f"python{PYTHON}": "of the system"}.get)
    assert find_libpython() == "of the system"
    own = tmp_path / f"libpython{PYTHON}.so.1.0"
    own.touch()
    assert find_libpython() == str(own)


def test_environment_that_does_not_fit_on_the_disk_is_not_begun(tmp_path: Path) -> None:
    environment = Environment("litserve", tmp_path / "place", needs_gb=1e9)
    with pytest.raises(NotRun, match=r"needs 1000000000 GB of disk, \d+ GB are free"):
        environment.ensure()
    assert not environment.folder.exists()


def test_changed_pins_are_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Environment("litserve", tmp_path).folder
    (tmp_path / "litserve.txt").write_text("litserve==0.0.1\n")
    monkeypatch.setattr("benchmarks.peers.environments.PINS", tmp_path)
    assert Environment("litserve", tmp_path).folder != before
