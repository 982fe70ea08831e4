"""How a text becomes words, for training and for prediction alike."""

from __future__ import annotations

import re


def words_of(text: str) -> list[str]:
    """Return the words of ``text`` in lower case, three letters and more, without a plural's s."""
    return [word.removesuffix("s") for word in re.findall(r"[a-z]{3,}", text.lower())]
