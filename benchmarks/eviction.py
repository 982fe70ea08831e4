"""Hit rates and cost of cache eviction rules on Zipf traces: why the prediction cache has the one it has."""

from __future__ import annotations

import random
import time
from bisect import bisect_left
from collections import OrderedDict, deque
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from clipperfs.serverd.cache import ENTRY_BYTES, PredictionCache

from benchmarks.table import render_table

KEY_BYTES = 32
OUTPUT = b"1"


@dataclass(frozen=True, slots=True)
class Plan:
    """``keys`` different inputs, ``requests`` in a trace, caches of ``sizes`` entries."""

    keys: int = 100_000
    requests: int = 400_000
    sizes: tuple[int, ...] = (1_000, 10_000)
    seed: int = 1


QUICK = Plan(keys=5_000, requests=20_000, sizes=(200,))


class Cache(Protocol):
    """What is compared."""

    def get(self, key: bytes) -> bytes | None:
        """Return the output, or None."""

    def put(self, key: bytes, output: bytes) -> None:
        """Keep an output."""


class Lru:
    """The least recently used goes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._outputs: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, key: bytes) -> bytes | None:
        """Return the output, or None."""
        output = self._outputs.get(key)
        if output is not None:
            self._outputs.move_to_end(key)
        return output

    def put(self, key: bytes, output: bytes) -> None:
        """Keep an output."""
        self._outputs[key] = output
        if len(self._outputs) > self._size:
            self._outputs.popitem(last=False)


class Clock:
    """A FIFO with a second chance (CLOCK), as in Clipper."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._outputs: dict[bytes, list[Any]] = {}
        self._queue: deque[bytes] = deque()

    def get(self, key: bytes) -> bytes | None:
        """Return the output, or None."""
        entry = self._outputs.get(key)
        if entry is None:
            return None
        entry[1] = True
        output: bytes = entry[0]
        return output

    def put(self, key: bytes, output: bytes) -> None:
        """Keep an output."""
        self._outputs[key] = [output, False]
        self._queue.append(key)
        while len(self._outputs) > self._size:
            oldest = self._queue.popleft()
            if self._outputs[oldest][1]:
                self._outputs[oldest][1] = False
                self._queue.append(oldest)
            else:
                del self._outputs[oldest]


class _Node:
    __slots__ = ("is_visited", "key", "newer", "older", "output")

    def __init__(self, key: bytes, output: bytes, older: _Node | None) -> None:
        self.key, self.output, self.older = key, output, older
        self.newer: _Node | None = None
        self.is_visited = False


class Sieve:
    """Source: Zhang et al., "SIEVE is simpler than LRU", NSDI 2024, algorithm 1."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._nodes: dict[bytes, _Node] = {}
        self._newest: _Node | None = None
        self._oldest: _Node | None = None
        self._hand: _Node | None = None

    def get(self, key: bytes) -> bytes | None:
        """Return the output, or None."""
        node = self._nodes.get(key)
        if node is None:
            return None
        node.is_visited = True
        return node.output

    def put(self, key: bytes, output: bytes) -> None:
        """Keep an output."""
        if len(self._nodes) >= self._size:
            self._evict()
        node = self._nodes[key] = _Node(key, output, self._newest)
        if self._newest is not None:
            self._newest.newer = node
        self._newest = node
        self._oldest = self._oldest or node

    def _evict(self) -> None:
        node = self._hand or self._oldest
        assert node is not None
        while node.is_visited:
            node.is_visited = False
            node = node.newer or self._oldest
            assert node is not None
        self._hand = node.newer
        if node.newer is not None:
            node.newer.older = node.older
        else:
            self._newest = node.older
        if node.older is not None:
            node.older.newer = node.newer
        else:
            self._oldest = node.newer
        del self._nodes[node.key]


def run_eviction(folder: Path, plan: Plan) -> dict[str, Any]:
    """Return hit rates and nanoseconds of CPU a request for each rule, trace and size."""
    rows = []
    for name, trace in _traces(plan):
        keys = [b"%0*d" % (KEY_BYTES, number) for number in trace]
        for size in plan.sizes:
            rules: list[tuple[str, Cache]] = [
                ("LRU", Lru(size)),
                ("CLOCK", Clock(size)),
                ("SIEVE", Sieve(size)),
                ("S3-FIFO (ours)", PredictionCache(size * (KEY_BYTES + len(OUTPUT) + ENTRY_BYTES))),
            ]
            for rule, cache in rules:
                rows.append({"trace": name, "entries": size, "rule": rule, **_replay(cache, keys)})
    return {"plan": {"keys": plan.keys, "requests": plan.requests}, "rows": rows}


def render_eviction(results: dict[str, Any]) -> str:
    """Return the results as a table: a line for each trace and size, a column for each rule."""
    rules = list(dict.fromkeys(row["rule"] for row in results["rows"]))
    lines: dict[tuple[str, int], list[str]] = {}
    for row in results["rows"]:
        line = lines.setdefault((row["trace"], row["entries"]), [row["trace"], f"{row['entries']:,}"])
        line.append(f"{row['hit_rate']:.3f} ({row['cpu_ns']:.0f} ns)")
    plan = results["plan"]
    head = f"Hit rate (CPU a request), {plan['requests']:,} requests for {plan['keys']:,} inputs\n\n"
    return head + render_table(["trace", "entries", *rules], list(lines.values()))


def _replay(cache: Cache, keys: list[bytes]) -> dict[str, float]:
    hits = 0
    began_s = time.process_time()
    for key in keys:
        if cache.get(key) is not None:
            hits += 1
        else:
            cache.put(key, OUTPUT)
    cpu_s = time.process_time() - began_s
    return {"hit_rate": hits / len(keys), "cpu_ns": cpu_s / len(keys) * 1e9}


def _traces(plan: Plan) -> list[tuple[str, list[int]]]:
    source = random.Random(plan.seed)
    traces = [(f"Zipf {skew}", _zipf(source, skew, plan)) for skew in (0.7, 0.9, 1.1)]
    steady = traces[1][1]
    once = iter(range(plan.keys, plan.keys + plan.requests))
    traces.append(("Zipf 0.9, 30 % once", [next(once) if source.random() < 0.3 else key for key in steady]))
    step = max(1, plan.requests // 10)
    traces.append(
        ("Zipf 0.9, drifting", [(key + index // step * 7919) % plan.keys for index, key in enumerate(steady)])
    )
    return traces


def _zipf(source: random.Random, skew: float, plan: Plan) -> list[int]:
    sums = list(accumulate(1 / rank**skew for rank in range(1, plan.keys + 1)))
    return [bisect_left(sums, source.random() * sums[-1]) for _ in range(plan.requests)]
