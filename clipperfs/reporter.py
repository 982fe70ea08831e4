"""What the core tells of long work while it goes on; the command line draws it."""

from __future__ import annotations


class Reporter:
    """Listens to progress. Every method does nothing unless overridden, and may be called from any thread."""

    def begin(self, action: str, total_bytes: int) -> None:
        """A piece of work of ``total_bytes`` begins."""

    def advance(self, size_bytes: int) -> None:
        """``size_bytes`` more are done."""

    def end(self) -> None:
        """The piece of work that began last is over, well or not."""

    def note(self, message: str) -> None:
        """Something that a person would want to know happened."""
