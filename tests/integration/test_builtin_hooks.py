"""The built-in hooks in real processes, on versions with real wrappers: what passes, what is refused, and why."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipperfs.checking.plan import plan_hooks
from clipperfs.checking.request import CheckRequest, CheckSubject
from clipperfs.checking.runner import run_hooks
from clipperfs.documents import Policy, Verdict, VersionSettings
from clipperfs.testing.hook_suite import make_subject

TIMES = """
class Wrapper:
    def load(self, context):
        self.factor = context.options["factor"]

    def predict(self, inputs):
        return [float(row[0]) * self.factor for row in inputs]
"""

ROWS = {"x": np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]]), "y": np.array([2, 4, 6, 8])}


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def version(
    folder: Path, *, factor: float = 2, files: dict[str, bytes] | None = None, code: str = TIMES, **settings: Any
) -> CheckSubject:
    """Write a version whose own wrapper multiplies the first element of each input by ``factor``."""
    subject = make_subject(
        folder,
        None,
        files={"wrapper.py": code.encode(), **(files or {})},
        version=folder.name,
        **{"wrapper": {"kind": "python", "factor": factor}, **settings},
    )
    return CheckSubject(subject.version, subject.manifest_digest, subject.manifest, subject.settings, subject.path)


def run(
    candidate: CheckSubject, active: CheckSubject | None = None, *, emergency: bool = False, **policy: Any
) -> dict[str, Verdict]:
    """Run what an activation under this policy would run; return the verdicts by hook."""
    rules = Policy.model_validate({"allow_code": True, "hook_timeout_s": 20, **policy})
    verdicts = run_hooks(
        CheckRequest(
            model="m",
            candidate=candidate,
            active=active,
            hooks=plan_hooks(rules, candidate.settings, emergency=emergency),
            allow_code=rules.allow_code,
            load_timeout_s=20,
            predict_timeout_s=rules.predict_timeout_s,
            registry_url="memory://r",
        )
    )
    for verdict in verdicts:
        assert verdict.reason and len(verdict.reason) <= 1000
        assert verdict.next_step or not verdict.is_refusal, verdict
    return {verdict.hook: verdict for verdict in verdicts}


def outcomes(verdicts: dict[str, Verdict]) -> dict[str, str]:
    return {name: verdict.outcome for name, verdict in verdicts.items()}


# --- all together ----------------------------------------------------------------------------------------------------


def test_good_version_passes_all_of_them(tmp_path: Path) -> None:
    golden = json.dumps([{"input": [1.5, 0], "output": 3}]).encode()
    active = version(tmp_path / "1", sample=[[1.0, 0.0]])
    candidate = version(
        tmp_path / "2",
        files={"holdout.npz": npz(**ROWS), "golden.json": golden},
        sample=[[2.0, 0.0], [3.0, 0.0]],
        hooks=["signature", "smoke", {"quality": {"floor": 1, "delta": 0}}, {"latency": {"p99_ms": 1000}}],
    )
    verdicts = run(candidate, active)
    assert outcomes(verdicts) == dict.fromkeys(
        ["integrity", "loadable", "signature", "smoke", "quality", "latency"], "passed"
    )
    assert verdicts["quality"].measures["candidate_accuracy"] == verdicts["quality"].measures["active_accuracy"] == 1
    assert verdicts["loadable"].measures["sample_outputs"] == 2
    assert not list(tmp_path.rglob("__pycache__")), "the copies stay as they are"


def test_emergency_runs_the_cheap_checks_alone(tmp_path: Path) -> None:
    candidate = version(tmp_path / "2", hooks=["smoke"])
    verdicts = run(candidate, emergency=True, hooks=[{"quality": {"floor": 1}}])
    assert outcomes(verdicts) == {"integrity": "passed", "loadable": "passed"}


def test_version_that_needs_code_is_refused_with_the_way_to_allow_it(tmp_path: Path) -> None:
    verdicts = run(version(tmp_path / "2", sample=[[1.0]], hooks=["smoke"]), allow_code=False)
    assert outcomes(verdicts) == {"integrity": "passed", "loadable": "refused", "smoke": "error"}
    assert "allow_code=true" in (verdicts["loadable"].next_step or "")


# --- loadable --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predict", "words"),
    [
        ("raise KeyError('no such pixel')", "no such pixel"),
        ("return [1.0]", "1 outputs for 2 inputs"),
        ("return [object(), object()]", "type object"),
        ("import os; os._exit(7)", "exited with code 7"),
        ("import time; time.sleep(60)", "within 1 s"),
    ],
)
def test_version_that_loads_but_does_not_answer_its_sample_is_refused(tmp_path: Path, predict: str, words: str) -> None:
    code = f"class Wrapper:\n    def predict(self, inputs):\n        {predict}\n"
    verdict = run(version(tmp_path / "2", code=code, sample=[[1.0], [2.0]]), predict_timeout_s=1)["loadable"]
    assert verdict.outcome == "refused"
    assert "does not answer its sample" in verdict.reason
    assert words in verdict.reason


@pytest.mark.parametrize("sample", ["s.json", [[1.0], "text"], [["1"]]])
def test_sample_that_cannot_be_sent_is_refused(tmp_path: Path, sample: Any) -> None:
    verdict = run(version(tmp_path / "2", files={"s.json": b"{}"}, sample=sample))["loadable"]
    assert verdict.outcome == "refused"


def test_version_without_a_sample_is_loaded_and_told_so(tmp_path: Path) -> None:
    verdict = run(version(tmp_path / "2"))["loadable"]
    assert verdict.outcome == "passed"
    assert "no sample" in verdict.reason


# --- integrity -------------------------------------------------------------------------------------------------------


def test_damaged_copy_is_refused_by_name_of_the_file(tmp_path: Path) -> None:
    candidate = version(tmp_path / "2", files={"weights": b"12345"})
    (candidate.path / "weights").write_bytes(b"12346")
    (candidate.path / "stowaway").write_bytes(b"")
    verdict = run(candidate)["integrity"]
    assert verdict.outcome == "refused"
    assert "weights has SHA-256" in verdict.reason and "stowaway is not in the manifest" in verdict.reason


# --- signature -------------------------------------------------------------------------------------------------------


def test_first_version_has_nothing_to_be_compatible_with(tmp_path: Path) -> None:
    assert run(version(tmp_path / "1", hooks=["signature"]))["signature"].outcome == "skipped"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_type": "floats"}, "takes doubles, 2 takes floats"),
        ({"sample": [[1.0, 2.0, 3.0]]}, "has 2 elements an input, that of 2 has 3"),
        ({"code": TIMES.replace("float(row[0]) * self.factor", "'big'")}, "output was number and is text"),
        ({"code": TIMES.replace("float(row[0]) * self.factor", "[1, 2]")}, "list(2) of number"),
        ({"code": TIMES.replace("float(row[0])", "row[99]")}, "does not answer inputs that version 1 answers"),
    ],
)
def test_version_that_clients_would_not_understand_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    active = version(tmp_path / "1", sample=[[1.0, 2.0]])
    verdict = run(version(tmp_path / "2", hooks=["signature"], **change), active)["signature"]
    assert verdict.outcome == "refused"
    assert words in verdict.reason


def test_active_version_that_is_broken_does_not_keep_its_replacement_out(tmp_path: Path) -> None:
    active = version(tmp_path / "1", code="raise RuntimeError('worn out')", sample=[[1.0]])
    verdict = run(version(tmp_path / "2", hooks=["signature"]), active)["signature"]
    assert verdict.outcome == "passed"
    assert "worn out" in verdict.reason


# --- smoke -----------------------------------------------------------------------------------------------------------


def test_other_answers_are_refused_with_the_first_differences(tmp_path: Path) -> None:
    golden = [{"input": [n, 0], "output": n * 2 if n else 1} for n in range(9)]
    verdict = run(version(tmp_path / "2", factor=3, hooks=[{"smoke": {"requests": golden}}]))["smoke"]
    assert verdict.outcome == "refused"
    assert "9 of 9 golden requests" in verdict.reason
    assert "request 1: output: expected 2, got 3.0" in verdict.reason
    assert verdict.measures["wrong"] == 9


def test_answers_within_the_tolerance_pass(tmp_path: Path) -> None:
    golden = [{"input": [1, 0], "output": 2.04}]
    for tolerance, outcome in ((0.05, "passed"), (0.03, "refused")):
        hook = {"smoke": {"requests": golden, "tolerance": tolerance}}
        assert run(version(tmp_path / "2", hooks=[hook]))["smoke"].outcome == outcome


def test_without_golden_requests_answering_the_sample_is_enough(tmp_path: Path) -> None:
    verdict = run(version(tmp_path / "2", sample=[[1.0]], hooks=["smoke"]))["smoke"]
    assert verdict.outcome == "passed"
    assert "no outputs are written down" in verdict.reason


@pytest.mark.parametrize("content", [b"{}", b"[]", b'[{"output": 1}]', b'[{"input": [1], "outptu": 1}]', b"nonsense"])
def test_golden_file_that_is_none_is_an_error(tmp_path: Path, content: bytes) -> None:
    verdict = run(version(tmp_path / "2", files={"golden.json": content}, hooks=["smoke"]))["smoke"]
    assert verdict.outcome == "error"
    assert "golden.json" in verdict.reason


def test_nothing_to_send_is_an_error(tmp_path: Path) -> None:
    assert run(version(tmp_path / "2", hooks=["smoke"]))["smoke"].outcome == "error"


# --- quality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "options", "outcome"),
    [
        (2, {"floor": 1}, "passed"),
        (3, {"floor": 0.5}, "refused"),
        (2, {"delta": 0}, "passed"),
        (3, {"delta": 0.5}, "refused"),
        (3, {"delta": 1}, "passed"),
        (2.1, {"metric": "mae", "ceiling": 0.26}, "passed"),
        (2.1, {"metric": "mae", "ceiling": 0.24}, "refused"),
        (2.1, {"metric": "rmse", "delta": 0.28}, "passed"),
        (2.1, {"metric": "rmse", "delta": 0.27}, "refused"),
        (2.1, {"metric": "mae", "ceiling": 0.3, "delta": 0.2}, "refused"),
    ],
)
def test_quality_is_judged_by_every_bound_that_is_given(
    tmp_path: Path, factor: float, options: dict[str, Any], outcome: str
) -> None:
    active = version(tmp_path / "1")
    candidate = version(tmp_path / "2", factor=factor, files={"holdout.npz": npz(**ROWS)}, hooks=[{"quality": options}])
    verdict = run(candidate, active)["quality"]
    assert verdict.outcome == outcome, verdict.reason
    assert verdict.measures["rows"] == 4
    assert len(verdict.measures["rows_sha256"]) == 64


def test_first_version_is_judged_by_its_floor_alone(tmp_path: Path) -> None:
    rows = {"holdout.json": json.dumps({"inputs": [[1], [2]], "labels": [2, 5]}).encode()}
    for floor, outcome in ((0.5, "passed"), (0.6, "refused")):
        candidate = version(tmp_path / "1", files=rows, hooks=[{"quality": {"floor": floor, "delta": 0.1}}])
        verdict = run(candidate)["quality"]
        assert verdict.outcome == outcome
        assert "active_accuracy" not in verdict.measures


def test_rows_of_the_policy_are_read_from_where_it_says(tmp_path: Path) -> None:
    (tmp_path / "rows.npz").write_bytes(npz(**ROWS))
    hook = {"quality": {"floor": 1, "rows_url": str(tmp_path / "rows.npz")}}
    assert run(version(tmp_path / "2"), hooks=[hook])["quality"].outcome == "passed"
    verdict = run(version(tmp_path / "3", hooks=[hook]))["quality"]
    assert verdict.outcome == "error"
    assert "not by a version itself" in verdict.reason


def test_delta_cannot_be_judged_when_the_active_version_does_not_answer(tmp_path: Path) -> None:
    active = version(tmp_path / "1", code="raise RuntimeError('worn out')")
    candidate = version(tmp_path / "2", files={"holdout.npz": npz(**ROWS)}, hooks=[{"quality": {"delta": 0.1}}])
    verdict = run(candidate, active)["quality"]
    assert verdict.outcome == "error"
    assert "worn out" in verdict.reason


def test_outputs_that_are_no_labels_are_refused(tmp_path: Path) -> None:
    candidate = version(
        tmp_path / "2",
        files={"holdout.npz": npz(**ROWS)},
        code=TIMES.replace("float(row[0]) * self.factor", "[0.1, 0.9]"),
        hooks=[{"quality": {"floor": 0.5}}],
    )
    verdict = run(candidate)["quality"]
    assert verdict.outcome == "refused"
    assert "list of 2" in verdict.reason


def test_quality_without_rows_is_an_error_that_says_how_to_save_them(tmp_path: Path) -> None:
    verdict = run(version(tmp_path / "2", hooks=[{"quality": {"floor": 1}}]))["quality"]
    assert verdict.outcome == "error"
    assert "numpy.savez" in (verdict.next_step or "")


# --- latency ---------------------------------------------------------------------------------------------------------


def test_slow_version_is_refused_with_what_was_measured(tmp_path: Path) -> None:
    noop = {"kind": "noop", "delay_ms": 20}
    hook = {"latency": {"p50_ms": 10, "p99_ms": 5000, "repeats": 5, "warm_up": 1, "batch": 3}}
    verdict = run(version(tmp_path / "2", wrapper=noop, sample=[[1.0]], hooks=[hook]))["latency"]
    assert verdict.outcome == "refused"
    assert "p50 is" in verdict.reason and "the budget is 10 ms" in verdict.reason and "p99" not in verdict.reason
    assert verdict.measures["p50_ms"] >= 20


def test_latency_without_a_sample_is_an_error(tmp_path: Path) -> None:
    assert run(version(tmp_path / "2", hooks=[{"latency": {"p99_ms": 1}}]))["latency"].outcome == "error"


# --- command ---------------------------------------------------------------------------------------------------------


def shell(folder: Path, script: str, **changes: Any) -> CheckSubject:
    """Write a version with an executable ``check.sh`` and a hook that runs it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "check.sh").write_text("#!/bin/sh\n" + script)
    (folder / "check.sh").chmod(0o755)
    return version(folder, hooks=[{"command": ["./check.sh", "--strict"]}], **changes)


