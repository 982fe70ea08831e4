"""The references as processes: nginx with a constant reply, and the raw echo. Each is a target that can be loaded."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.echo import BODY
from benchmarks.machine import process_tree
from benchmarks.tools import require_tool

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Target:
    """A server under measurement: where it answers, and whose processor time counts as its own."""

    name: str
    url: str
    root_pid: int
    check: Callable[[bytes], None]
    """Raises AssertionError when a reply's body is not the one expected: a fast wrong answer is no result."""

    def pids(self) -> list[int]:
        """Return the server's processes."""
        return process_tree(self.root_pid)


def expect_fixed(body: bytes) -> None:
    """Check a reference's reply."""
    assert body == BODY, body


@contextlib.contextmanager
def run_echo() -> Iterator[Target]:
    """Run the raw echo in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.echo"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield Target("echo", f"http://127.0.0.1:{port}/", process.pid, expect_fixed)
    finally:
        _end(process)


@contextlib.contextmanager
def run_nginx(folder: Path) -> Iterator[Target]:
    """Run nginx with one worker and a constant reply, its files in ``folder``."""
    program, port = require_tool("nginx"), free_port()
    folder.mkdir(parents=True)
    places = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"""
        daemon off;
        worker_processes 1;
        pid {folder}/pid;
        error_log {folder}/error.log warn;
        {"user root;" if os.geteuid() == 0 else ""}
        events {{ worker_connections 1024; }}
        http {{
            access_log off;
            keepalive_requests 1000000000;
            default_type application/json;
            {places}
            server {{
                listen 127.0.0.1:{port};
                location / {{ return 200 '{BODY.decode()}'; }}
            }}
        }}
        """
    )
    process = subprocess.Popen(
        [program, "-c", configuration, "-p", folder, "-e", folder / "error.log"], stdin=subprocess.DEVNULL
    )
    try:
        target = Target("nginx", f"http://127.0.0.1:{port}/", process.pid, expect_fixed)
        _wait_until_answering(target, process)
        yield target
    finally:
        _end(process)


def post(url: str, body: bytes, *, timeout_s: float = 10) -> tuple[bytes, dict[str, str]]:
    """Send one query on a connection of its own; return the body and the headers of the reply."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout_s) as reply:
        return reply.read(), dict(reply.headers.items())


def _wait_until_answering(target: Target, process: subprocess.Popen[bytes], wait_s: float = 10) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            target.check(post(target.url, b"[]", timeout_s=1)[0])
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{target.name} does not answer: {error}") from error
            time.sleep(0.02)


def free_port() -> int:
    """Return a TCP port of loopback that nobody listens on now, for servers that cannot ask the system themselves."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
