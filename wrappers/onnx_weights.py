"""Finds the files that an ONNX model keeps its weights in, from its protobuf bytes alone. Pure.

A model may name any path as the place of its weights (CVE-2022-25882, CVE-2024-27318 and their successors in the onnx
package were escapes of this kind), and that package is no requirement of ours, so the wrapper looks for itself.
*Source*: onnx.proto, IR version 10; the wire format of protocol buffers.
"""

from __future__ import annotations

from collections.abc import Iterator

_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""The fields of each message on the way to a tensor's ``external_data`` entries."""

_MAX_DEPTH = 100


def weight_files(data: memoryview) -> set[str]:
    """Return every ``location`` in the model's external data. Raises ValueError when it is not a protobuf."""
    return set(_locations(data, "model", 0))


def _locations(data: memoryview, message: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    known = _FIELDS[message]
    for number, value in _length_delimited(data):
        kind = known.get(number)
        if kind == "entry":
            entry = dict(_length_delimited(value))
            if bytes(entry.get(1, b"")) == b"location":
                yield bytes(entry.get(2, b"")).decode("utf-8")
        elif kind is not None:
            yield from _locations(value, kind, depth + 1)


def _length_delimited(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and content of each length-delimited field; skip the others."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire_type = tag & 7
        if wire_type == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field is cut off")
            yield tag >> 3, data[at : at + size]
            at += size
        elif wire_type == 0:
            _, at = _varint(data, at)
        elif wire_type == 1:
            at += 8
        elif wire_type == 5:
            at += 4
        else:
            raise ValueError(f"wire type {wire_type}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