@pytest.mark.parametrize(
    ("script", "outcome", "words"),
    [
        ("exit 0", "passed", "passed it"),
        ("echo all is well", "passed", "all is well"),
        ("""echo '{"reason": "fine", "measures": {"score": 0.5}}'""", "passed", "fine"),
        ("exit 1", "refused", "exit status 1"),
        ("echo too many zeros; exit 2", "refused", "exit status 2: too many zeros"),
        ("echo complaint >&2; exit 2", "refused", "complaint"),
        ("""echo '{"reason": "bad", "next_step": "train"}'; exit 9""", "refused", "bad"),
        ("echo '{\"reason\": 5}'", "error", "reason"),
        ("echo '{\"verdict\": true}'", "error", "verdict"),
        ("kill -9 $$", "error", "SIGKILL"),
        ("kill -SEGV $$", "error", "SIGSEGV"),
        ("yes | head -c 300000000", "error", "more than"),
        ("no_such_program_at_all", "refused", "exit status 127"),
        ('test "$1" = --strict && test "$PWD" = "$(pwd -P)" && test -f wrapper.py', "passed", "passed it"),
        ('test "$CLIPPERFS_MODEL/$CLIPPERFS_VERSION" = m/2 && test -z "$AWS_SECRET_ACCESS_KEY"', "passed", ""),
        ("sleep 300 & exit 0", "passed", ""),
    ],
)
def test_exit_status_of_a_command_is_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, outcome: str, words: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    verdict = run(shell(tmp_path / "2", script))["command"]
    assert verdict.outcome == outcome, verdict
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("content", "outcome"),
    [
        ('#!/bin/sh\ntest "$1" = --strict', "passed"),
        ('#! /usr/bin/env sh\ntest "$1" = --strict && test -f check.sh', "passed"),
        ("#!/no/such/interpreter\n", "error"),
        ("#!\n", "error"),
        ("exit 0\n", "error"),
    ],
)
def test_script_without_the_executable_bit_is_run_by_the_interpreter_that_it_names(
    tmp_path: Path, content: str, outcome: str
) -> None:
    subject = shell(tmp_path / "2", "exit 0")
    (tmp_path / "2" / "check.sh").write_text(content)
    (tmp_path / "2" / "check.sh").chmod(0o444)
    verdict = run(subject)["command"]
    assert verdict.outcome == outcome, verdict
    if outcome == "error":
        assert verdict.next_step is not None and "'#!'" in verdict.next_step


