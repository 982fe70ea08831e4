"""Bars for long work, on a terminal only; notes as plain lines. Everything goes to stderr."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from clipperfs.cli.text import visible
from clipperfs.reporter import Reporter

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from clipperfs.cli.call import Call

WORTH_A_BAR_BYTES = 50_000_000


class TerminalReporter(Reporter):
    """Draws one bar for each piece of work that is large enough to wait for. Any thread may report."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._lock = threading.RLock()
        self._bars: list[TaskID | None] = []
        self._progress: Progress | None = None

    def begin(self, action: str, total_bytes: int) -> None:
        """Open a bar when the work is large and somebody watches."""
        with self._lock:
            is_worth_it = total_bytes >= WORTH_A_BAR_BYTES and not self._call.json and sys.stderr.isatty()
            self._bars.append(self._open().add_task(visible(action), total=total_bytes) if is_worth_it else None)

    def advance(self, size_bytes: int) -> None:
        """Move the bar of the work that began last."""
        with self._lock:
            bar = self._bars[-1] if self._bars else None
            if bar is not None and self._progress is not None:
                self._progress.advance(bar, size_bytes)

    def end(self) -> None:
        """Take the bar of the work that began last away."""
        with self._lock:
            bar = self._bars.pop() if self._bars else None
            if bar is not None and self._progress is not None:
                self._progress.remove_task(bar)
            if not any(bar is not None for bar in self._bars) and self._progress is not None:
                self._progress.stop()
                self._progress = None

    def note(self, message: str) -> None:
        """Print a line on stderr."""
        with self._lock:
            self._call.say(visible(message))

    def _open(self) -> Progress:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TimeRemainingColumn(),
                console=Console(file=sys.stderr),
                transient=True,
            )
            self._progress.start()
        return self._progress
