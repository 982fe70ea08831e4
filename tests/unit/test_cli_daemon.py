"""The daemon's commands against a handle that says what the test wants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import clipperfs.daemon
from clipperfs.cli.root import clipperfs as command_line
from clipperfs.cli.status import status_text
from clipperfs.errors import DaemonAlreadyRunning, DaemonNotRunning, DaemonStartFailed, TimedOut

STATUS: dict[str, Any] = {
    "degraded": False,
    "reasons": [],
    "daemon": {"pid": 42, "port": 1337, "ready": True, "started": "2026-01-01T00:00:00Z"},
    "registry": {"url": "file:///srv/models", "state": "reachable", "reason": None, "alarms": {}},
    "frontends": [{"index": 0, "state": "ready"}],
    "models": {
        "digits": {
            "applied_seq": 7,
            "active": "2",
            "serving": "1",
            "unavailable": None,
            "aliases": {"stable": "1"},
            "versions": [
                {"version": "1", "state": "ready", "replicas_ready": 1, "replicas_wanted": 1, "reason": None},
                {
                    "version": "2",
                    "state": "quarantined",
                    "replicas_ready": 0,
                    "replicas_wanted": 1,
                    "reason": "no\x1b[2J",
                },
            ],
        },
        "empty": {"applied_seq": 0, "active": None, "serving": None, "aliases": {}, "versions": []},
    },
}


class Handle:
    """Stands for ``Daemon``: remembers how it was made and asked."""

    made: dict[str, Any]
    answers: dict[str, Any]
    asked: list[Any]

    def __init__(self, registry: str, **settings: Any) -> None:
        Handle.made = {"registry": registry, **settings}
        self.registry = registry
        self.state_dir = Path("/state")

    def start(self, wait_s: float, *, progress: Any) -> dict[str, Any]:
        progress({"state": "loading", "model": "digits"})
        return dict(self._answer("start", wait_s))

    def restart(self, wait_s: float, *, progress: Any, **settings: Any) -> dict[str, Any]:
        return dict(self._answer("restart", wait_s, settings))

    def stop(self) -> bool:
        return bool(self._answer("stop", Handle.made["drain_s"]))

    def watch(self) -> Iterator[dict[str, Any]]:
        yield from self._answer("watch")

    def reload(self, model: str | None, *, wait_s: float) -> dict[str, Any]:
        return dict(self._answer("reload", model, wait_s))

    def status(self) -> dict[str, Any]:
        return dict(self._answer("status"))

    def run(self) -> None:
        raise SystemExit(self._answer("run"))

    def _answer(self, name: str, *arguments: Any) -> Any:
        Handle.asked.append((name, *arguments))
        answer = Handle.answers[name]
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def handle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clipperfs.daemon, "Daemon", Handle)
    Handle.made, Handle.answers, Handle.asked = {}, {}, []


def run(*arguments: str, exits: int = 0, **answers: Any) -> Result:
    Handle.answers = answers
    result = CliRunner().invoke(command_line, [*arguments, "--registry", "/srv/models"])
    assert result.exit_code == exits, result.output + result.stderr
    return result


def test_start_says_where_it_serves() -> None:
    result = run("start", start={"pid": 42, "port": 1337, "failed": []})
    assert result.stdout == "serving /srv/models on port 1337 (pid 42)\n"
    assert "loading model=digits" in result.stderr
    assert Handle.asked == [("start", 60.0)]
    assert (Handle.made["port"], Handle.made["admin_port"], Handle.made["frontends"]) == (1337, 1338, 1)
    assert (Handle.made["watch"], Handle.made["models"], Handle.made["host"]) == (True, None, "127.0.0.1")


def test_start_hands_every_flag_on(tmp_path: Path) -> None:
    flags = (
        "--port 0 --admin-port 0 --host 0.0.0.0 --frontends auto --model a --model b --no-watch --wait 5s --state-dir s"
    )
    run("start", *flags.split(), start={"pid": 1, "port": 2})
    made = Handle.made
    assert (made["port"], made["admin_port"], made["host"], made["frontends"]) == (0, 0, "0.0.0.0", "auto")
    assert (made["models"], made["watch"], str(made["state_dir"])) == (["a", "b"], False, "s")
    assert Handle.asked == [("start", 5.0)]


def test_start_reads_the_settings_file(tmp_path: Path) -> None:
    (tmp_path / "clipperfs.toml").write_text("port = 5\nactor = 'ops'\ndrain = '2s'\n")
    run("start", start={"pid": 1, "port": 5})
    assert (Handle.made["port"], Handle.made["actor"], Handle.made["drain_s"]) == (5, "ops", 2.0)


def test_start_names_versions_that_failed_and_runs_all_the_same() -> None:
    failed = [{"model": "digits", "version": "2", "reason": "no memory"}]
    result = run("start", start={"pid": 1, "port": 2, "failed": failed})
    assert "could not be loaded: model=digits version=2 reason='no memory'" in result.stderr
    assert json.loads(run("start", "--json", start={"pid": 1, "port": 2, "failed": failed}).stdout)["failed"] == failed


@pytest.mark.parametrize(
    ("error", "exits"), [(DaemonAlreadyRunning("runs", pid=42, port=1), 4), (DaemonStartFailed("ended"), 1)]
)
def test_start_that_fails_has_its_exit_code(error: Exception, exits: int) -> None:
    assert run("start", exits=exits, start=error).stdout == ""


@pytest.mark.parametrize("flag", ["--frontends=0", "--frontends=many", "--port=70000", "--wait=soon"])
def test_start_with_a_wrong_value_is_a_usage_error(flag: str) -> None:
    run("start", flag, exits=2)
    assert Handle.asked == []


def test_foreground_becomes_the_daemon() -> None:
    run("start", "--foreground", exits=0, run=0)
    assert Handle.asked == [("run",)]


def test_restart_hands_on_only_what_was_typed(tmp_path: Path) -> None:
    (tmp_path / "clipperfs.toml").write_text("port = 5\ndrain = '2s'\nmodels = ['a']\n")
    result = run("restart", restart={"pid": 43, "port": 1337, "failed": []})
    assert result.stdout == "serving /srv/models on port 1337 (pid 43)\n"
    assert Handle.asked == [("restart", 60.0, {})]
    flags = "--port 7 --frontends auto --model b --no-watch --slow 20ms --max-body 1MB --wait 5s --state-dir s"
    run("restart", *flags.split(), restart={"pid": 43, "port": 7})
    settings = {"port": 7, "frontends": "auto", "models": ["b"], "watch": False, "slow_s": 0.02}
    assert Handle.asked[1:] == [("restart", 5.0, {**settings, "max_body_bytes": 1_000_000})]
    assert str(Handle.made["state_dir"]) == "s"


@pytest.mark.parametrize(
    ("error", "exits"),
    [(DaemonStartFailed("kept"), 1), (DaemonNotRunning("none"), 3), (TimedOut("slow"), 7), (KeyboardInterrupt(), 130)],
)
def test_restart_that_fails_has_its_exit_code(error: BaseException, exits: int) -> None:
    assert run("restart", exits=exits, restart=error).stdout == ""


def test_restart_stays_in_no_foreground() -> None:
    run("restart", "--foreground", exits=2)


def test_stop_says_whether_there_was_one() -> None:
    assert run("stop", "--drain", "5s", stop=True).stdout == "stopped\n"
    assert Handle.asked == [("stop", 5.0)]
    assert run("stop", stop=False).stdout == "no daemon was running\n"


def test_watch_prints_a_line_for_each_event() -> None:
    events = [{"time": "T", "event": "activated", "model": "digits", "reason": "a \x1b[2J b"}, {"event": "reloaded"}]
    assert run("watch", watch=events).stdout == "T activated model=digits reason='a \\x1b[2J b'\nreloaded\n"
    lines = run("watch", "--json", watch=events).stdout.splitlines()
    assert [json.loads(line) for line in lines] == events


def test_watch_that_is_interrupted_exits_130() -> None:
    run("watch", exits=130, watch=KeyboardInterrupt())


def test_reload_shows_changes_and_fails_when_a_version_failed() -> None:
    assert run("reload", reload={"changes": [], "failed": []}).stdout == "nothing changed\n"
    assert Handle.asked == [("reload", None, 600.0)]
    changes = [{"model": "digits", "version": "2"}]
    assert run("reload", "digits", reload={"changes": changes, "failed": []}).stdout == "model=digits version=2\n"
    report = {"changes": [], "failed": [{"model": "digits", "reason": "broken"}]}
    assert "FAILED model=digits reason=broken" in run("reload", exits=1, reload=report).stdout
    assert json.loads(run("reload", "--json", exits=1, reload=report).stdout) == report


def test_status_shows_roles_and_hides_no_fault() -> None:
    document = {**STATUS, "degraded": True, "reasons": ["version 2 of model digits could not be loaded"]}
    text = run("status", exits=8, status=document).stdout
    assert "DEGRADED" in text
    assert "fault      version 2 of model digits" in text
    assert "\x1b" not in text
    rows = [line.split() for line in text.splitlines() if line.startswith(("digits", "empty"))]
    assert rows[0] == ["digits", "1", "ready", "1/1", "7", "answers,", "alias", "stable", "-"]
    assert rows[1] == ["digits", "2", "quarantined", "0/1", "7", "active", "no\\x1b[2J"]
    assert rows[2][:4] == ["empty", "-", "not", "loaded"]


def test_status_that_is_well_exits_0_and_prints_the_document() -> None:
    assert json.loads(run("status", "--json", status=STATUS).stdout) == STATUS


def test_status_of_another_release_is_shown_as_far_as_it_goes() -> None:
    assert "state      ok" in status_text({})


@pytest.mark.parametrize(("pids", "is_told"), [([], True), ([17], False)])
def test_status_says_that_a_version_waits_for_its_turn_when_none_of_it_loads(pids: list[int], is_told: bool) -> None:
    one = {"version": "1", "state": "loading", "reason": None, "replicas_waiting": 2, "pids": pids}
    text = status_text({"models": {"digits": {"active": "1", "versions": [one]}}})
    assert ("waits for its turn to load" in text) is is_told
