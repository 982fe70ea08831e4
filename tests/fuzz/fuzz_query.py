"""Fuzzes the reading of predict bodies, beside the reference for inputs: ``python -m tests.fuzz.fuzz_query --help``.

An input's first byte chooses the input type and how the body comes: as JSON, raw, or as anything compressed.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import msgspec

from clipperfs.errors import InvalidInput
from clipperfs.replica.encode import encode_input
from tests.fuzz.driver import instrumented, run

with instrumented("clipperfs.serverd"):
    from clipperfs.serverd.form import BadBodyError, BodyForm, decompress, raw_inputs
    from clipperfs.serverd.query import CODECS, REFUSALS, BadQueryError, InputCodec, check_input

from tests.fuzz import grammar
from tests.fuzz.replies import Broken
from tests.fuzz.site import INPUT_TYPES

LIMIT_BYTES = 4096
SHAPES = (b"", b"1", b"2", b"1,2", b"2,1", b"3,0", b"0,0", b"\xff", b"99999999999", b"1,2,3")


def check(data: bytes) -> None:
    """Raise for a body that is neither read as the reference reads it nor refused in words."""
    choice, body = (data[0] if data else 0), data[1:]
    codec = CODECS[INPUT_TYPES[choice % 5]]
    way = choice // 5 % 4
    if way < 2:
        check_json(codec, body)
    elif way == 2:
        names = (b"", b"int32", b"float32", b"float64", b"uint8", b"\xff")
        check_raw(codec, body, BodyForm(b"", True, names[choice // 20 % 6], SHAPES[len(body) % len(SHAPES)]))
    else:
        check_compressed(body, (b"gzip", b"zstd", b"x-gzip", b"br\xff")[choice // 20 % 4])


def check_json(codec: InputCodec, body: bytes) -> None:
    """Compare what the query port makes of a body with what the reference makes of its input."""
    try:
        request = codec.decode(body)
        values = [request.input] if request.input is not msgspec.UNSET else request.input_batch
        found = None if values is msgspec.UNSET else [codec.pack(value) for value in values]
    except REFUSALS as error:
        explained = codec.explain(error, body)
        if not explained.cause or not explained.error:
            raise Broken("a refusal says nothing") from error
        explained.cause.encode()
        found = None
        is_refused = True
    else:
        is_refused = False
        for packed in found or ():
            if len(packed) % codec.element_bytes:
                raise Broken("a part of an element")
            _check_sizes(codec, packed)
    expected = _reference(codec, body)
    if expected is not Ellipsis and (is_refused or found != expected) and not (is_refused and _repeats(body)):
        raise Broken(f"{codec.input_type}: {found}, but the reference reads {expected} in {body!r}")
    if expected is Ellipsis and not is_refused and found is not None and not _may_differ(codec, body, found):
        raise Broken(f"{codec.input_type}: {found}, but the reference refuses {body!r}")


def _repeats(body: bytes) -> bool:
    """Whether a field is there twice: each must be right, though only the last one counts."""
    names: list[str] = []

    def see(pairs: list[tuple[str, Any]]) -> None:
        names[:] = [name for name, _ in pairs]

    json.loads(body, object_pairs_hook=see)
    return len(set(names)) < len(names)


def _check_sizes(codec: InputCodec, packed: bytes) -> None:
    try:
        check_input(packed, codec, 3, "m")
    except BadQueryError:
        if len(packed) == 3 * codec.element_bytes:
            raise
    else:
        if len(packed) != 3 * codec.element_bytes:
            raise Broken("an input of another size than the model's is taken")


def _reference(codec: InputCodec, body: bytes) -> Any:
    """Return the packed inputs, None for a body without any, Ellipsis for one that is refused."""
    try:
        plain = msgspec.json.decode(body)
        if not isinstance(plain, dict):
            return ...
        for name in ("version", "key"):
            if not isinstance(plain.get(name), str | None):
                return ...
        if not isinstance(plain.get("input_batch", []), list):
            return ...
        batch = [encode_input(value, codec.input_type)[0] for value in plain.get("input_batch", ())]  # type: ignore[arg-type]
        if "input" in plain:
            return [encode_input(plain["input"], codec.input_type)[0]]  # type: ignore[arg-type]
        return batch if "input_batch" in plain else None
    except (msgspec.DecodeError, InvalidInput, RecursionError, UnicodeError):
        return ...


def _may_differ(codec: InputCodec, body: bytes, found: list[bytes]) -> bool:
    """Whether a body that the reference refuses may be taken all the same.

    Two cases: text that is no UTF-8, or half a character, in a field that is passed over; and whole numbers among
    ``ints`` that are written with a fraction (``1.0``).
    """
    try:
        plain = json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return False
    if codec.input_type == "ints":
        # Not fields that are passed over: they may be nested deeper than can be walked.
        plain = {name: _whole(value) for name, value in plain.items() if name in ("input", "input_batch")}
    try:
        values = [plain["input"]] if "input" in plain else plain["input_batch"]
        return [encode_input(value, codec.input_type)[0] for value in values] == found  # type: ignore[arg-type]
    except InvalidInput:
        return False


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check_raw(codec: InputCodec, body: bytes, form: BodyForm) -> None:
    """Check that raw inputs are the body, cut in equal parts."""
    try:
        inputs = raw_inputs(body, form, codec)
    except BadQueryError as error:
        error.cause.encode()
        return
    parts = inputs if isinstance(inputs, list) else [inputs]
    if b"".join(parts) != body or len({len(part) for part in parts}) != 1 or len(parts[0]) % codec.element_bytes:
        raise Broken(f"the body became {inputs!r}")
    if codec.input_type == "strings":
        bytes(parts[0]).decode()


def check_compressed(body: bytes, encoding: bytes) -> None:
    """Check that decompression ends in bytes within the limit or in a refusal."""
    try:
        plain = decompress(body, encoding, LIMIT_BYTES)
    except BadBodyError as error:
        if error.status not in (400, 413, 415):
            raise
    else:
        if len(plain) > LIMIT_BYTES:
            raise Broken("more than the limit came out")


def make(random: Random) -> bytes:
    """Return an input."""
    choice = random.randrange(120)
    way = choice // 5 % 4
    if way < 2:
        body = grammar.make_json(random)
    elif way == 2:
        body = grammar.make_raw(random)
    else:
        body = grammar.compress(random, grammar.make_json(random), random.choice((b"gzip", b"zstd")))
    return bytes([choice]) + body


def change(data: bytes, random: Random) -> bytes:
    """Change a body's type, its bytes, or put a value of the grammar into it."""
    roll = random.random()
    body = data[1:]
    if roll < 0.15:
        return random.randbytes(1) + body
    place = random.randrange(len(body) + 1)
    stop = min(len(body), place + random.choice((0, 1, 1, 3, 9)))
    if roll < 0.5:
        put = random.choice((*grammar.VALUES, *grammar.FIELDS)).encode("utf-8", "surrogatepass")
    elif roll < 0.8:
        put = bytes([random.choice(b'[]{},:"\\0123456789.eE+-ntfu \n\xc3\xa9\xff\x00=')])
    else:
        put = random.randbytes(stop - place)
    return data[:1] + (body[:place] + put + body[stop:])[: grammar.MAX_BYTES]


if __name__ == "__main__":
    run(check, make, change)
