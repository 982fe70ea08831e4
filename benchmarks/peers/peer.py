"""What a neighbour is to the benchmark: something to install, start, ask and stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class NotRun(Exception):
    """A neighbour could not be installed, started or trusted; the message is the reason that its row shows."""


class Peer(Protocol):
    """One server that the table compares. Started for one model at a time, alone on the machine."""

    name: str
    """What ``--peers`` calls it."""
    settings: str
    """How it is set up for the measurement, in a line."""

    def install(self) -> None:
        """Make it ready to start. Does nothing the second time.

        Raises:
            NotRun: it cannot be installed here.
        """

    def start(self, model: str, folder: Path) -> None:
        """Start serving ``model`` from an empty ``folder`` on loopback, and return when it answers.

        Raises:
            NotRun: it did not come up.
        """

    def stop(self) -> None:
        """End every process of it. Does nothing when it is not running."""

    @property
    def url(self) -> str:
        """Where the running server takes a POST of JSON."""

    @property
    def root_pid(self) -> int:
        """The process whose whole tree is the running server."""

    def body(self, features: Sequence[float]) -> bytes:
        """Return a request's body for one input."""

    def answer(self, reply: bytes) -> int:
        """Return the model's answer out of a reply's body.

        Raises:
            ValueError, LookupError, TypeError: the reply holds none.
        """

    def version(self) -> str:
        """Return the release that is installed."""


def as_json(document: Any) -> bytes:
    """Return a body without blanks, as a careful client sends it."""
    return json.dumps(document, separators=(",", ":")).encode()
