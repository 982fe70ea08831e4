"""The prediction cache: outputs by version and packed input, bounded in bytes, with S3-FIFO to choose what goes.

Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023. What was compared, and why this one:
docs/decisions/cache_eviction.md.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

ENTRY_BYTES: Final = 370
"""What an entry costs beside its key and its output: two bytes objects, a list, a place in a dict and in a queue, and a
ghost (measured)."""
SMALL_SHARE: Final = 10
"""One part in so many is for outputs that have been asked for once."""
USES_KEPT: Final = 3
"""An output in the main part survives at most so many turns of its queue without being asked for again."""


class PredictionCache:
    """Keys are ``prefix + packed input``; the prefix stands for a manifest digest and an input type. Outputs are JSON.

    A new output enters a small queue; at its end it goes on to the main queue if it was asked for again, else it is
    dropped and only its hash is remembered for a while (a ghost). What is put back while it is a ghost enters the main
    queue at once. A hit costs no move in a queue.

    Guarantees: the sum of keys, outputs and ``ENTRY_BYTES`` each never exceeds ``max_bytes``; what would take more than
    a quarter of that is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._small_limit = max_bytes // SMALL_SHARE
        self._small_bytes = 0
        self._outputs: dict[bytes, list[Any]] = {}
        """An output and how often it was asked for since it last came to the end of its queue."""
        self._small: deque[bytes] = deque()
        self._main: deque[bytes] = deque()
        self._ghosts: set[int] = set()
        self._old_ghosts: set[int] = set()

    def __len__(self) -> int:
        return len(self._outputs)

    def get(self, key: bytes) -> bytes | None:
        """Return the output, or None."""
        entry = self._outputs.get(key)
        if entry is None:
            self.misses += 1
            return None
        entry[1] += 1
        self.hits += 1
        output: bytes = entry[0]
        return output

    def put(self, key: bytes, output: bytes) -> None:
        """Keep an output. The first one for a key stays: equal inputs of one version have equal outputs."""
        size = len(key) + len(output) + ENTRY_BYTES
        if key in self._outputs or size * 4 > self.max_bytes:
            return
        while self.size_bytes + size > self.max_bytes:
            self._evict()
        self._outputs[key] = [output, 0]
        self.size_bytes += size
        mark = hash(key)
        if mark in self._ghosts or mark in self._old_ghosts:
            self._main.append(key)
        else:
            self._small.append(key)
            self._small_bytes += size

    def _evict(self) -> None:
        """Drop one output."""
        small, main = self._small, self._main
        if self._small_bytes > self._small_limit or not main:
            while small:
                key = small.popleft()
                entry = self._outputs[key]
                self._small_bytes -= len(key) + len(entry[0]) + ENTRY_BYTES
                if entry[1]:
                    entry[1] = 0
                    main.append(key)
                else:
                    self._drop(key, entry)
                    self._remember(hash(key))
                    return
        while True:
            key = main.popleft()
            entry = self._outputs[key]
            if not entry[1]:
                self._drop(key, entry)
                return
            entry[1] = min(entry[1], USES_KEPT) - 1
            main.append(key)

    def _drop(self, key: bytes, entry: list[Any]) -> None:
        del self._outputs[key]
        self.size_bytes -= len(key) + len(entry[0]) + ENTRY_BYTES
        self.evictions += 1

    def _remember(self, mark: int) -> None:
        """Keep a ghost; about as many are kept as there are outputs, in two generations instead of in a queue."""
        self._ghosts.add(mark)
        if len(self._ghosts) * 2 > len(self._outputs):
            self._old_ghosts = self._ghosts
            self._ghosts = set()

    def snapshot(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "evictions": self.evictions,
            "entries": len(self._outputs),
            "bytes": self.size_bytes,
        }


def cache_prefix(manifest_digest: str, settings: str, input_type: str) -> bytes:
    """Return what stands before the packed input in a key: all that decides what a model answers to it.

    ``settings`` tells one set of settings that the manifest leaves out from another.
    """
    return f"{manifest_digest}:{settings}:{input_type}:".encode("ascii")
