"""``rollout`` as a user types it: what it prints, what it writes, how it exits; and the daemon's side of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipperfs.cli import rollout as module
from clipperfs.cli.status import status_text
from clipperfs.cluster import judge
from clipperfs.documents import LoadedVersion, ReplicaStatus, ServedModel, Verdict
from clipperfs.errors import DaemonNotRunning
from tests.unit.test_cli_commands import Shell, accept_all


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Return a shell with versions 1 (active), 2 and 3 of a model, hooks that pass, and no daemon."""
    monkeypatch.chdir(tmp_path)
    accept_all(monkeypatch)
    monkeypatch.setattr(module, "open_daemon", lambda call, **flags: NoDaemon())
    shell = Shell(tmp_path)
    shell.published("1", "2", "3")
    shell.run("activate", "digits", "1")
    return shell


class NoDaemon:
    def status(self) -> dict[str, Any]:
        raise DaemonNotRunning("no daemon runs")


class Answering:
    """A daemon that has counted something."""

    def status(self) -> dict[str, Any]:
        side = {"queries": 200, "errors": 3, "defaults": 1, "batches": 100, "predict_us": 250_000, "agree": 9}
        figures = {"candidate": side, "active": {"queries": 800, "errors": 0, "defaults": 0, "batches": 0}}
        trial = {
            "version": "2", "kind": "canary", "percent": 5.0, "state": "running", "reason": None, "window_s": 60.0,
            "active": "1", "figures": figures,
        }  # fmt: skip
        return {"models": {"digits": {"rollout": trial}}}


def test_rollout_starts_changes_shows_and_aborts(shell: Shell) -> None:
    assert shell.run("rollout", "digits").stdout == "digits: no rollout\n"
    started = shell.run("rollout", "digits", "2", "--percent", "5", "--max-error-rate", "0.1", "--reason", "try it")
    assert started.stdout == "digits: version 2, canary at 5 %, record 5\n"
    assert "integrity" in started.stderr
    assert "already; nothing was written" in shell.run("rollout", "digits", "2", "--percent", "5").stdout
    assert shell.run("rollout", "digits", "2", "--percent", "12.5").stdout.startswith(
        "digits: version 2, canary at 12.5"
    )
    shown = shell.run("rollout", "digits")
    assert "2, canary at 12.5 %, since record 5" in shown.stdout and "max_error_rate=0.1" in shown.stdout
    assert "no figures: no daemon runs" in shown.stderr
    assert "rollout   version 2, canary at 12.5 %" in shell.run("show", "digits").stdout
    assert "canary" in shell.run("show", "digits").stdout.splitlines()[-2]
    assert "rollout (canary 12.5 %)" in shell.run("history", "digits").stdout
    assert shell.error("activate", "digits", "3", exits=4)["error"] == "Conflict"
    aborted = shell.run("rollout", "digits", "2", "--abort", "--reason", "bad")
    assert aborted.stdout == "digits: the rollout of version 2 is aborted, 1 is active, record 7\n"
    assert shell.run("rollout", "digits", "--abort").stdout == "digits: there is no rollout; nothing was written\n"


def test_promotion_makes_the_candidate_active(shell: Shell) -> None:
    assert shell.error("rollout", "digits", "--promote", exits=3)["error"] == "NotFound"
    shell.run("rollout", "digits", "2", "--shadow")
    assert shell.error("rollout", "digits", "3", "--promote", exits=4)["error"] == "Conflict"
    assert shell.run("rollout", "digits", "--promote").stdout == "digits: 2 is active (was 1), record 6\n"


def test_candidate_that_a_hook_refuses_exits_6(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    accept_all(monkeypatch, Verdict(hook="quality", outcome="refused", reason="worse"))
    assert shell.error("rollout", "digits", "2", "--percent", "5", exits=6)["error"] == "ActivationRefused"
    assert shell.json("rollout", "digits")["rollout"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["2"],
        ["--percent", "5"],
        ["2", "--percent", "0"],
        ["2", "--percent", "101"],
        ["2", "--percent", "0.001"],
        ["2", "--percent", "5", "--promote"],
        ["--promote", "--abort"],
        ["2", "--min-queries", "5"],
        ["Two", "--percent", "5"],
    ],
)
def test_wrong_usage_exits_2_and_writes_nothing(shell: Shell, arguments: list[str]) -> None:
    shell.run("rollout", "digits", *arguments, exits=2)
    assert shell.json("rollout", "digits")["seq"] == 4


def test_figures_of_the_daemon_here_are_shown(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_daemon", lambda call, **flags: Answering())
    shell.run("rollout", "digits", "2", "--percent", "5")
    rows = [line.split() for line in shell.run("rollout", "digits").stdout.splitlines()]
    assert ["2", "canary", "200", "3", "1", "2.5", "9/0/0"] in rows
    assert ["1", "active", "800", "0", "0", "-", "-"] in rows
    assert shell.json("rollout", "digits")["daemon"]["state"] == "running"


def test_waiting_for_a_rollout_is_waiting_for_its_candidate(shell: Shell) -> None:
    shell.run("rollout", "digits", "2", "--percent", "5")
    head = shell.registry.head("digits")
    assert head is not None and head.record.state.rollout is not None
    candidate = head.record.state.rollout.candidate

    def status(*loaded: LoadedVersion) -> ReplicaStatus:
        served = ServedModel(applied_seq=head.seq, active="1", versions=list(loaded))
        return ReplicaStatus(
            replica="r", host="h", pid=1, software="s", time="t", expires_unix_s=0.0, models={"digits": served}
        )

    ready = LoadedVersion(version="2", manifest=candidate.manifest, state="ready")
    assert judge(status(ready), head.record, candidate).serves
    assert "has not loaded version 2" in judge(status(), head.record, candidate).why


def test_status_names_the_canary_and_what_waits_for_it() -> None:
    versions = [
        {"version": "1", "state": "ready", "role": "active"},
        {"version": "2", "state": "ready", "role": "canary"},
    ]
    trial = {"version": "2", "kind": "canary", "percent": 5.0}
    text = status_text(
        {
            "reasons": ["a fault"],
            "refused": [{"model": "digits", "version": "3", "reason": "it waits"}],
            "models": {"digits": {"serving": "1", "active": "1", "versions": versions, "rollout": trial}},
        }
    )
    assert "canary 5 %" in text and "fault      a fault" in text and "refused    digits/3: it waits" in text
