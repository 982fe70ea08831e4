"""Processes that race: started, given one order at a time, and gone when the race is over, however it ends."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from clipperfs.errors import StorageError, StorageUnavailable
from clipperfs.probe.plan import Answer, Order, ProbePlan, Racer, parse, spell

HEAD_START_S = 0.005
"""Time for an order to reach everybody before anybody begins."""


class Race:
    """Writers and readers in processes of their own."""

    def __init__(
        self, processes: list[tuple[Racer, subprocess.Popen[bytes]]], plan: ProbePlan, messages: IO[bytes]
    ) -> None:
        self._processes = processes
        self._plan = plan
        self._messages = messages
        self._rest: dict[int, bytes] = {}

    def run(self, order: Callable[[Racer, int], Order | None]) -> list[Answer]:
        """Give everybody their order for one round; return all answers. ``None``: this racer sits it out.

        Raises StorageUnavailable when somebody does not answer in time.
        """
        start_ns = time.monotonic_ns() + int(HEAD_START_S * 1e9)
        asked = []
        for racer, process in self._processes:
            wanted = order(racer, start_ns)
            if wanted is not None:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # it is missed below
                    process.stdin.write(spell(wanted))
                    process.stdin.flush()
                asked.append(process)
        lines = self._lines(asked, self._plan.round_timeout_s)
        return [parse(Answer, line) for line in lines]

    def wait_ready(self) -> None:
        """Wait until everybody has opened the store. Raises StorageError."""
        self._lines([process for _, process in self._processes], self._plan.start_timeout_s)

    def _lines(self, processes: list[subprocess.Popen[bytes]], timeout_s: float) -> list[bytes]:
        """Return one line of each process. Raises StorageError, StorageUnavailable."""
        waiting = {process.stdout.fileno(): process for process in processes if process.stdout is not None}
        poller = select.poll()
        for descriptor in waiting:
            poller.register(descriptor, select.POLLIN)
        lines = []
        deadline_s = time.monotonic() + timeout_s
        while waiting:
            ready = poller.poll(max(0.0, deadline_s - time.monotonic()) * 1000)
            if not ready:
                raise StorageUnavailable(
                    f"{len(waiting)} of {len(processes)} racing processes had no answer within {timeout_s:.0f} s",
                    hint="check that the filesystem answers, then probe again",
                )
            for descriptor, _ in ready:
                process = waiting[descriptor]
                assert process.stdout is not None
                data = process.stdout.read1(65536)  # type: ignore[attr-defined]
                self._rest[descriptor] = self._rest.get(descriptor, b"") + data
                if not data:
                    raise StorageError(f"a racing process ended: {self._last_words()}")
                if self._rest[descriptor].endswith(b"\n"):  # it says one line, then waits for the next order
                    lines.append(self._rest.pop(descriptor))
                    poller.unregister(waiting.pop(descriptor).stdout)  # type: ignore[arg-type]
        return lines

    def _last_words(self) -> str:
        """Return the last line that any of the processes wrote to stderr."""
        self._messages.seek(0)
        lines = self._messages.read(1 << 20).decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"


@contextmanager
def open_race(opener: str, url: str, plan: ProbePlan) -> Iterator[Race]:
    """Start the processes; end them afterwards, also after an error or an interrupt. Raises StorageError."""
    command = [sys.executable, "-P", "-m", "clipperfs.probe.racer"]
    started: list[tuple[Racer, subprocess.Popen[bytes]]] = []
    messages = tempfile.TemporaryFile()  # noqa: SIM115  (closed below; a pipe that nobody reads would stop its writers)
    try:
        for number in range(plan.writers + plan.readers):
            racer = Racer(opener, url, "writer" if number < plan.writers else "reader", number)
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages)
            started.append((racer, process))
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(spell(racer))
                process.stdin.flush()
        race = Race(started, plan, messages)
        race.wait_ready()
        yield race
    finally:
        for _, process in started:
            process.kill()
        for _, process in started:
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        messages.close()
