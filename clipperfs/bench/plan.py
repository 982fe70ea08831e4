"""What a load run sends, when, and what it keeps of each answer. Pure."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from clipperfs.documents.author import InputType

JSON_TYPE: Final = "application/json"
RAW_TYPE: Final = "application/octet-stream"
MAX_RATE = 200_000.0
FIRST_CONNECTIONS = 64
MOST_CONNECTIONS = 960
"""What the usual limit of 1,024 open files leaves room for."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One run. ``rate`` is in queries a second; an open loop keeps to it however slow the answers are."""

    host: str
    port: int
    path: str
    bodies: Sequence[bytes]
    """Complete request bodies, sent in turn."""
    rate: float
    seconds: float
    warm_up_s: float = 1.0
    connections: int | None = None
    """Exactly so many. None: as many as it takes; ``FIRST_CONNECTIONS`` to begin with, and one more for each query that
    finds none free, up to ``MOST_CONNECTIONS``. Fewer than the queries that are out at a time close the loop: what
    waits for a connection is out of the server's sight, and fills none of its batches."""
    timeout_s: float = 10.0
    poisson: bool = False
    """Random gaps, as independent clients have, instead of even ones."""
    seed: int = 1
    content_type: str = JSON_TYPE
    """What the bodies are: ``JSON_TYPE``, or ``RAW_TYPE``."""

    def __post_init__(self) -> None:
        if not 0 < self.rate <= MAX_RATE:
            raise ValueError(f"a rate is above 0 and at most {MAX_RATE:,.0f} queries a second")
        if self.seconds <= 0 or self.warm_up_s < 0:
            raise ValueError("a run takes some time")
        if not self.bodies or (self.connections is not None and self.connections < 1):
            raise ValueError("a run needs a body and a connection")

    @property
    def first_connections(self) -> int:
        """How many are opened before the first query."""
        return FIRST_CONNECTIONS if self.connections is None else self.connections

    @property
    def most_connections(self) -> int:
        """How many are open at most."""
        return MOST_CONNECTIONS if self.connections is None else self.connections

    def due_times(self) -> list[float]:
        """Return when each query is due, in seconds from the start, the warm-up's first."""
        span_s = self.warm_up_s + self.seconds
        if not self.poisson:
            return [number / self.rate for number in range(max(1, int(span_s * self.rate)))]
        source = random.Random(self.seed)  # noqa: S311  (gaps, not secrets)
        times: list[float] = []
        now = source.expovariate(self.rate)
        while now < span_s:
            times.append(now)
            now += source.expovariate(self.rate)
        return times or [0.0]


@dataclass(frozen=True, slots=True)
class Loss:
    """A connection that ended before the run did."""

    at_s: float
    """When, in seconds from the start of the run."""
    had_query: bool
    """Whether a query was out on it, which is then among the failures."""
    last_answer: bytes
    """The body of the last answer that came on it; empty when none did."""


@dataclass(slots=True)
class Sample:
    """What came of the queries of a run. Lists go together: one place for each answer, times in seconds."""

    due_s: list[float]
    latency_s: list[float]
    """From the moment the query was due, not from when it was sent: time spent waiting for a connection counts."""
    defaults: dict[str, int]
    """Default outputs, by their explanation."""
    failures: dict[str, int]
    """Queries without an answer, or with another status than 200, by what happened."""
    sent: int = 0
    connections: int = 0
    """How many were open at most."""
    waited: int = 0
    """Queries for which no connection was free, and no further one allowed or to be had."""
    unfinished: int = 0
    late_s: float = 0.0
    """How far the generator itself fell behind its schedule at worst."""
    elapsed_s: float = 0.0
    interrupted: bool = False
    default_number: bytearray = field(default_factory=bytearray)
    """For each answer 0 if it is a prediction, n if it is a default output with the nth explanation in ``defaults``."""
    losses: list[Loss] = field(default_factory=list)
    """Connections that were cut, the warm-up's too."""
    start_s: float = 0.0
    """When the run began, by ``time.perf_counter``."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply with status 200 or another, for whoever wants to see each of them."""

    due_s: float
    """When its query was due, on the clock of ``time.perf_counter``."""
    latency_s: float
    """From then on."""
    status: int
    version: str
    """What the header Clipperfs-Version says."""
    body: bytes


def empty_sample() -> Sample:
    """Return a sample of nothing."""
    return Sample([], [], {}, {})


def request_head(plan: LoadPlan, size: int) -> bytes:
    """Return the head of a request with a body of ``size`` bytes."""
    host = f"[{plan.host}]" if ":" in plan.host else plan.host
    return (
        f"POST {plan.path} HTTP/1.1\r\nHost: {host}:{plan.port}\r\nContent-Type: {plan.content_type}\r\n"
        f"Content-Length: {size}\r\n\r\n"
    ).encode("ascii")


def json_input(value: Any) -> bytes:
    """Return the body of a query with one input, as JSON."""
    return json.dumps({"input": value}, separators=(",", ":")).encode()


def raw_input(value: Any, input_type: InputType) -> bytes:
    """Return the body of a query with one input, given as in JSON, as its bytes. Raises InvalidInput."""
    from clipperfs.replica.encode import encode_input  # with numpy, which JSON does without

    return encode_input(value, input_type)[0]


def random_bodies(input_type: InputType, size: int, count: int, seed: int = 1, *, is_raw: bool = False) -> list[bytes]:
    """Return ``count`` different request bodies with inputs of ``size`` elements of an application's input type.

    Raw ones hold the same inputs as those in JSON.
    """
    source = random.Random(seed)  # noqa: S311  (inputs, not secrets)
    bodies = []
    for number in range(count):
        value: Any
        if input_type == "ints":
            value = [number, *(source.randrange(256) for _ in range(size - 1))]
        elif input_type in ("floats", "doubles"):
            value = [round(source.random(), 4) for _ in range(size)]
        elif input_type == "bytes":
            value = base64.b64encode(source.randbytes(size)).decode()
        else:
            value = f"{number} " + "x" * max(0, size - 8)
        bodies.append(raw_input(value, input_type) if is_raw else json_input(value))
    return bodies
