"""What happens in a daemon, told to its log and to whoever follows its stream of events."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from clipperfs.documents import utc_now

LOG: Final = logging.getLogger("clipperfs.serverd")

_ERRORS: Final = frozenset(
    {
        "failed",
        "crashed",
        "refused",
        "registry unreachable",
        "alarm",
        "frontend died",
        "rollout stopped",
        "rollout not aborted",
    }
)

Listener = Callable[[bytes], None]


class Events:
    """The one place where events are told. Each is a mapping with ``time``, ``event`` and what belongs to it.

    Events may be told from any thread; listeners are called on the loop on which this object was made.
    """

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def tell(self, event: str, **fields: Any) -> None:
        """Tell an event: one line in the log, one line of JSON to each listener. Fields of ``None`` are left out."""
        present = {name: value for name, value in fields.items() if value is not None}
        shown = " ".join(f"{name}={_shown(value)}" for name, value in present.items())
        LOG.log(logging.ERROR if event in _ERRORS else logging.INFO, "%s %s", event, shown)
        line = json.dumps({"time": utc_now(), "event": event, **present}, default=str).encode() + b"\n"
        if threading.get_ident() == self._thread:
            self._spread(line)
        else:
            self._loop.call_soon_threadsafe(self._spread, line)

    def add(self, listener: Listener) -> Callable[[], None]:
        """Have ``listener`` called with every line from now on; return what ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def _spread(self, line: bytes) -> None:
        for listener in list(self._listeners):
            listener(line)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return json.dumps(text, ensure_ascii=True) if any(char <= " " or not char.isprintable() for char in text) else text
