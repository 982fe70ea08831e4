"""The page of metrics on the query port: made once for all who ask within a moment, however many they are.

Anybody who reaches the query port may ask, and the page is made of what all frontends say: one for each request would
let a client, or a few scrapers at once, keep the controller from its work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from .exchange import Exchange

KEEP_S: Final = 0.5
"""How long a page is given to others after it was made."""
ASK_TIMEOUT_S: Final = 5.0
"""How long a frontend waits for the controller's page."""


class SharedPage:
    """The controller's end.

    Args:
        render: makes the page.
        content_type: what it is.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        render: Callable[[], Awaitable[bytes]],
        content_type: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._render = render
        self._content_type = content_type
        self._clock = clock
        self._page = b""
        self._stale_at = float("-inf")
        self._making: asyncio.Future[None] | None = None

    async def answer(self, what: str) -> tuple[int, str, bytes, float]:
        """Answer a frontend (``control.ASK``): status, content type, body, and for how long others may be given it."""
        if what != "metrics":
            return 404, "application/json", b"{}", 0.0
        page, keep_s = await self.get()
        return 200, self._content_type, page, keep_s

    async def get(self) -> tuple[bytes, float]:
        """Return the page, and for how many seconds it may still be given to others. Raises what ``render`` raises."""
        while True:
            left_s = self._stale_at - self._clock()
            if left_s > 0:
                return self._page, left_s
            if self._making is None:
                break
            await asyncio.wait([self._making])  # if that fails, one of those who wait makes the next
        making = self._making = asyncio.get_running_loop().create_future()
        try:
            self._page = await self._render()
            self._stale_at = self._clock() + KEEP_S
        finally:
            self._making = None
            making.set_result(None)
        return self._page, KEEP_S


class PageAskers:
    """A frontend's end: asks the controller once for all who wait, and answers from the last page while it may.

    Args:
        ask: sends the controller a question with this number.
    """

    def __init__(self, ask: Callable[[int], None]) -> None:
        self._ask = ask
        self._number = 0
        self._waiting: list[Exchange] = []
        self._timer: asyncio.TimerHandle | None = None
        """Runs while a question is out."""
        self._page: tuple[int, bytes, bytes] | None = None

    def add(self, exchange: Exchange) -> None:
        """Answer a client, now or later."""
        if self._page is not None:
            exchange.reply(*self._page)
            return
        self._waiting.append(exchange)
        if self._timer is None:
            self._number += 1
            self._timer = asyncio.get_running_loop().call_later(ASK_TIMEOUT_S, self._give_up)
            self._ask(self._number)

    def take(self, answer: dict[str, Any]) -> None:
        """Take in the controller's answer (``control.TEXT``), and pass it on."""
        if self._timer is None or answer["id"] != self._number:  # it was given up
            return
        page = answer["status"], answer["body"], answer["ctype"].encode("ascii")
        keep_s = answer.get("keep_s", 0.0)
        if keep_s > 0:
            self._page = page
            asyncio.get_running_loop().call_later(keep_s, self._drop)
        for exchange in self._end():
            exchange.reply(*page)

    def _drop(self) -> None:
        self._page = None

    def _give_up(self) -> None:
        for exchange in self._end():
            exchange.fail(503, "Server unavailable", f"the controller did not answer within {ASK_TIMEOUT_S:g} s")

    def _end(self) -> list[Exchange]:
        """End the question that is out; return those who waited for it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        return waiting
