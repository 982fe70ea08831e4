"""What all tests share: a private place for state, an account of what was skipped, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests import interpreted

MARK = "PYTEST_OF_CLIPPERFS"
"""Every process that a test starts inherits it, so that those which outlive the session are found."""

_leftovers: list[str] = []
_places: list[Path] = []

settings.register_profile("here", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_configure(config: pytest.Config) -> None:
    """Give the session a home of its own for state, caches and sockets, away from those of the user."""
    stale = interpreted.find_stale()
    if stale:
        pytest.exit(f"changed since they were compiled: {', '.join(stale)}. 'make test' compiles them again", 2)
    # Directly in /tmp: the path of a unix socket has at most 107 bytes.
    place = Path(tempfile.mkdtemp(prefix="cfs-", dir="/tmp"))
    _places.append(place)
    for name in [name for name in os.environ if name.startswith("CLIPPERFS_") and name != "CLIPPERFS_PROOF_SCALE"]:
        del os.environ[name]
    for name, folder in (
        ("XDG_STATE_HOME", "state"),
        ("XDG_CACHE_HOME", "cache"),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_RUNTIME_DIR", "run"),
    ):
        (place / folder).mkdir(mode=0o700)
        os.environ[name] = str(place / folder)
    os.environ[MARK] = uuid.uuid4().hex


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with a reason that the summary counts, what this machine cannot run."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")
    for mark in item.iter_markers("needs"):
        for program in mark.args:
            if shutil.which(program) is None:
                pytest.skip(f"needs the program {program}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End and report processes that a test left running: each is a bug of a test or of the code.

    Of several workers each has a mark of its own. They inherited that of the process that started them, and have ended
    when it comes here.
    """
    for pid, command in _started_processes():
        _leftovers.append(f"{pid}: {command}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _reap_daemons()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["leftovers"] = _leftovers
    if _leftovers and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    for place in _places:
        shutil.rmtree(place, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker has to report."""
    _leftovers.extend(getattr(node, "workeroutput", {}).get("leftovers", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the skipped tests by reason, and name the processes that were left behind."""
    reasons = Counter(_skip_reason(report) for report in terminalreporter.getreports("skipped"))
    if reasons:
        terminalreporter.section("skipped")
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"{count:4d}  {reason}")
    if _leftovers:
        terminalreporter.section("processes left running by tests (now ended)", red=True)
        for line in _leftovers:
            terminalreporter.line(line, red=True)


def _skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def _started_processes() -> list[tuple[int, str]]:
    """Return the living processes, other than this one, that carry this session's mark."""
    needle = f"{MARK}={os.environ.get(MARK)}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if needle in environment.split(b"\0") and "resource_tracker" not in command:
            found.append((int(entry.name), command[:200]))
    return found


def _reap_daemons() -> None:
    """Collect daemons that ended behind the back of the handle that started them (killed, or stopped from a shell).

    A program that goes on would reap them through its handles; at the end of this one they would each cost a warning.
    """
    daemon = sys.modules.get("clipperfs.daemon_process")
    for process in daemon.started.values() if daemon else ():
        process.poll()
