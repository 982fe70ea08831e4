"""Large JSON bodies, read a piece in each turn of the loop, so that other clients are answered in between.

Reading 100 MB of JSON takes a second, and neither a thread nor a library that keeps the interpreter's lock makes that
short for others. A long list of numbers, or a long base64 text, can be cut at places that are safe whatever it holds:
each piece is then read by the very codec that would read the whole, so that what is accepted does not depend on it.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from clipperfs.wire import Body, Packed

from .query import MAX_BATCH_INPUTS, QUERY_ERROR, REFUSALS, BadQueryError, InputCodec

LARGE_BYTES: Final = 256 * 1024
"""Shorter bodies are read at once: some 2 ms (measured)."""
PIECE_BYTES: Final = 64 * 1024
"""What is read in one turn of the loop. A multiple of 4, so that base64 can be cut there."""
NUMBER_BYTES: Final = 4096
"""After a piece a comma must come within this: no number is longer."""
TAIL_BYTES: Final = 4096
"""What may follow the inputs: a version, a key."""
HEAD: Final = re.compile(
    rb"[ \t\r\n]{0,64}\{[ \t\r\n]{0,64}"
    rb'(?:"(?:version|key)"[ \t\r\n]{0,64}:[ \t\r\n]{0,64}"[^"\\]{0,256}"[ \t\r\n]{0,64},[ \t\r\n]{0,64}){0,4}'
    rb'"(input|input_batch)"[ \t\r\n]{0,64}:[ \t\r\n]{0,64}'
)
SPACE: Final = re.compile(rb"[ \t\r\n]{0,64}")


@dataclass(frozen=True, slots=True)
class PiecewiseQuery:
    """What a large body says: one packed input or several, and the fields beside them."""

    inputs: Packed | list[Packed]
    version: str | None
    key: str | None


Reading: TypeAlias = Generator[None, None, PiecewiseQuery | None]
"""Yields between two pieces. Ends with what the body says, or with None: the codec has to read it in one go.

Raises BadQueryError for a body that says nothing.
"""
Outcome: TypeAlias = PiecewiseQuery | BadQueryError | None


def read_pieces(body: Body, codec: InputCodec) -> Reading:
    """Read a body of numbers or of base64, piece by piece. Pure but for the time that passes between two pieces."""
    head = HEAD.match(body)
    if head is None or codec.input_type == "strings":
        return None
    is_batch = head[1] == b"input_batch"
    read = _read_base64 if codec.input_type == "bytes" else _read_numbers
    start = head.end()
    inputs: list[Packed] = []
    at = start
    if is_batch:
        if body[at : at + 1] != b"[":
            return None
        done = at
        at += 1
        while True:
            at = _skip_space(body, at)
            packed: Any = bytearray()
            at = yield from read(body, at, codec, packed)
            if at < 0:
                return None
            inputs.append(packed)
            if len(inputs) > MAX_BATCH_INPUTS:
                raise BadQueryError(QUERY_ERROR, f"input_batch must not have more than {MAX_BATCH_INPUTS} elements")
            at = _skip_space(body, at)
            follows = body[at : at + 1]
            at += 1
            if follows == b"]":
                break
            if follows != b",":
                return None
            if at - done > PIECE_BYTES:
                done = at
                yield
    else:
        packed = bytearray()  # large: handed on as it is
        at = yield from read(body, at, codec, packed)
        if at < 0:
            return None
        inputs.append(packed)
    fields = _read_fields(body, start, at, codec, is_batch)
    if fields is None:
        return None
    return PiecewiseQuery(inputs if is_batch else inputs[0], *fields)


def _read_fields(
    body: Body, start: int, end: int, codec: InputCodec, is_batch: bool
) -> tuple[str | None, str | None] | None:
    """Return the version and the key of a body whose inputs lie between two places; None where that is not all."""
    tail = body[end:]
    if len(tail) > TAIL_BYTES or b"\\" in tail or b'"input' in tail:  # another input might be meant
        return None
    empty = b"[]" if is_batch or codec.input_type != "bytes" else b'""'
    try:
        rest = codec.decode(body[:start] + empty + tail)
    except REFUSALS:
        return None  # the codec knows how to say what is wrong
    return rest.version, rest.key


def _read_numbers(body: Body, at: int, codec: InputCodec, packed: bytearray) -> Generator[None, None, int]:
    """Pack the numbers of the list that begins at ``at``. Returns the place after it, or -1: it is no plain list."""
    if body[at : at + 1] != b"[":
        return -1
    at += 1
    while True:
        reach = at + PIECE_BYTES
        stop = body.find(b",", reach, reach + NUMBER_BYTES)
        end = body.find(b"]", at, stop if stop >= 0 else reach + NUMBER_BYTES)
        if end < 0 and stop < 0:
            return -1
        piece = body[at : end if end >= 0 else stop]
        part = _pack(b'{"input":[' + piece + b"]}", codec, at)
        if not part:
            return -1  # no number at all: an empty list, or a comma too many
        packed += part
        if end >= 0:
            return end + 1
        at = stop + 1
        yield


def _pack(text: bytes, codec: InputCodec, at: int) -> bytes:
    part = codec.quick(text) if codec.quick is not None else None
    if part is not None:
        return part
    try:
        return codec.pack(codec.decode(text).input)
    except REFUSALS as error:
        found = codec.explain(error, text)
        cause = f"{found.cause}, in the piece of the body that begins at byte {at}"
        raise BadQueryError(found.error, cause) from None


def _read_base64(body: Body, at: int, codec: InputCodec, packed: bytearray) -> Generator[None, None, int]:
    """Append the bytes of the text that begins at ``at``. Returns the place after it, or -1: it is no plain base64."""
    if body[at : at + 1] != b'"':
        return -1
    at += 1
    while True:
        piece = body[at : at + PIECE_BYTES]
        end = piece.find(b'"')
        if end >= 0:
            piece = piece[:end]
        try:
            part = codec.pack(codec.decode(b'{"input":"' + piece + b'"}').input)
        except REFUSALS:
            return -1
        if end < 0 and (not piece or 4 * len(part) != 3 * len(piece)):
            return -1  # the body ends, or there is padding or an escape in the middle
        packed += part
        if end >= 0:
            return at + end + 1
        at += PIECE_BYTES
        yield


def _skip_space(body: Body, at: int) -> int:
    found = SPACE.match(body, at)
    return at if found is None else found.end()


class PieceReader:
    """Reads large bodies on the loop: one piece of one body in each turn, the bodies in turn."""

    def __init__(self) -> None:
        self._readings: deque[tuple[Reading, Callable[[Outcome], None], Callable[[], bool]]] = deque()

    def read(self, reading: Reading, finish: Callable[[Outcome], None], is_gone: Callable[[], bool]) -> None:
        """Call ``finish`` once with what came of a reading, later; never when ``is_gone`` says that nobody waits."""
        self._readings.append((reading, finish, is_gone))
        if len(self._readings) == 1:
            asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        reading, finish, is_gone = self._readings.popleft()
        outcome: Outcome = None
        try:
            is_over = is_gone()
            if not is_over:
                next(reading)
                self._readings.append((reading, finish, is_gone))
        except StopIteration as end:
            outcome, is_over = end.value, True
        except BadQueryError as error:
            outcome, is_over = error, True
        finally:
            if self._readings:
                asyncio.get_running_loop().call_soon(self._step)
        if is_over and not is_gone():
            finish(outcome)
