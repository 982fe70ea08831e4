"""The prediction cache: outputs by version and packed input, the least recently used thrown out, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

ENTRY_BYTES: Final = 200
"""What an entry costs beside its key and its output (two bytes objects and a link of the dict, measured)."""


class PredictionCache:
    """Keys are ``prefix + packed input``; the prefix stands for a manifest digest and an input type. Outputs are JSON.

    Guarantees: the sum of keys, outputs and ``ENTRY_BYTES`` each never exceeds ``max_bytes``; what would take more than
    a quarter of that is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._outputs: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._outputs)

    def get(self, key: bytes) -> bytes | None:
        """Return the output, or None."""
        output = self._outputs.get(key)
        if output is None:
            self.misses += 1
            return None
        self._outputs.move_to_end(key)
        self.hits += 1
        return output

    def put(self, key: bytes, output: bytes) -> None:
        """Keep an output. The first one for a key stays: equal inputs of one version have equal outputs."""
        outputs = self._outputs
        size = len(key) + len(output) + ENTRY_BYTES
        if key in outputs or size * 4 > self.max_bytes:
            return
        outputs[key] = output
        self.size_bytes += size
        while self.size_bytes > self.max_bytes:
            old_key, old_output = outputs.popitem(last=False)
            self.size_bytes -= len(old_key) + len(old_output) + ENTRY_BYTES
            self.evictions += 1

    def snapshot(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "evictions": self.evictions,
            "entries": len(self._outputs),
            "bytes": self.size_bytes,
        }


def cache_prefix(manifest_digest: str, input_type: str) -> bytes:
    """Return what stands before the packed input in a key."""
    return f"{manifest_digest}:{input_type}:".encode("ascii")
