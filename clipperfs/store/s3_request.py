"""The one way to an S3 server: each call under a hard deadline, and the only retries that there are.

s3fs gives the client, its event loop and its credentials; its own retries and botocore's are turned off, because three
layers of them make a refused call last for minutes (a hung server held s3fs for over 25 s, measured).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from s3fs import S3FileSystem

from clipperfs.errors import ClipperfsError
from clipperfs.store.s3_error import is_passing, s3_error

T = TypeVar("T")

Request = Callable[[Any], Awaitable[T]]
"""Talks to the server through the client that it is given, and reads the answer to its end."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How long to wait, in seconds."""

    connect_s: float = 5.0
    silence_s: float = 10.0
    """Without a byte from the server for this long, an attempt has failed."""
    attempt_s: float = 12.0
    """One attempt of a small call; large ones get time for their bytes beside it."""
    budget_s: float = 25.0
    """All attempts of a small call. Below the watcher's own limit, so that the reason gets through."""
    pause_s: float = 0.1
    """The upper bound of the first pause between attempts; it doubles up to ``longest_pause_s``."""
    longest_pause_s: float = 4.0
    bytes_a_second: float = 128 * 1024.0
    """A transfer that is slower than this has failed."""


class Requests:
    """Calls one bucket's server. Every method may be called from any thread but the client's own loop."""

    def __init__(self, bucket: str, limits: CallLimits | None = None, **options: Any) -> None:
        self.bucket = bucket
        self.limits = limits or CallLimits()
        self._filesystem = S3FileSystem(
            use_listings_cache=False,
            skip_instance_cache=True,
            config_kwargs={
                "connect_timeout": self.limits.connect_s,
                "read_timeout": self.limits.silence_s,
                "retries": {"mode": "standard", "total_max_attempts": 1},
                "max_pool_connections": 32,
                # Digests of our own guard every payload; older servers stumble over the newer trailing checksums.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
            **options,
        )

    def call(self, action: str, key: str, request: Request[T], *, is_repeatable: bool = True, size_bytes: int = 0) -> T:
        """Carry out a request and return what it returns.

        Args:
            action: A verb for the error message, such as ``read``.
            key: For the error message.
            request: Makes the call.
            is_repeatable: Whether it may be tried again after a failure that passes: with full jitter, within the
                budget.
            size_bytes: How much is transferred, which takes its time.

        Raises:
            StorageError: by :func:`clipperfs.store.s3_error.s3_error`. The call may have taken effect.
        """
        extra_s = size_bytes / self.limits.bytes_a_second
        ends_s = time.monotonic() + self.limits.budget_s + 2 * extra_s
        attempt = 0
        while True:
            left_s = ends_s - time.monotonic()
            try:
                return self._once(request, max(0.1, min(self.limits.attempt_s + extra_s, left_s)))
            except ClipperfsError:
                raise
            except Exception as error:
                bound_s = min(self.limits.longest_pause_s, self.limits.pause_s * 2**attempt)
                pause_s = random.uniform(0, bound_s)  # noqa: S311
                if not is_repeatable or not is_passing(error) or time.monotonic() + pause_s >= ends_s:
                    raise s3_error(error, action, key, self.bucket) from error
            time.sleep(pause_s)
            attempt += 1

    def _once(self, request: Request[T], limit_s: float) -> T:
        """Run one attempt on the client's loop; abandon it when its time is over, whatever it is doing."""

        async def attempt() -> T:
            return await request(await self._filesystem.set_session())

        future = asyncio.run_coroutine_threadsafe(attempt(), self._filesystem.loop)
        try:
            return future.result(limit_s)
        except concurrent.futures.TimeoutError:
            raise TimeoutError(f"no answer within {limit_s:.1f} s") from None
        except concurrent.futures.CancelledError:
            raise ConnectionAbortedError("the client is being closed") from None
        finally:
            future.cancel()
