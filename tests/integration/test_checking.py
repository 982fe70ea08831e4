"""The runner against hooks that hang, die, flood, lie about the protocol, tamper or leave processes behind.

The hooks come from a distribution that is installed into an environment made for these tests, which is also how hooks
of third parties are found: the runs happen in a process of that environment's interpreter.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipperfs.checking.request import CheckRequest, CheckSubject, PlannedHook
from clipperfs.checking.runner import run_hooks
from clipperfs.documents import Verdict
from clipperfs.errors import ServingError
from clipperfs.hook import Subject
from clipperfs.testing.hook_suite import make_subject

HOSTILE = Path(__file__).with_name("hostile_hooks.py")

NAMES = [
    "Fine", "Hang", "HangInC", "Stop", "Exit", "SysExit", "Segfault", "LateDeath", "Raise", "Nothing", "Nan", "Garbage",
    "Forged", "LongLine", "Close", "Flood", "Mutate", "Litter", "Orphan", "Environment", "Predict",
]  # fmt: skip

RUN = """
import json, sys
from clipperfs.checking.request import CheckRequest
from clipperfs.checking.runner import run_hooks
verdicts = run_hooks(CheckRequest.from_json(sys.stdin.buffer.read()))
print(json.dumps([verdict.model_dump() for verdict in verdicts]))
"""

Check = Callable[..., list[Verdict]]


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment that has this project, and a distribution with hostile hooks."""
    place = tmp_path_factory.mktemp("environment")
    venv.EnvBuilder(symlinks=True, with_pip=False).create(place)
    [packages] = place.glob("lib/python*/site-packages")
    (packages / "project.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    shutil.copy(HOSTILE, packages / "hostile.py")
    (packages / "broken_import.py").write_text("import no_such_module_anywhere\n")
    information = packages / "hostile-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
    points = [f"{name.lower()} = hostile:{name}" for name in NAMES] + ["broken = broken_import:Hook"]
    (information / "entry_points.txt").write_text("[clipperfs.hooks]\n" + "\n".join(points) + "\n")
    return place / "bin" / "python"


@pytest.fixture
def check(python: Path, tmp_path: Path) -> Check:
    """Return a function that runs hooks on a small version in that environment and returns the verdicts."""

    def run(*hooks: str | tuple[str, dict[str, Any]], time_limit_s: float = 20.0, **changes: Any) -> list[Verdict]:
        request = make_request(tmp_path, hooks, time_limit_s=time_limit_s, **changes)
        done = subprocess.run(
            [python, "-c", RUN], input=request.to_json(), capture_output=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return [Verdict.model_validate(tree) for tree in json.loads(done.stdout)]

    return run


def make_request(
    place: Path,
    hooks: tuple[str | tuple[str, dict[str, Any]], ...],
    *,
    time_limit_s: float = 20.0,
    load_timeout_s: float = 20.0,
    **settings: Any,
) -> CheckRequest:
    candidate = make_subject(place / "candidate", None, files={"weights": b"weights"}, **settings)
    active = make_subject(place / "active", None, files={"weights": b"older"}, version="1")
    planned = [(hook, {}) if isinstance(hook, str) else hook for hook in hooks]
    return CheckRequest(
        model="m",
        candidate=as_check_subject(candidate),
        active=as_check_subject(active),
        hooks=[PlannedHook(name, options, True, time_limit_s) for name, options in planned],
        allow_code=True,
        load_timeout_s=load_timeout_s,
        predict_timeout_s=20.0,
        registry_url="memory://r",
    )


def as_check_subject(subject: Subject) -> CheckSubject:
    return CheckSubject(subject.version, subject.manifest_digest, subject.manifest, subject.settings, subject.path)


def outcomes(verdicts: list[Verdict]) -> list[tuple[str, str]]:
    return [(verdict.hook, verdict.outcome) for verdict in verdicts]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descendants(root: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_alive(int(entry.name)):
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def wait_until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    give_up = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.01)


def test_copies_are_found_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = make_request(Path(), ("integrity", "loadable", "signature"))
    assert [verdict.outcome for verdict in run_hooks(request)] == ["passed", "passed", "passed"]


def test_host_that_cannot_start_a_child_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    with pytest.raises(ServingError, match="cannot be run on this host"):
        run_hooks(make_request(tmp_path, ("integrity",)))


def test_child_that_cannot_run_gives_every_hook_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such module >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(broken))
    verdicts = run_hooks(make_request(tmp_path, ("integrity", "loadable")))
    assert outcomes(verdicts) == [("integrity", "error"), ("loadable", "error")]
    assert "exited with code 1" in verdicts[0].reason
    assert verdicts[0].measures["output"] == "no such module"


# --- hooks that misbehave --------------------------------------------------------------------------------------------


def test_hooks_of_installed_distributions_run_in_order_under_their_own_names(check: Check) -> None:
    verdicts = check("fine", "integrity", "loadable", "fine")
    assert outcomes(verdicts) == [
        ("fine", "passed"), ("integrity", "passed"), ("loadable", "passed"), ("fine", "passed")
    ]  # fmt: skip
    assert all(verdict.duration_ms > 0 for verdict in verdicts)
    assert "output" not in verdicts[0].measures, "what a hook prints is kept when it fails"


@pytest.mark.parametrize("name", ["hang", "hanginc", "stop"])
def test_hanging_hook_is_killed_and_the_rest_still_runs(check: Check, name: str) -> None:
    started = time.monotonic()
    verdicts = check("fine", name, "fine", time_limit_s=1.0)
    assert outcomes(verdicts) == [("fine", "passed"), (name, "timeout"), ("fine", "passed")]
    assert time.monotonic() - started < 15
    assert "limit of 1 s" in verdicts[1].reason
    assert "hook_timeout_s" in (verdicts[1].next_step or "")
    assert verdicts[1].duration_ms >= 1000


def test_hanging_hook_shows_what_it_printed_and_where_it_hangs(check: Check) -> None:
    [verdict] = check("hang", time_limit_s=1.0)
    assert "about to hang" in verdict.measures["output"]
    assert "hostile.py" in verdict.measures["output"], "the stack is dumped before the kill"


@pytest.mark.parametrize(
    ("name", "words"),
    [("exit", "exited with code 3"), ("segfault", "was killed by SIGSEGV"), ("broken", "no_such_module")],
)
def test_dying_hook_is_an_error_and_the_rest_still_runs(check: Check, name: str, words: str) -> None:
    verdicts = check(name, "fine")
    assert outcomes(verdicts) == [(name, "error"), ("fine", "passed")]
    assert words in verdicts[0].reason


def test_death_between_two_hooks_costs_no_verdict(check: Check) -> None:
    verdicts = check("latedeath", "hang", "fine", time_limit_s=1.0)
    assert [verdict.hook for verdict in verdicts] == ["latedeath", "hang", "fine"]
    assert verdicts[1].is_refusal
    assert verdicts[2].outcome == "passed"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raise", "RuntimeError: the oven is cold"),
        ("sysexit", "SystemExit: I am done"),
        ("nothing", "NoneType instead of a Verdict"),
        ("nosuchhook", "no hook is called 'nosuchhook'"),
    ],
)
def test_hook_without_a_verdict_is_an_error(check: Check, name: str, words: str) -> None:
    verdicts = check(name, "fine")
    assert outcomes(verdicts) == [(name, "error"), ("fine", "passed")]
    assert words in verdicts[0].reason
    assert verdicts[0].next_step


