"""Text for terminals: hostile characters made visible, aligned tables, sizes. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

_HIDDEN = frozenset(["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"])
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def visible(text: object, *, keep: str = "") -> str:
    """Return ``text`` with every control, format and bidirectional character written as an escape.

    Names, reasons and log lines come from other people: an ESC would move the cursor, U+202E would turn the line round.

    Args:
        text: anything; ``str`` of it is taken.
        keep: characters that stay as they are (``"\\t"`` in log lines).
    """
    raw = str(text)
    if raw.isascii() and raw.isprintable():
        return raw
    return "".join(
        char if char in keep or unicodedata.category(char) not in _HIDDEN else _escape(ord(char)) for char in raw
    )


def _escape(point: int) -> str:
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return aligned columns, two spaces apart, with hostile characters made visible. ``None`` shows as ``-``.

    Free text belongs into the last column: nothing is cut or wrapped, so that lines survive ``grep`` and ``awk``.
    """
    return Columns(heading).lines(rows)


class Columns:
    """A table that is printed piece by piece. Columns keep their width from one piece to the next, or grow.

    Args:
        first: the width of the first column at least, where it is known before the rows are.
    """

    def __init__(self, heading: Sequence[str], *, first: int = 0) -> None:
        self._heading: list[str] = [name.upper() for name in heading]
        self._widths = [first, *(0 for _ in heading[1:])]
        self._is_begun = False

    def lines(self, rows: Iterable[Sequence[object]]) -> str:
        """Return the next rows, with the heading before the first of all."""
        cells = [] if self._is_begun else [self._heading]
        self._is_begun = True
        cells += [["-" if cell is None or cell == "" else visible(cell) for cell in row] for row in rows]
        self._widths = [
            max(width, *(len(row[column]) for row in cells)) if cells else width
            for column, width in enumerate(self._widths)
        ]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, self._widths, strict=True)).rstrip()
            for row in cells
        )


def size(size_bytes: int | None) -> str | None:
    """Return a size with three significant digits and a decimal unit."""
    if size_bytes is None:
        return None
    if size_bytes < 1000:
        return f"{size_bytes} B"
    amount, unit = float(size_bytes), 0
    while amount >= 999.5 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.3g} {_UNITS[unit]}" if amount < 999.5 else f"{amount:.0f} {_UNITS[unit]}"


def short(digest: str | None) -> str | None:
    """Return the first 12 characters of a digest: enough for people."""
    return digest[:12] if digest else None


def plural(count: int, noun: str) -> str:
    """Return ``1 file`` or ``3 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
