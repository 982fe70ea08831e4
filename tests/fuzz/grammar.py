"""Makes requests that are valid, almost valid and wrong, and changes those that there are."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from random import Random
from typing import Final

import zstandard

from tests.fuzz.site import INPUT_TYPES

APPS: Final = (*INPUT_TYPES, "canary", "shadow", "sized", "off", "absent", "doubles/", "a%20b", "é", "x" * 70)
METHODS: Final = ("POST",) * 12 + ("GET", "HEAD", "PUT", "OPTIONS", "CONNECT", "post", "PRI", "M-SEARCH")
PATHS: Final = ("/metrics", "/livez", "/readyz", "/", "*", "//predict", "/ints/predict?a=b#c", "/" + "p" * 2100)
VERSIONS: Final = ("HTTP/1.1",) * 14 + ("HTTP/1.0", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/11", "")
HEADERS: Final = (
    b"Host: x", b"Content-Type: application/json", b"content-type:text/plain",
    b"Content-Type: application/octet-stream",
    b"Content-Type: image/png", b"Content-Type: application/json; charset=utf-8", b"Content-Encoding: gzip",
    b"Content-Encoding: zstd", b"Content-Encoding: identity", b"Content-Encoding: br", b"Content-Encoding: gzip, gzip",
    b"Content-Encoding: \xff\xfe", b"Clipperfs-Version: 1", b"Clipperfs-Version: 2", b"Clipperfs-Version: other",
    b"Clipperfs-Version: \xc3\xa9", b"Clipperfs-Version: " + b"9" * 300, b"Clipperfs-Key: user-17",
    b"Clipperfs-Key: \xff",
    b"Clipperfs-Key: \xc3\xa9", b"Clipperfs-Dtype: float32", b"Clipperfs-Dtype: float64", b"Clipperfs-Dtype: int32",
    b"Clipperfs-Dtype: \xff", b"Clipperfs-Shape: 2", b"Clipperfs-Shape: 1,2", b"Clipperfs-Shape: 2 , 1",
    b"Clipperfs-Shape: 0,0", b"Clipperfs-Shape: 9999999999,9999999999", b"Clipperfs-Shape: 3,0", b"Clipperfs-Shape: -1",
    b"Clipperfs-Shape: 99999,0", b"Clipperfs-Shape: \xb2", b"Clipperfs-: x", b"Clipperfs-Shape:",
    b"Expect: 100-continue",
    b"Expect: 200-ok", b"expect: 100-Continue", b"Connection: close", b"Connection: keep-alive", b"Connection: upgrade",
    b"Connection: Upgrade, close", b"Upgrade: h2c", b"Upgrade: websocket", b"HTTP2-Settings: AAAA",
    b"Keep-Alive: 99999",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding : chunked", b"Trailer: Content-Length",
    b"Content-Length: 0", b"Content-Length: 4097", b"Content-Length: -1", b"Content-Length: +5",
    b"Content-Length: 0x10",
    b"Content-Length: 18446744073709551616", b"Content-Length: 99999999999999999999999", b"Content-Length: 5, 5",
    b"Content-Length:", b"Content-Length: 1 ", b"X-Long: " + b"v" * 1500, b"X-Long: " + b"v" * 2300, b"X: a\r\n folded",
    b"X: a\x00b", b"X: a\rb", b": no name", b"no colon", b"\xff\xfe: x", b"X" * 700 + b": y", b"Accept-Encoding: gzip",
)  # fmt: skip
VALUES: Final = (
    "[1,2,3]", "[1.5,-2e3]", "[1,2,3.0]", '"AAEC"', '"text"', '"\\ud800"', '"\\u0000é\\ud83d\\ude00"', "[]", '""',
    "null",
    "true", "[true]", "[null]", "{}", "[1e999]", "[-1e999]", "[1e39]", "[NaN]", "[Infinity]", "[2147483648]",
    "[-2147483648]", "[9223372036854775808]", "[" + "9" * 400 + "]", "[0." + "3" * 400 + "]", "[1e-400]", "[-0]",
    "[-0.0]",
    "[01]", "[1,]", "[[1]]", '["1"]', "[" * 900 + "]" * 900, "[" * 1100, '{"a":' * 300, '"AAE"', '"AA=="', '"A-_="',
    '"é"',
    "[1 , 2\t,\n3 ]", "1", "18446744073709551615", "[18446744073709551616]", '"' + "A" * 1200 + '"', "[1.0]", "[1e2]",
    "[3.4028235e38]", "[3.4028236e38]", "[1.7976931348623159e308]", '"\\x"', '"\x01"', "[0.1]",
    "[100000000000000000000000]",
)  # fmt: skip
FIELDS: Final = (
    '"version":"1"', '"version":"other"', '"version":"none"', '"version":null', '"version":1', '"key":"k"', '"key":"é"',
    '"key":"\\ud800"', '"key":[]', '"other":{"deep":[1,{"x":null}]}', '"input":[1]', '"input_batch":[[1],[2]]', '"":0',
    '"version":"\\u0000"', '"version":"' + "v" * 300 + '"',
)  # fmt: skip
TOKENS: Final = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"0\r\n\r\n", b"\x00", b"\xff", b" ", b"POST /ints/predict HTTP/1.1\r\n",
    b"GET / HTTP/1.1\r\n\r\n", b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n", b"5;x=y\r\n",
    b"FFFFFFFFFFFFFFFFF\r\n",
    b'{"input":[1]}', b"\x1f\x8b\x08\x00", b"(\xb5/\xfd", b"HTTP/1.1 200 OK\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00",
)  # fmt: skip
_ZSTD: Final = zstandard.ZstdCompressor()
MAX_BYTES: Final = 12_000


def make_json(random: Random) -> bytes:
    """Return a predict body."""
    roll = random.random()
    if roll < 0.3:
        value = json.dumps([random.randrange(-9, 1000) / random.choice((1, 8)) for _ in range(random.randrange(1, 5))])
    elif roll < 0.4:
        value = json.dumps([random.randrange(-9, 1000) for _ in range(random.randrange(1, 300))])
    elif roll < 0.5:
        value = json.dumps(base64.b64encode(random.randbytes(random.randrange(30))).decode())
    else:
        value = random.choice(VALUES)
    fields = [f'"input":{value}']
    if random.random() < 0.2:
        fields = [f'"input_batch":[{",".join(random.choice((value, *VALUES)) for _ in range(random.randrange(4)))}]']
    while random.random() < 0.25:
        fields.insert(random.randrange(len(fields) + 1), random.choice(FIELDS))
    text = "{" + ",".join(fields) + "}"
    if random.random() < 0.05:
        text = random.choice((value, text[:-1], text + text, "[" + text + "]", "\ufeff" + text, " " + text + "\n", ""))
    return text.encode("utf-8", "surrogatepass")


def make_raw(random: Random) -> bytes:
    """Return a body of packed numbers, or of any bytes."""
    if random.random() < 0.3:
        return random.randbytes(random.randrange(40))
    code = random.choice("ifd")
    numbers = [
        random.choice((0, 1, -1, 1000, random.randrange(-(2**31), 2**31)))
        for _ in range(random.choice((1, 2, 3, 3, 8)))
    ]
    return struct.pack(f"<{len(numbers)}{code}", *numbers)


def compress(random: Random, body: bytes, encoding: bytes) -> bytes:
    """Return a body compressed: well, or with damage, doubled, or as a bomb."""
    if random.random() < 0.05:
        body = b"[" + bytes(random.choice((4096, 4097, 200_000)))
    if b"gzip" in encoding:
        body = gzip.compress(body, 1, mtime=0)
    elif b"zstd" in encoding:
        body = _ZSTD.compress(body)
    roll = random.random()
    if roll < 0.1:
        return body[: random.randrange(len(body) + 1)]
    if roll < 0.2 and body:
        place = random.randrange(len(body))
        return body[:place] + random.randbytes(1) + body[place + 1 :]
    return body * 2 if roll < 0.25 else body + b"x" if roll < 0.3 else body


def make_request(random: Random) -> bytes:
    """Return one request."""
    is_plain = random.random() < 0.45
    app = random.choice(INPUT_TYPES if is_plain else APPS)
    path = f"/{app}/predict" if is_plain or random.random() < 0.9 else random.choice(PATHS)
    method = "POST" if is_plain else random.choice(METHODS)
    version = "HTTP/1.1" if is_plain else random.choice(VERSIONS)
    lines = [f"{method} {path} {version}".encode(), b"Host: x"]
    body = make_json(random)
    if not is_plain:
        roll = random.random()
        if roll < 0.25:
            body = make_raw(random)
            lines.append(b"Content-Type: application/octet-stream")
        if random.random() < 0.25:
            lines.append(random.choice((b"Content-Encoding: gzip", b"Content-Encoding: zstd")))
            body = compress(random, body, lines[-1])
        while random.random() < 0.45:
            lines.insert(random.randrange(1, len(lines) + 1), random.choice(HEADERS))
        if random.random() < 0.03:
            lines += [b"A: b"] * random.choice((20, 22, 30))
    if is_plain or random.random() < 0.75:
        name = random.choice((b"Content-Length", b"content-length", b"CONTENT-LENGTH"))
        length = len(body) + (random.choice((-1, 1, 3)) if random.random() < 0.02 else 0)
        lines.insert(
            random.randrange(1, len(lines) + 1), b"%b:%b%d" % (name, random.choice((b" ", b"", b" 00")), max(0, length))
        )
    elif random.random() < 0.85:
        lines.append(b"Transfer-Encoding: chunked")
        body = make_chunks(random, body)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def make_chunks(random: Random, body: bytes) -> bytes:
    """Return a body in chunks, with what else may stand there."""
    out = b""
    size = random.choice((1, 7, 100, 5000))
    for start in range(0, len(body), size):
        part = body[start : start + size]
        extension = random.choice((b"",) * 12 + (b";a=b", b';a="\x80"', b";" + b"e" * 600, b" "))
        out += b"%x%b\r\n%b\r\n" % (len(part) + (random.random() < 0.002), extension, part)
    trailers = b"".join(random.choice(HEADERS) + b"\r\n" for _ in range(random.choice((0,) * 6 + (1, 2, 30))))
    return out + random.choice((b"0", b"00000", b"0;x")) + b"\r\n" + trailers + b"\r\n"


def make_stream(random: Random) -> bytes:
    """Return what one client sends: often the same head again and again."""
    parts = [make_request(random)]
    while random.random() < 0.6 and len(parts) < 24:
        roll = random.random()
        if roll < 0.6:
            head, split, body = parts[-1].partition(b"\r\n\r\n")
            fresh = make_json(random)
            old = b"%d" % len(body)
            parts.append(head.replace(b" " + old, b" %d" % len(fresh)) + split + fresh)
        elif roll < 0.7:
            parts += [parts[-1]] * random.randrange(1, 12)
        else:
            parts.append(make_request(random))
    return b"".join(parts)


def change(data: bytes, random: Random) -> bytes:
    """Return bytes that differ from ``data`` in a few places."""
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(len(data) + 1)
        stop = min(len(data), place + random.choice((1, 1, 2, 8, 64)))
        roll = random.random()
        if roll < 0.2:
            data = data[:place] + data[stop:]
        elif roll < 0.4:
            data = data[:place] + random.choice(TOKENS) + data[place:]
        elif roll < 0.5:
            data = data[:place] + random.choice(HEADERS) + b"\r\n" + data[place:]
        elif roll < 0.7:
            data = data[:place] + random.randbytes(stop - place) + data[stop:]
        elif roll < 0.8:
            data = data[:stop] + data[place:stop] * random.choice((1, 2, 40)) + data[stop:]
        elif roll < 0.9:
            data = data[:place] + make_request(random) + data[place:]
        else:
            data = data[:place].replace(b"\r\n", random.choice((b"\n", b"\r\n ", b"\r\n")), 1) + data[place:]
    return data[:MAX_BYTES]
