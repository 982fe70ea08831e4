"""Progress: bars for large work on a terminal, silence everywhere else, any thread may report."""

from __future__ import annotations

import io
import threading
from types import SimpleNamespace

import pytest

from clipperfs.cli import progress
from clipperfs.cli.call import Call
from clipperfs.cli.progress import WORTH_A_BAR_BYTES, TerminalReporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    one = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=one))
    monkeypatch.setenv("TERM", "xterm")
    return one


def work(reporter: TerminalReporter, total_bytes: int, action: str = "publish digits") -> None:
    reporter.begin(action, total_bytes)
    for _ in range(4):
        reporter.advance(total_bytes // 4)
    reporter.end()


def test_large_work_on_a_terminal_draws_a_bar(terminal: Terminal) -> None:
    work(TerminalReporter(Call()), WORTH_A_BAR_BYTES)
    assert "publish digits" in terminal.getvalue()


def test_small_work_draws_nothing(terminal: Terminal) -> None:
    work(TerminalReporter(Call()), WORTH_A_BAR_BYTES - 1)
    assert terminal.getvalue() == ""


def test_nothing_is_drawn_under_json(terminal: Terminal) -> None:
    call = Call()
    call.json = True
    work(TerminalReporter(call), WORTH_A_BAR_BYTES)
    assert terminal.getvalue() == ""


def test_nothing_is_drawn_into_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    work(TerminalReporter(Call()), WORTH_A_BAR_BYTES)
    assert stream.getvalue() == ""


def test_hostile_action_and_markup_are_shown_as_they_are(terminal: Terminal) -> None:
    work(TerminalReporter(Call()), WORTH_A_BAR_BYTES, action="a\u202eb [bold]")
    assert "a\\u202eb [bold]" in terminal.getvalue()


def test_nested_work_ends_in_turn_and_a_second_bar_can_follow(terminal: Terminal) -> None:
    reporter = TerminalReporter(Call())
    reporter.begin("outer", WORTH_A_BAR_BYTES)
    work(reporter, 10)
    work(reporter, WORTH_A_BAR_BYTES, action="inner")
    reporter.end()
    work(reporter, WORTH_A_BAR_BYTES, action="next")
    reporter.end()  # one too many is harmless
    for action in ("outer", "inner", "next"):
        assert action in terminal.getvalue()


def test_threads_report_at_once(terminal: Terminal) -> None:
    reporter = TerminalReporter(Call())
    reporter.begin("copy", WORTH_A_BAR_BYTES)

    def report() -> None:
        for _ in range(100):
            reporter.advance(1000)

    threads = [threading.Thread(target=report) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reporter._progress is not None
    assert reporter._progress.tasks[0].completed == 400_000
    reporter.end()


def test_notes_are_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalReporter(Call()).note("look\x1b here")
    assert capsys.readouterr().err == "look\\x1b here\n"
