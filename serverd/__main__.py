"""``python -m clipperfs.serverd``: a daemon in the foreground, its settings as JSON on stdin, its log on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import logging
import os
import resource
import signal
import sys
from typing import Any, NoReturn

from clipperfs.serverd import take_over
from clipperfs.serverd.controller import Controller
from clipperfs.serverd.heap import share_one_arena
from clipperfs.serverd.settings import DaemonSettings, parse_settings
from clipperfs.serverd.statedir import StateDir
from clipperfs.serverd.take_over import Offer

from clipperfs.errors import ClipperfsError

LOG = logging.getLogger("clipperfs.serverd")
FILES = 16_384


def main() -> NoReturn:
    """Run a daemon until it is told to stop. Exit codes: 0 stopped, 1 could not start or failed."""
    share_one_arena()
    faulthandler.enable()
    _set_up_log()
    _raise_file_limit()
    code = 0
    tell = _nobody
    try:
        given = sys.stdin.buffer.read()
        _settle_stdin()
        tell = _Starter(_ready_fd(given)).tell
        settings = parse_settings(given)
        state = StateDir(settings.state_dir)
        offer = None
        if settings.takes_over is None:
            state.acquire()
        else:
            offer = take_over.ask(settings.takes_over)
            state.join(offer.lock)
        try:
            asyncio.run(_live(settings, state, tell, offer))
        finally:
            state.release()
    except ClipperfsError as error:
        LOG.error("%s", error)
        tell({"state": "failed", "error": error.as_document()})
        code = 1
    except Exception as error:
        LOG.exception("the daemon failed")
        tell(
            {"state": "failed", "error": {"error": "DaemonStartFailed", "message": f"{type(error).__name__}: {error}"}}
        )
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread that waits for a storage that hangs must not hold up the end


async def _live(settings: DaemonSettings, state: StateDir, tell: Any, offer: Offer | None) -> None:
    await Controller(settings, state, tell, offer).run()


class _Starter:
    """Whoever started the daemon, as long as it reads."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)

    def tell(self, word: dict[str, Any]) -> None:
        """Pass on a JSON object; after ``ready`` and ``failed`` there is nothing more to tell."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):
            os.write(self._descriptor, json.dumps(word, default=str).encode() + b"\n")
        if word.get("state") in ("ready", "failed"):
            os.close(self._descriptor)
            self._descriptor = None


def _ready_fd(given: bytes) -> int | None:
    """Return where the starter listens, also when the settings as a whole turn out to be wrong."""
    with contextlib.suppress(ValueError, AttributeError):
        descriptor = json.loads(given).get("ready_fd")
        return descriptor if type(descriptor) is int and descriptor > 2 else None
    return None


def _nobody(word: dict[str, Any]) -> None:
    """Stand in for a starter that could not be found out."""


def _settle_stdin() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def _raise_file_limit() -> None:
    """Take as many descriptors as are allowed, within reason: the frontends inherit it, and each client needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _set_up_log() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True
    )


if __name__ == "__main__":
    main()
