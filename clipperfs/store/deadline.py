"""A hard deadline round calls that may hang: each runs on a thread of its own, which is given up when time is over.

Why not an executor: the interpreter waits for an executor's threads when it ends, and a hung call would keep it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

from clipperfs.errors import StorageUnavailable

P = ParamSpec("P")
T = TypeVar("T")


class Deadline:
    """Runs calls, each for at most ``limit_s`` seconds, and not more than ``hung_calls`` that hang.

    Args:
        limit_s: for one call.
        hung_calls: as soon as so many threads are busy with calls that were given up, further ones fail at once.
    """

    def __init__(self, limit_s: float, *, hung_calls: int = 16) -> None:
        self.limit_s = limit_s
        self._free = threading.Semaphore(hung_calls)

    def run(self, what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what ``function`` returns, or raise what it raises. Raises StorageUnavailable when time is over."""
        if not self._free.acquire(timeout=self.limit_s):
            raise StorageUnavailable(
                f"cannot {what}: too many calls hang", hint="check the filesystem, then run it again"
            )
        answer: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
        done = threading.Event()

        def call() -> None:
            try:
                answer.put((function(*args, **kwargs), None))
            except BaseException as error:  # carried over to the caller's thread
                answer.put((None, error))
            finally:
                self._free.release()
                done.set()

        threading.Thread(target=call, name=f"storage: {what}", daemon=True).start()
        if not done.wait(self.limit_s):
            raise StorageUnavailable(
                f"cannot {what}: no answer within {self.limit_s:g} s", hint="check the filesystem, then run it again"
            )
        value, failure = answer.get()
        if failure is not None:
            raise failure
        return value  # type: ignore[return-value]
