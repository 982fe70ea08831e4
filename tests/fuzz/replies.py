"""What a connection wrote, read strictly; and how many requests a byte stream holds, by httptools alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import httptools
import msgspec

HEAD: Final = re.compile(rb"HTTP/1\.1 ([0-9]{3}) [A-Z][A-Za-z ]+\r\n((?:[A-Z][A-Za-z-]+: [ -~]*\r\n)*)\r\n")
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
NUMBER: Final = re.compile(rb'"query_id":[0-9]+')


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether it says that the connection ends with it."""
        return self.headers.get(b"Connection") == b"close"


@dataclass
class Requests:
    """The requests of a byte stream as httptools alone sees them."""

    methods: list[bytes]
    is_broken: bool
    """Something after the last whole request is no HTTP, or asks for another protocol."""


class _Counter:
    def __init__(self) -> None:
        self.parser: Any = httptools.HttpRequestParser(self)
        self.methods: list[bytes] = []
        self.begun = 0

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_message_complete(self) -> None:
        self.methods.append(self.parser.get_method())


def count_requests(stream: bytes) -> Requests:
    """Return the whole requests at the beginning of a stream."""
    counter = _Counter()
    try:
        counter.parser.feed_data(stream)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return Requests(counter.methods, True)
    return Requests(counter.methods, False)


def read_replies(raw: bytes, methods: list[bytes]) -> list[Reply]:
    """Return the replies; Broken if anything is not exactly a series of whole ones. Answers to HEAD have no body."""
    replies: list[Reply] = []
    position = 0
    while position < len(raw):
        if raw.startswith(CONTINUE, position):
            position += len(CONTINUE)
            continue
        head = HEAD.match(raw, position)
        if head is None:
            raise Broken(f"no reply begins with {raw[position : position + 200]!r}")
        lines = [line.split(b": ", 1) for line in head[2].split(b"\r\n")[:-1]]
        headers = dict(lines)
        if len(headers) != len(lines) or not headers.get(b"Content-Length", b"").isdigit():
            raise Broken(f"headers: {lines}")
        status, length = int(head[1]), int(headers[b"Content-Length"])
        is_bare = len(replies) < len(methods) and methods[len(replies)] == b"HEAD"
        if headers.get(b"Connection") == b"close" and (is_bare or len(replies) >= len(methods)):
            is_bare = len(raw) == head.end()  # a refusal may come before the method is known
        stop = head.end() + (0 if is_bare else length)
        body = raw[head.end() : stop]
        if len(raw) < stop:
            raise Broken(f"a reply is cut short: {raw[position : position + 200]!r}")
        if headers[b"Content-Type"] == b"application/json" and not is_bare:
            msgspec.json.decode(body)
        if not is_bare:
            _check_by_httptools(raw[position:stop], status, body)
        replies.append(Reply(status, headers, NUMBER.sub(b'"query_id":0', body)))
        position = stop
    return replies


class _Reader:
    def __init__(self) -> None:
        self.body = b""
        self.is_whole = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.is_whole = True


def _check_by_httptools(raw: bytes, status: int, body: bytes) -> None:
    reader = _Reader()
    parser = httptools.HttpResponseParser(reader)
    parser.feed_data(raw)
    if not reader.is_whole or reader.body != body or parser.get_status_code() != status:
        raise Broken(f"httptools reads another reply in {raw[:300]!r}")
