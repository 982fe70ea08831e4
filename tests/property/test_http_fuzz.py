"""A short search of what ``make fuzz`` searches at length: no stream of bytes breaks a promise of the query port."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import fuzz_documents, fuzz_http, fuzz_query, grammar, judge
from tests.fuzz.replies import Broken, read_replies
from tests.fuzz.site import FakeTransport, Site, running

REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=st.binary(min_size=4, max_size=4), parts=st.lists(st.sampled_from(grammar.TOKENS) | st.binary(max_size=50)))
def test_any_bytes_are_answered_or_refused(plan: bytes, parts: list[bytes]) -> None:
    fuzz_http.check(plan + b"".join(parts))


@pytest.mark.parametrize("fuzz", [fuzz_http, fuzz_query, fuzz_documents])
def test_made_and_changed_inputs_break_no_promise(fuzz: object) -> None:
    random = Random(7)
    for _ in range(300):
        data = fuzz.make(random)  # type: ignore[attr-defined]
        fuzz.check(data)  # type: ignore[attr-defined]
        fuzz.check(fuzz.change(data, random))  # type: ignore[attr-defined]


def test_most_made_requests_are_answered_and_not_refused() -> None:
    site = Site()
    found = [judge.judge(site, fuzz_http.make(Random(seed))) for seed in range(200)]
    assert sum(replies for _, replies in found) > 250
    assert sum(1 for requests, _ in found if requests > 1) > 60


@pytest.mark.parametrize(
    "raw",
    [REPLY[:-1], REPLY + b"x", REPLY.replace(b"OK\r\n", b"OK\n"), REPLY.replace(b": 2", b": two"), b"\r\n" + REPLY],
)
def test_reader_of_replies_sees_what_is_no_reply(raw: bytes) -> None:
    with pytest.raises(Broken):
        read_replies(raw, [b"POST"])


def test_forgotten_reply_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.site._answer", lambda query: None)
    with pytest.raises(Broken, match="waits for its reply"):
        for seed in range(50):
            fuzz_http.check(fuzz_http.make(Random(seed)))


def test_shortcut_that_takes_another_body_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipperfs.serverd.connection import HttpConnection

    plain = HttpConnection._learn

    def learn(self: HttpConnection, data: bytes) -> None:
        plain(self, data)
        self.known_target = b"/strings/predict"

    monkeypatch.setattr(HttpConnection, "_learn", learn)
    with pytest.raises(Broken, match="replies differ"):
        for seed in range(400):
            fuzz_http.check(fuzz_http.make(Random(seed)))


def test_handler_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipperfs.serverd.frontend.Frontend._handle_other", lambda *_: 1 / 0)
    site = Site()
    with pytest.raises(Broken, match="a handler failed"):
        for seed in range(50):
            judge.judge(site, fuzz_http.make(Random(seed)))


def test_site_is_the_frontend_itself() -> None:
    site, transport = Site(), FakeTransport()
    with running(site.loop):
        connection = site.server()
        connection.connection_made(transport)
        connection.data_received(b'POST /ints/predict HTTP/1.1\r\nContent-Length: 13\r\n\r\n{"input":[1]}')
    assert b"Clipperfs-Version: 1\r\n" in transport.written
