"""How hard a probe tries, what its writers write, and what the parent and its racers say to each other. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Effort = Literal["full", "quick"]
Role = Literal["writer", "reader"]

CONTENT_BYTES = 16 * 1024
"""Large enough that a write in several steps shows, small enough that it is one request everywhere."""


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """How many processes race, how often, and how long the slowest of them is waited for."""

    effort: Effort
    writers: int = 8
    readers: int = 2
    rounds: int = 64
    folder_rounds: int = 16
    single_calls: int = 16
    """Calls of one process without company, for latencies and for what must be visible at once."""
    round_timeout_s: float = 60.0
    start_timeout_s: float = 60.0


FULL = ProbePlan("full")
QUICK = ProbePlan("quick", rounds=12, folder_rounds=4, single_calls=6)
PLANS: dict[str, ProbePlan] = {"full": FULL, "quick": QUICK}


@dataclass(frozen=True, slots=True)
class Racer:
    """What a racer's process is told at its start."""

    opener: str
    """``module:function``: called with ``url``, it returns the store."""
    url: str
    role: Role
    number: int


@dataclass(frozen=True, slots=True)
class Order:
    """One round for one racer."""

    call: Literal["create", "rename_folder", "watch"]
    key: str
    start_ns: int
    """When to begin, on the monotonic clock that all processes of a host share."""
    give_up_s: float
    source: str = ""
    """The folder to be renamed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an order."""

    number: int
    outcome: Literal["won", "lost", "seen", "unseen", "error"]
    duration_ms: float
    detail: str = ""
    """The class of the error."""
    faults: list[str] = field(default_factory=list)
    """What a reader saw that must never be seen."""
    seen: str | None = None
    """The writer whose content a reader saw last."""


def content(nonce: str, writer: int) -> bytes:
    """Return what ``writer`` wants to put under a name: it tells whose it is, and whether it is whole."""
    body = f"{nonce} {writer}\n".encode().ljust(CONTENT_BYTES - 64, b".")
    return body + hashlib.sha256(body).hexdigest().encode()


def author_of(data: bytes) -> str | None:
    """Return the number of the writer of ``data``, or ``None`` when it is not exactly what one of them wrote."""
    body, seal = data[:-64], data[-64:]
    if len(data) != CONTENT_BYTES or hashlib.sha256(body).hexdigest().encode() != seal:
        return None
    return body.split(b"\n", 1)[0].split(b" ")[-1].decode()


def spell(message: Racer | Order | Answer) -> bytes:
    """Return one line."""
    return json.dumps(asdict(message)).encode() + b"\n"


def parse(kind: Any, line: bytes) -> Any:
    """Return the message in a line. Raises ValueError, TypeError."""
    return kind(**json.loads(line))
