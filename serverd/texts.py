"""Queries whose input is still the text of its body: reading it here after all, and what a replica says it read.

A text has not been seen to be an input yet, so its query is not counted as one before somebody has read it: here, the
usual way, or a replica that predicts it. What is refused never was a query (``docs/decisions/reading_at_replicas.md``).
"""

from __future__ import annotations

from typing import Any, Final

from .pending import Query
from .query import CODECS, QUERY_ERROR, REFUSALS, BadQueryError, check_input

MAX_TEXT_BYTES: Final = 32 * 1024 * 1024
"""Bytes that wait for a version before further texts are packed when they come: they take twice the room of numbers."""


def settle_text(query: Query) -> bytes | None:
    """Read a query's text the usual way. Returns the packed input, or None: it has its 400, and is done.

    Leaves ``packed`` as it is: a queue may be counting its bytes.
    """
    body: Any = query.packed  # of HTTP, and so no view
    version = query.version
    owner = query.owner
    codec = CODECS[version.route.input_type]
    input_size = version.route.input_size
    packed = None if codec.quick is None else codec.quick(body)
    try:
        if not packed or len(packed) != (input_size or 0) * codec.element_bytes:
            if packed is None:
                packed = codec.pack(codec.decode(body).input)
            check_input(packed, codec, input_size, version.model)
    except REFUSALS as error:
        bad = codec.explain(error, body)
    except BadQueryError as error:
        bad = error
    except TypeError:  # no field of that name: not what ``is_plain`` lets through
        bad = BadQueryError(QUERY_ERROR, "the body must have the field input, or input_batch")
    else:
        note_read(query)
        return packed
    owner.counter.bad_requests += 1
    query.is_text = False
    query.is_done = True
    query.sink.fail(400, bad.error, bad.cause)  # type: ignore[union-attr]
    return None


def note_read(query: Query) -> None:
    """Count a text that has turned out to be an input."""
    query.is_text = False
    query.owner.counter.queries += 1
    query.version.counter.queries += 1


def pack_texts(queries: list[Query]) -> list[Query]:
    """Pack all that is still text, of queries that wait in no queue. Returns them without those that were refused."""
    sound: list[Query] = []
    for query in queries:
        if query.is_text and not query.is_done:
            packed = settle_text(query)
            if packed is None:
                continue
            query.packed = packed
        sound.append(query)
    return sound


def are_texts(queries: list[Query]) -> bool:
    """Return whether all inputs of a batch are texts."""
    return all(query.is_text for query in queries)


def part_texts(queries: list[Query], lengths: list[int]) -> tuple[list[Query], list[int], list[Query]]:
    """Return the queries that a replica has read, with the lengths of their outputs, and those that it could not read.

    Args:
        queries: those of a batch that went out as texts.
        lengths: of the outputs; 0 says that the text could not be read.
    """
    if 0 in lengths:
        unread = [query for query, length in zip(queries, lengths, strict=True) if not length]
        queries = [query for query, length in zip(queries, lengths, strict=True) if length]
        lengths = [length for length in lengths if length]
    else:
        unread = []
    for query in queries:
        if query.is_text and not query.is_done:
            note_read(query)
    return queries, lengths, unread


def read_seconds(fields: list[Any], predict_s: float) -> float:
    """Return how much of its predict time a replica spent on reading texts, by the last field of an OUTPUT."""
    read_us = fields[4] if len(fields) > 4 else 0
    return min(read_us / 1e6, predict_s) if isinstance(read_us, int) and read_us > 0 else 0.0
