"""One page for all who ask within a moment, at both ends of the control channel."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from clipperfs.serverd import shared_page
from clipperfs.serverd.shared_page import KEEP_S, PageAskers, SharedPage


class Renderer:
    """Makes numbered pages, each when it is let."""

    def __init__(self) -> None:
        self.made = 0
        self.may_end = asyncio.Event()
        self.fails = False

    async def __call__(self) -> bytes:
        self.made += 1
        number = self.made
        await self.may_end.wait()
        if self.fails:
            self.fails = False
            raise OSError("no page")
        return b"%d" % number


class Asker:
    """Stands for an exchange: keeps what it is answered."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, bytes]] = []

    def reply(self, status: int, body: bytes, content_type: bytes) -> None:
        self.replies.append((status, body))

    def fail(self, status: int, error: str, cause: str) -> None:
        self.replies.append((status, cause.encode()))


def text(number: int, body: bytes, keep_s: float) -> dict[str, Any]:
    return {"id": number, "status": 200, "ctype": "text/plain", "body": body, "keep_s": keep_s}


def test_all_who_ask_while_a_page_is_made_and_a_moment_after_get_that_page() -> None:
    async def main() -> None:
        now, renderer = [10.0], Renderer()
        page = SharedPage(renderer, "text/plain", lambda: now[0])
        asking = [asyncio.ensure_future(page.get()) for _ in range(50)]
        await asyncio.sleep(0)
        renderer.may_end.set()
        assert {body for body, _ in await asyncio.gather(*asking)} == {b"1"}
        now[0] += KEEP_S / 2
        assert await page.get() == (b"1", KEEP_S / 2)
        now[0] += KEEP_S / 2
        assert await page.answer("metrics") == (200, "text/plain", b"2", KEEP_S)
        assert (await page.answer("status"))[0] == 404
        assert renderer.made == 2

    asyncio.run(main())


def test_page_that_fails_is_made_again_for_those_who_wait() -> None:
    async def main() -> None:
        renderer = Renderer()
        renderer.fails = True
        page = SharedPage(renderer, "text/plain", lambda: 0.0)
        asking = [asyncio.ensure_future(page.get()) for _ in range(5)]
        await asyncio.sleep(0)
        renderer.may_end.set()
        first, *others = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(first, OSError)
        assert others == [(b"2", KEEP_S)] * 4

    asyncio.run(main())


def test_page_of_a_client_that_is_cut_off_is_made_by_the_next() -> None:
    async def main() -> None:
        renderer = Renderer()
        page = SharedPage(renderer, "text/plain", lambda: 0.0)
        first, second = asyncio.ensure_future(page.get()), asyncio.ensure_future(page.get())
        await asyncio.sleep(0)
        first.cancel()
        renderer.may_end.set()
        assert await second == (b"2", KEEP_S)

    asyncio.run(main())


def test_one_question_is_out_at_a_time_and_its_answer_is_kept_as_long_as_it_may() -> None:
    async def main() -> None:
        asked: list[int] = []
        askers, clients = PageAskers(asked.append), [Asker() for _ in range(5)]
        for client in clients[:3]:
            askers.add(client)  # type: ignore[arg-type]
        assert asked == [1]
        askers.take(text(7, b"for nobody", 0.0))
        askers.take(text(1, b"first", 0.01))
        askers.add(clients[3])  # type: ignore[arg-type]
        assert [client.replies for client in clients[:4]] == [[(200, b"first")]] * 4
        await asyncio.sleep(0.02)
        askers.add(clients[4])  # type: ignore[arg-type]
        assert asked == [1, 2]
        askers.take(text(2, b"second", 0.0))
        assert clients[4].replies == [(200, b"second")]

    asyncio.run(main())


def test_silent_controller_is_given_up_and_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_page, "ASK_TIMEOUT_S", 0.01)

    async def main() -> None:
        asked: list[int] = []
        askers, clients = PageAskers(asked.append), [Asker(), Asker()]
        askers.add(clients[0])  # type: ignore[arg-type]
        await asyncio.sleep(0.03)
        assert clients[0].replies[0][0] == 503
        askers.add(clients[1])  # type: ignore[arg-type]
        askers.take(text(1, b"late", 1.0))
        askers.take(text(2, b"second", 0.0))
        assert (asked, clients[1].replies) == ([1, 2], [(200, b"second")])

    asyncio.run(main())