def test_command_reads_both_versions_as_json(tmp_path: Path) -> None:
    script = f"""#!{sys.executable}
import json, os, sys
request = json.load(sys.stdin)
measures = {{
    "versions": [request["candidate"]["version"], request["active"]["version"]],
    "files": [entry["path"] for entry in request["candidate"]["files"]],
    "here": request["candidate"]["path"] == os.getcwd(),
    "model": request["model"], "registry": request["registry"], "limit": request["time_limit_s"],
}}
print(json.dumps({{"measures": measures}}))
"""
    folder = tmp_path / "2"
    folder.mkdir()
    (folder / "check.py").write_text(script)
    (folder / "check.py").chmod(0o755)
    active = version(tmp_path / "1")
    candidate = version(folder, hooks=[{"command": {"argv": ["./check.py"], "timeout_s": 15}}])
    verdict = run(candidate, active)["command"]
    assert verdict.outcome == "passed", verdict
    assert verdict.measures == {
        "versions": ["2", "1"], "files": ["check.py", "wrapper.py"], "here": True, "model": "m",
        "registry": "memory://r", "limit": 15.0, "exit_status": 0,
    }  # fmt: skip


def test_command_of_the_version_needs_code_to_be_allowed(tmp_path: Path) -> None:
    candidate = shell(tmp_path / "2", f"touch {tmp_path}/ran", wrapper="noop")
    verdict = run(candidate, allow_code=False)["command"]
    assert verdict.outcome == "refused"
    assert "allow_code=true" in (verdict.next_step or "")
    assert not (tmp_path / "ran").exists()


