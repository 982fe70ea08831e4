"""Waits for a bucket's events on a thread of its own and has the registry looked at: a poll goes on all the same."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Protocol

from clipperfs import layout
from clipperfs.errors import StorageError
from clipperfs.layout import Subject
from clipperfs.names import name_problem

GATHER_S = 0.5
"""An upload of many files is many events; one look in this time answers them all."""
LONGEST_PAUSE_S = 60.0
"""The upper bound of the pause after failures; the first is a second."""


class Source(Protocol):
    """Where events come from."""

    def receive(self) -> list[str]:
        """Wait for events; return keys in the registry. Raises StorageError."""


class EventWaiter:
    """Passes on what events say, until stopped.

    Args:
        on_subject: a ledger has changed. Called on the waiter's thread, like the others.
        on_copy: something of a version has arrived: model and version.
        poke: called after some of the above.
    """

    def __init__(
        self,
        source: Source,
        *,
        on_subject: Callable[[Subject], None],
        on_copy: Callable[[str, str], None],
        poke: Callable[[], None],
    ) -> None:
        self.failure: str | None = None
        """Why events do not arrive at present."""
        self._source = source
        self._on_subject, self._on_copy, self._poke = on_subject, on_copy, poke
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to wait. The thread ends with the process: it may be waiting for the server."""
        threading.Thread(target=self._run, name="events", daemon=True).start()

    def stop(self) -> None:
        """Pass nothing on any more."""
        self._stopped.set()

    def _run(self) -> None:
        pause_s = 1.0
        while not self._stopped.is_set():
            try:
                keys = self._source.receive()
            except StorageError as error:
                self.failure = error.message
                self._stopped.wait(random.uniform(pause_s / 2, pause_s))  # noqa: S311
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            self.failure, pause_s = None, 1.0
            if not self._stopped.is_set() and self._tell(keys):
                self._poke()
                self._stopped.wait(GATHER_S)

    def _tell(self, keys: list[str]) -> bool:
        """Pass on what keys are about; say whether any of them matters."""
        matters = False
        for key in keys:
            subject, copy = read_key(key)
            if subject is not None:
                self._on_subject(subject)
            if copy is not None:
                self._on_copy(*copy)
            matters |= subject is not None or copy is not None or key.startswith(f"{layout.CHANGES}/")
        return matters


def read_key(key: str) -> tuple[Subject | None, tuple[str, str] | None]:
    """Return the ledger, and the copy, that a change of ``key`` is about. Pure."""
    kind, _, rest = key.partition("/")
    name, _, rest = rest.partition("/")
    folder, _, rest = rest.partition("/")
    if kind not in (layout.MODELS, layout.APPS) or name_problem(name) is not None:
        return None, None
    if folder == "log" and layout.slot_seq(rest) is not None:
        return Subject("model" if kind == layout.MODELS else "app", name), None
    version = rest.partition("/")[0]
    if kind == layout.MODELS and folder == "versions" and name_problem(version) is None:
        return None, (name, version)
    return None, None
