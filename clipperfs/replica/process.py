"""Starting and ending a replica process, together with every process that its wrapper starts."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

from clipperfs.errors import LoadFailed
from clipperfs.replica.spec import ReplicaSpec

ALLOWED_ENVIRONMENT = frozenset(
    {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"}
)
ALLOWED_PREFIXES = ("LC_", "SSL_CERT_")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ReplicaProcess:
    """A replica process and its process group.

    The exit of the process ends its whole group: whoever notices the exit through :meth:`poll` or :meth:`wait` also
    kills what the wrapper left behind, while the process id still belongs to the dead leader.

    Guarantees: nothing here blocks except :meth:`wait` and :meth:`terminate_group`. Not thread-safe.
    """

    def __init__(self, popen: subprocess.Popen[bytes], spec: ReplicaSpec, log_path: Path | None) -> None:
        self.spec = spec
        self.log_path = log_path
        self.started_at = time.monotonic()
        """When it was given its spec: a spare has been alive for longer."""
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self._close_pidfd = weakref.finalize(self, os.close, self._pidfd)

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its process group and session."""
        return self._popen.pid

    def pidfd(self) -> int:
        """Return a file descriptor that becomes readable when the process has ended (``loop.add_reader``).

        It belongs to this object: unregister it before :meth:`close`.
        """
        return self._pidfd

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal that killed it), or ``None`` while the process lives."""
        if self._popen.returncode is None and self._has_ended():
            self._signal_group(signal.SIGKILL)
            self._popen.wait()
        return self._popen.returncode

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the process to end, at most ``timeout_s`` seconds; return what :meth:`poll` returns."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if self._popen.returncode is None:
            poller.poll(max(0.0, timeout_s) * 1000)
        return self.poll()

    def terminate(self) -> None:
        """Ask the replica to finish its current batch and exit (SIGTERM to it alone). Does not wait."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)

    def terminate_group(self, grace_s: float) -> int | None:
        """Ask, wait up to ``grace_s`` seconds, then kill the group. Blocks; returns the exit code.

        ``None`` means that even a killed process has not gone after a second more (it hangs inside the kernel).
        """
        self.terminate()
        if self.wait(grace_s) is None:
            self.kill_group()
        return self.wait(1.0)

    def kill_group(self) -> None:
        """Kill the process and everything that it started in its group. Does not wait: see :meth:`pidfd`."""
        if self._popen.returncode is None:
            self._signal_group(signal.SIGKILL)

    def dump_stacks(self) -> None:
        """Make the process write the stacks of all its threads to its log. It dies of this (SIGABRT)."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGABRT)

    def close(self) -> None:
        """Kill what still lives, reap it, and release the descriptor. Idempotent."""
        self.kill_group()
        if self._close_pidfd.alive:
            self.wait(5.0)
        self._close_pidfd()

    def log_tail(self, size_bytes: int = 2000) -> str:
        """Return the last ``size_bytes`` of the log as text, whole lines; empty when there is none."""
        if self.log_path is None:
            return ""
        try:
            with self.log_path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(0, size - size_bytes))
                data = log.read(size_bytes)
        except OSError:
            return ""
        if size > size_bytes:
            data = data.partition(b"\n")[2] or data
        return data.decode("utf-8", "replace").strip()

    def trim_log(self, limit_bytes: int = 64 * 1024 * 1024) -> bool:
        """Empty a log that has grown past ``limit_bytes``; return whether it had. A tail stays as ``<log>.1``.

        The process goes on writing, because its descriptor appends; lines written at this very moment may be lost.
        """
        if self.log_path is None or not self.log_path.exists() or self.log_path.stat().st_size <= limit_bytes:
            return False
        kept = self.log_path.with_name(self.log_path.name + ".1")
        kept.write_text(self.log_tail(limit_bytes // 4) + "\n", encoding="utf-8")
        os.truncate(self.log_path, 0)
        return True

    def _has_ended(self) -> bool:
        """Say whether the process is a zombie, without reaping it: its id, and so its group's, stays reserved."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # reaped by somebody else; Popen then reports 0
            return True

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def spawn(spec: ReplicaSpec, *, log_path: Path | None = None, log_fd: int | None = None) -> ReplicaProcess:
    """Start a replica process; return at once, before it has connected.

    Its stdout and stderr are appended to ``log_path`` (made with mode 0600) or go to ``log_fd``, which should be a
    file: a pipe that nobody reads would stall a wrapper that prints a lot. With neither, they are dropped. It dies with
    the **thread** that calls this (so the kernel defines PR_SET_PDEATHSIG): call it from one that stays.

    Raises:
        LoadFailed: the process cannot be started.
    """
    with told_as_load_failed(spec), contextlib.ExitStack() as opened:
        stdin = open_spec(spec, opened)
        output = log_fd if log_path is None and log_fd is not None else open_log(log_path, opened)
        popen = start_host(stdin, output, spec.path, clean_environment(os.environ, spec.threads))
    return ReplicaProcess(popen, spec, log_path)


def start_host(stdin: int, output: int, folder: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start what becomes a replica: a leader of its own session, with nothing of ours but what is given here."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "clipperfs.replica.host", str(os.getpid())],
        stdin=stdin,
        stdout=output,
        stderr=output,
        cwd=folder,
        env=environment,
        close_fds=True,
        start_new_session=True,
    )


def open_spec(spec: ReplicaSpec, opened: contextlib.ExitStack) -> int:
    """Return a descriptor from which a replica reads its spec: a file, not a pipe, so writing never waits for it."""
    descriptor = os.memfd_create("clipperfs-spec")
    opened.callback(os.close, descriptor)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(spec.to_bytes())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def open_log(log_path: Path | None, opened: contextlib.ExitStack) -> int:
    """Return a descriptor that appends to a replica's log; without a path, one that drops everything."""
    path, mode = (os.devnull, os.O_WRONLY) if log_path is None else (log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    descriptor = os.open(path, mode | os.O_CLOEXEC, 0o600)
    opened.callback(os.close, descriptor)
    return descriptor


@contextlib.contextmanager
def told_as_load_failed(spec: ReplicaSpec) -> Iterator[None]:
    """Translate what the system says against a replica process. Raises LoadFailed."""
    try:
        yield
    except OSError as error:
        raise LoadFailed(
            f"the replica process of {spec.model}/{spec.version} cannot be started: {error}",
            hint="check that its files, memory and process limits are there",
        ) from error


def clean_environment(environment: Mapping[str, str], threads: int) -> dict[str, str]:
    """Return what a replica process may see of ``environment``: no credentials, nothing that steers Python."""
    kept = {
        name: value
        for name, value in environment.items()
        if name in ALLOWED_ENVIRONMENT or name.startswith(ALLOWED_PREFIXES)
    }
    return kept | dict.fromkeys(THREAD_VARIABLES, str(threads))


def exit_reason(code: int) -> str:
    """Say how a process ended: ``exited with code 3`` or ``was killed by SIGSEGV``."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