def test_raising_hook_shows_its_stack_and_what_it_printed(check: Check) -> None:
    verdict = check("fine", "raise")[1]
    assert "clue on stdout" in verdict.measures["output"]
    assert "hostile.py" in verdict.measures["output"]
    assert "printed by fine" not in verdict.measures["output"]


def test_measures_that_json_cannot_hold_do_not_break_the_run(check: Check) -> None:
    [verdict] = check("nan")
    assert verdict.outcome == "passed"
    assert "dropped" in verdict.measures


@pytest.mark.parametrize("name", ["garbage", "longline", "forged"])
def test_nonsense_on_the_protocols_pipe_is_an_error_at_once(check: Check, name: str) -> None:
    verdicts = check("fine", name, "fine")
    assert outcomes(verdicts) == [("fine", "passed"), (name, "error"), ("fine", "passed")]
    assert "not a verdict" in verdicts[1].reason
    assert verdicts[1].duration_ms < 10_000


def test_hook_that_closes_the_protocols_pipe_times_out(check: Check) -> None:
    assert outcomes(check("close", "fine", time_limit_s=1.0)) == [("close", "timeout"), ("fine", "passed")]


def test_flood_of_a_gigabyte_is_read_and_only_its_end_is_kept(check: Check) -> None:
    [verdict] = check("flood")
    assert verdict.outcome == "error"
    assert len(verdict.measures["output"].encode()) <= 64 * 1024
    assert "the very end" in verdict.measures["output"]


