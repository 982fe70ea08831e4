"""``logs``: the daemon's log."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import click

from clipperfs.cli.call import Call
from clipperfs.cli.frame import command
from clipperfs.cli.text import visible
from clipperfs.errors import NotFound, StorageDenied

POLL_S = 0.2
CHUNK_BYTES = 64 * 1024
LINE_BYTES = 1024 * 1024


@command("logs", short_help="Show the daemon's log.", examples=["clipperfs logs", "clipperfs logs -f -n 100"])
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows, until Ctrl-C.")
@click.option(
    "-n", "--lines", "count", type=click.IntRange(min=0), default=50, show_default=True, help="The last N lines."
)
@click.option("--state-dir", type=click.Path(), help="The daemon's state folder.  [default: made of the registry]")
def logs(call: Call, follow: bool, count: int, state_dir: str | None) -> None:
    """Show the log of the daemon that serves this registry on this host."""
    from clipperfs.daemon_files import LOG_FILE, default_state_dir

    configured = call.settings(state_dir=state_dir).state_dir
    path = (configured or default_state_dir(call.registry_url())) / LOG_FILE
    for line in read_lines(path, count, follow=follow):
        text = line.decode(errors="backslashreplace")
        call.emit_line({"line": text}, visible(text, keep="\t"))


def read_lines(path: Path, count: int, *, follow: bool, poll_s: float = POLL_S) -> Iterator[bytes]:
    """Yield the last ``count`` lines of a log, then, if asked to, each new one; a log that was replaced starts anew.

    Raises:
        NotFound: there is no such file.
        StorageDenied: it belongs to somebody else.
    """
    try:
        file = path.open("rb")
    except PermissionError as error:
        raise StorageDenied(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
    except OSError as error:
        raise NotFound(
            f"no daemon has written a log at {path}", hint="start one with: clipperfs start", path=str(path)
        ) from error
    pause = threading.Event()
    try:
        partial = b""
        end = os.fstat(file.fileno()).st_size
        tail = _tail(file.fileno(), count, end)
        if tail and not tail[-1].endswith(b"\n") and follow:
            partial = tail.pop()
        yield from (line.rstrip(b"\r\n") for line in tail)
        file.seek(end)
        while follow:
            data = file.read(CHUNK_BYTES)
            if data:
                *whole, partial = (partial + data).split(b"\n")
                yield from (line.rstrip(b"\r") for line in whole)
                if len(partial) > LINE_BYTES:
                    yield partial
                    partial = b""
                continue
            if _was_replaced(path, file.fileno()):
                try:
                    fresh = path.open("rb")
                except FileNotFoundError:  # moved away just now; the new one is about to come
                    fresh = None
                if fresh is not None:
                    file.close()
                    file, partial = fresh, b""
                    continue
            pause.wait(poll_s)
    finally:
        file.close()


def _tail(descriptor: int, count: int, end: int) -> list[bytes]:
    """Return the last ``count`` lines before the offset ``end``.

    Reads backwards, so that a large log costs no more than what is shown.
    """
    at = end
    data = b""
    while at > 0 and data[:-1].count(b"\n") < count and count:
        step = min(CHUNK_BYTES, at)
        at -= step
        data = os.pread(descriptor, step, at) + data
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]  # what follows the last line end: a line that is still being written, or nothing
    return [line for line in lines if line][-count:] if count else []


def _was_replaced(path: Path, descriptor: int) -> bool:
    mine = os.fstat(descriptor)
    try:
        now = path.stat()
    except OSError:
        return False
    return (now.st_ino, now.st_dev) != (mine.st_ino, mine.st_dev) or now.st_size < os.lseek(descriptor, 0, os.SEEK_CUR)
