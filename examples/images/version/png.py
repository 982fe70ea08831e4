"""PNG files to arrays and back, for 8 bits a channel: enough for an example. Use Pillow for pictures from anywhere.

Source: the PNG specification (W3C), §9 on filters, §11.2 on chunks.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
MAX_PIXELS = 1 << 24
"""A small file can say that it holds a large picture: whoever decodes has to set a limit."""


def decode(data: bytes) -> np.ndarray:
    """Return a picture in shades of grey from 0 to 1, as an array of rows. Raises ValueError for anything else."""
    if not data.startswith(SIGNATURE):
        raise ValueError("the input is no PNG file")
    at, head, packed = len(SIGNATURE), b"", bytearray()
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        part = data[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            head = part
        elif kind == b"IDAT":
            packed += part
        at += size + 12
    if len(head) != 13:
        raise ValueError("the PNG file has no header")
    width, height, depth, colour, _, _, is_interlaced = struct.unpack(">IIBBBBB", head)
    if depth != 8 or colour not in CHANNELS or is_interlaced or not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"a picture of {width} x {height}, {depth} bits, colour type {colour} is not read here")
    step = CHANNELS[colour]
    line_bytes = width * step + 1
    unpacker = zlib.decompressobj()
    lines = unpacker.decompress(bytes(packed), line_bytes * height)
    if len(lines) != line_bytes * height:
        raise ValueError("the PNG file is cut short")
    pixels = unfilter(lines, height, line_bytes, step).reshape(height, width, step)
    colours = pixels[:, :, : 3 if step > 2 else 1].mean(axis=2) / 255  # without the alpha channel
    return colours.astype(np.float32)


def unfilter(lines: bytes, height: int, line_bytes: int, step: int) -> np.ndarray:
    """Return the bytes of all lines, each of which begins with the filter that it was written with."""
    above = bytearray(line_bytes - 1)
    out = bytearray()
    for row in range(height):
        kind, *line = lines[row * line_bytes : (row + 1) * line_bytes]
        for at in range(len(line)):
            left, up = (line[at - step] if at >= step else 0), above[at]
            corner = above[at - step] if at >= step else 0
            guess = (0, left, up, (left + up) // 2, nearest(left, up, corner))[kind] if kind < 5 else 0
            line[at] = (line[at] + guess) & 0xFF
        out += bytes(line)
        above = bytearray(line)
    return np.frombuffer(bytes(out), np.uint8)


def nearest(left: int, up: int, corner: int) -> int:
    """Return Paeth's guess: which of the three neighbours is closest to left + up - corner."""
    guess = left + up - corner
    return min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]


def encode(picture: np.ndarray) -> bytes:
    """Return a picture in shades of grey from 0 to 1 as a PNG file."""
    height, width = picture.shape
    shades = (picture * 255).round().astype(np.uint8)
    lines = b"".join(b"\0" + row.tobytes() for row in shades)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in parts
    )
    return SIGNATURE + b"".join(chunks)