def test_bad_options_are_an_error_that_names_them(check: Check) -> None:
    verdicts = check(("latency", {"p99": 3}), ("smoke", {"timeout_s": -1}), ("latency", {"value": 20}), "fine")
    assert [verdict.outcome for verdict in verdicts] == ["error", "error", "error", "passed"]
    assert "p99" in verdicts[0].reason and "p99_ms" in (verdicts[0].next_step or "")
    assert "timeout_s" in verdicts[1].reason
    assert "value" in verdicts[2].reason


# --- tampering -------------------------------------------------------------------------------------------------------


def test_hook_that_changes_the_candidate_is_noticed_even_if_it_restores_the_times(check: Check) -> None:
    verdicts = check("integrity", "mutate")
    assert outcomes(verdicts) == [("integrity", "passed"), ("mutate", "passed"), ("unchanged", "refused")]
    assert "weights has SHA-256" in verdicts[2].reason
    assert verdicts[2].next_step


def test_hook_that_litters_in_the_active_version_is_noticed(check: Check) -> None:
    verdicts = check("litter")
    assert outcomes(verdicts) == [("litter", "passed"), ("unchanged", "refused")]
    assert "version 1" in verdicts[1].reason and "cache.tmp" in verdicts[1].reason


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hang", [False, True])
def test_daemon_that_a_hook_starts_does_not_outlive_the_run(check: Check, tmp_path: Path, hang: bool) -> None:
    tell = tmp_path / "pid"
    verdicts = check(("orphan", {"tell": str(tell), "hang": hang}), time_limit_s=5.0 if hang else 20.0)
    assert verdicts[0].outcome == ("timeout" if hang else "passed")
    assert not is_alive(int(tell.read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_survives_the_parent(python: Path, tmp_path: Path, number: signal.Signals) -> None:
    request = make_request(
        tmp_path, ("loadable",), time_limit_s=60, load_timeout_s=60, wrapper={"kind": "noop", "load_s": 300}
    )
    parent = subprocess.Popen(
        [python, "-c", RUN], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert parent.stdin is not None and parent.stderr is not None
    with parent.stdin:
        parent.stdin.write(request.to_json())
    wait_until(lambda: len(descendants(parent.pid)) == 2, 30)
    below = descendants(parent.pid)
    parent.send_signal(number)
    with parent.stderr:
        stderr = parent.stderr.read().decode()
    parent.wait(10)
    assert number is signal.SIGKILL or "KeyboardInterrupt" in stderr
    wait_until(lambda: not any(is_alive(pid) for pid in below))


def test_hooks_see_a_clean_place(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    [verdict] = check("environment")
    measures = verdict.measures
    assert not {"AWS_SECRET_ACCESS_KEY", "PYTHONPATH"} & set(measures["names"])
    assert measures["stdin"] == ""
    assert not os.path.exists(measures["cwd"]), "the folder of the run is removed, with what hooks left there"
    assert "socket:" not in measures["passed_on"], "programs that a hook starts do not get the protocol's descriptor"
    assert measures["registry"] == "memory://r"
    assert measures["policy"] is True
    assert measures["limit"] == 20.0


# --- loading ---------------------------------------------------------------------------------------------------------


def test_time_to_load_does_not_count_against_the_hook(check: Check) -> None:
    wrapper = {"kind": "noop", "load_s": 3, "delay_ms": 200}
    verdicts = check("loadable", "predict", time_limit_s=2.0, wrapper=wrapper, sample=[[1.0]])
    assert outcomes(verdicts) == [("loadable", "passed"), ("predict", "passed")]
    assert verdicts[0].duration_ms > 3000
    assert verdicts[1].duration_ms < 2000, "the wrapper is started once and shared"


def test_wrapper_that_loads_too_long_is_refused(check: Check) -> None:
    verdicts = check("loadable", "fine", load_timeout_s=1.0, wrapper={"kind": "noop", "load_s": 60})
    assert outcomes(verdicts) == [("loadable", "refused"), ("fine", "passed")]
    assert "did not load within 1 s" in verdicts[0].reason


def test_hook_that_predicts_after_a_failed_load_does_not_pass(check: Check) -> None:
    verdicts = check("loadable", "predict", "smoke", "signature", wrapper="nosuchwrapper", sample=[[1.0]])
    assert [verdict.outcome for verdict in verdicts] == ["refused", "error", "error", "error"]
    assert "nosuchwrapper" in verdicts[0].reason
    assert "nosuchwrapper" in verdicts[1].reason
