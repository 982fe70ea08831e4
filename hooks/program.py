"""Runs a program for the ``command`` hook: bounded output, and nothing of its process group left afterwards."""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_STDOUT_BYTES = 256 * 1024
MAX_STDERR_BYTES = 64 * 1024
_READ_BYTES = 1 << 20
_FIRST_LINE_BYTES = 256
"""What Linux reads of a script to find its interpreter."""
_PR_SET_PDEATHSIG = 1

_prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec nothing may be loaded


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended and what it said."""

    status: int
    """Its exit status; negative: the signal that killed it."""
    stdout: bytes
    """At most ``MAX_STDOUT_BYTES`` + 1 of it."""
    stderr: bytes
    """The end of it."""

    @property
    def is_flood(self) -> bool:
        """Say whether it wrote more to standard output than is read."""
        return len(self.stdout) > MAX_STDOUT_BYTES


def command_line(program: Path, arguments: Sequence[str]) -> list[str]:
    """Return how to run a program: by its name, or by the interpreter of a script that lacks the executable bit.

    Object stores keep no such bit, and so a script that was copied there by another tool arrives without it. Its first
    line still says what runs it, by the kernel's own rule: ``#!``, a path, at most one argument.
    """
    plain = [str(program), *arguments]
    if os.access(program, os.X_OK):
        return plain
    try:
        with program.open("rb") as script:
            line = script.readline(_FIRST_LINE_BYTES)
    except OSError:
        return plain  # running it says what is wrong
    interpreter = os.fsdecode(line[2:].strip()).split(maxsplit=1) if line.startswith(b"#!") else []
    return [*interpreter, *plain] if interpreter else plain


def run_program(argv: Sequence[str], stdin: bytes, *, folder: Path, environment: Mapping[str, str]) -> Ended:
    """Run ``argv`` in ``folder`` until it ends. What it leaves running in its process group is then killed.

    Raises:
        OSError: it cannot be started (not executable, an interpreter that is not there).
    """
    with open(os.memfd_create("clipperfs-command"), "w+b") as request:  # a file: a program need not read it
        request.write(stdin)
        request.seek(0)
        process = subprocess.Popen(
            argv,
            stdin=request,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=dict(environment),
            process_group=0,
            preexec_fn=_die_with_parent,
        )
    assert process.stdout is not None and process.stderr is not None
    stdout, stderr = bytearray(), bytearray()
    pidfd = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            for stream in (process.stdout, process.stderr):
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ)
            selector.register(pidfd, selectors.EVENT_READ)
            has_ended = False
            while not has_ended:
                ready = [key.fileobj for key, _ in selector.select()]
                has_ended = pidfd in ready  # what it wrote before is in the pipes, which hold less than one read
                for stream, kept in ((process.stdout, stdout), (process.stderr, stderr)):
                    if (stream in ready or has_ended) and not _read(stream.fileno(), kept) and not has_ended:
                        selector.unregister(stream)
                del stderr[:-MAX_STDERR_BYTES]
                del stdout[MAX_STDOUT_BYTES + 1 :]
    finally:
        os.close(pidfd)
        # Before it is waited for: until then the number of its group cannot be given to another.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        status = process.wait()
        process.stdout.close()
        process.stderr.close()
    return Ended(status, bytes(stdout), bytes(stderr))


def _read(descriptor: int, into: bytearray) -> bool:
    """Append what is there; return ``False`` at the end of the stream."""
    try:
        data = os.read(descriptor, _READ_BYTES)
    except BlockingIOError:
        return True
    into += data
    return bool(data)


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
