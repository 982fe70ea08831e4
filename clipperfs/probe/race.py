"""Processes that race: started, given one order at a time, and gone when the race is over, however it ends."""

from __future__ import annotations

import contextlib
import os
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

LAST_WORDS_S = 5.0
"""A process that has closed its stdout is given this long to end."""


class Runner:
    """One process of a race, with its own place for what it says on stderr: a shared one would mix their words."""

    def __init__(self, racer: Racer) -> None:
        self.racer = racer
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115  (a pipe that nobody reads would stop its writer)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "clipperfs.probe.racer"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
            )
        except OSError:
            self._messages.close()
            raise
        assert self.process.stdin is not None and self.process.stdout is not None
        self._stdin: IO[bytes] = self.process.stdin
        self.stdout: IO[bytes] = self.process.stdout
        self.tell(spell(racer))

    def tell(self, line: bytes) -> None:
        """Send one line; a process that has ended is noticed when its answer is missed."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(line)
            self._stdin.flush()

    def last_words(self) -> str:
        """Wait for the process's end; return the last line that it wrote to stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=LAST_WORDS_S)
        self._messages.seek(0)
        lines = self._messages.read(1 << 20).decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def close(self) -> None:
        """Reap the process, which has been killed; close what belongs to it."""
        self.process.wait()
        for stream in (self._stdin, self.stdout, self._messages):
            with contextlib.suppress(OSError):
                stream.close()


class Race:
    """Writers and readers in processes of their own."""

    def __init__(self, processes: list[Runner], plan: ProbePlan) -> None:
        self._processes = processes
        self._plan = plan
        self._rest: dict[int, bytes] = {}

    def run(self, order: Callable[[Racer, int], Order | None]) -> list[Answer]:
        """Give everybody their order for one round; return all answers. ``None``: this racer sits it out.

        Raises StorageUnavailable when somebody does not answer in time.
        """
        start_ns = time.monotonic_ns() + int(HEAD_START_S * 1e9)
        asked = []
        for runner in self._processes:
            wanted = order(runner.racer, start_ns)
            if wanted is not None:
                runner.tell(spell(wanted))
                asked.append(runner)
        lines = self._lines(asked, self._plan.round_timeout_s)
        return [parse(Answer, line) for line in lines]

    def wait_ready(self) -> None:
        """Wait until everybody has opened the store. Raises StorageError."""
        self._lines(self._processes, self._plan.start_timeout_s)

    def _lines(self, asked: list[Runner], timeout_s: float) -> list[bytes]:
        """Return one line of each process. Raises StorageError, StorageUnavailable."""
        waiting = {runner.stdout.fileno(): runner for runner in asked}
        poller = select.poll()
        for descriptor in waiting:
            poller.register(descriptor, select.POLLIN)
        lines = []
        deadline_s = time.monotonic() + timeout_s
        while waiting:
            ready = poller.poll(max(0.0, deadline_s - time.monotonic()) * 1000)
            if not ready:
                raise StorageUnavailable(
                    f"{len(waiting)} of {len(asked)} racing processes had no answer within {timeout_s:.0f} s",
                    hint="check that the filesystem answers, then probe again",
                )
            for descriptor, _ in ready:
                data = os.read(descriptor, 65536)
                self._rest[descriptor] = self._rest.get(descriptor, b"") + data
                if not data:
                    raise StorageError(f"a racing process ended: {waiting[descriptor].last_words()}")
                if self._rest[descriptor].endswith(b"\n"):  # it says one line, then waits for the next order
                    lines.append(self._rest.pop(descriptor))
                    poller.unregister(descriptor)
                    del waiting[descriptor]
        return lines


@contextmanager
def open_race(opener: str, url: str, plan: ProbePlan) -> Iterator[Race]:
    """Start the processes; end them afterwards, also after an error or an interrupt. Raises StorageError."""
    started: list[Runner] = []
    try:
        for number in range(plan.writers + plan.readers):
            started.append(Runner(Racer(opener, url, "writer" if number < plan.writers else "reader", number)))
        race = Race(started, plan)
        race.wait_ready()
        yield race
    finally:
        for runner in started:
            runner.process.kill()
        for runner in started:
            runner.close()