def test_command_of_the_policy_runs_unless_it_lies_in_the_version(tmp_path: Path) -> None:
    candidate = shell(tmp_path / "2", f"touch {tmp_path}/ran", wrapper="noop")
    candidate = CheckSubject(
        "2", candidate.manifest_digest, candidate.manifest, VersionSettings(wrapper="noop"), candidate.path
    )
    assert run(candidate, allow_code=False, hooks=[{"command": ["true"]}])["command"].outcome == "passed"
    verdict = run(candidate, allow_code=False, hooks=[{"command": ["./check.sh"]}])["command"]
    assert verdict.outcome == "refused"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("program", ["./absent.sh", "./plain.txt", "./sub", "no-such-program-anywhere"])
def test_command_that_cannot_be_run_is_an_error_with_the_way_out(tmp_path: Path, program: str) -> None:
    files = {"plain.txt": b"text", "sub/x": b""}
    verdict = run(version(tmp_path / "2", files=files, hooks=[{"command": [program]}]))["command"]
    assert verdict.outcome == "error"
    assert program in verdict.reason


def test_hanging_command_dies_with_the_time_limit_and_so_does_what_it_started(tmp_path: Path) -> None:
    script = f"trap '' TERM\nsleep 301 & echo $! > {tmp_path}/pid\nwhile true; do sleep 1; done"
    started = time.monotonic()
    verdicts = run(shell(tmp_path / "2", script, sample=[[1.0]]), hook_timeout_s=2)
    assert verdicts["command"].outcome == "timeout"
    assert time.monotonic() - started < 20
    pid = (tmp_path / "pid").read_text().strip()
    stat = Path(f"/proc/{pid}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"


def test_command_that_writes_into_the_version_is_noticed(tmp_path: Path) -> None:
    verdicts = run(shell(tmp_path / "2", "echo x >> wrapper.py"))
    assert verdicts["command"].outcome == "passed"
    assert verdicts["unchanged"].outcome == "refused"
    assert "wrapper.py" in verdicts["unchanged"].reason
