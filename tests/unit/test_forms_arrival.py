"""Where a compressed body is decompressed, and when the time of its query begins."""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from clipperfs.serverd import form, forms
from clipperfs.serverd.form import BodyForm
from clipperfs.serverd.query import CODECS


def test_time_of_a_compressed_raw_body_begins_when_it_is_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines are watched in the order of the arrivals: one from before the wait would be seen too late."""
    done: list[float] = []
    arrivals: list[float] = []

    def decompress(body: bytes, encoding: str, limit_bytes: int) -> bytes:
        time.sleep(0.02)
        done.append(time.monotonic())
        return body

    monkeypatch.setattr(forms, "decompress", decompress)
    monkeypatch.setattr(forms, "raw_inputs", lambda body, form, codec: body)
    predict: Any = SimpleNamespace(
        routes={b"/a/predict": SimpleNamespace(codec=None)},
        handle_packed=lambda entry, exchange, inputs, pin, key, arrived: arrivals.append(arrived),
    )

    async def ask() -> None:
        handler = forms.FormHandler(predict, 1 << 20)
        exchange: Any = None
        handler.handle(b"/a/predict", exchange, b"12345678" * forms.SMALL_BYTES, given)
        while not arrivals:
            await asyncio.sleep(0.005)
        handler.close()

    given: Any = SimpleNamespace(encoding=b"gzip", is_raw=True, media=b"", version=b"", key=b"")
    assert set(vars(given)) <= set(BodyForm.__dataclass_fields__) | set(dir(BodyForm))
    asyncio.run(ask())
    assert arrivals[0] >= done[0]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (gzip.compress(b"x" * 100), "loop"),
        (gzip.compress(b"x" * forms.SMALL_PLAIN_BYTES), "loop"),
        (gzip.compress(b"x" * (forms.SMALL_PLAIN_BYTES + 1)), "thread"),
        (gzip.compress(os.urandom(forms.SMALL_BYTES)), "thread"),
        (b"nonsense", "400"),
        (gzip.compress(b"x" * 2_000_000), "413"),
    ],
    ids=["small", "at the limit", "over the limit", "large as it is", "not gzip", "too large"],
)
def test_small_body_is_decompressed_where_it_is_and_a_large_one_in_a_thread(body: bytes, expected: str) -> None:
    told: list[str] = []
    here = threading.get_ident()
    real = form.decompress
    places: list[str] = []

    def decompress(*arguments: Any) -> bytes:
        places.append("loop" if threading.get_ident() == here else "thread")
        return real(*arguments)

    predict: Any = SimpleNamespace(
        routes={b"/a/predict": SimpleNamespace(codec=CODECS["bytes"])},
        handle_packed=lambda entry, exchange, inputs, pin, key, arrived: told.append(places[-1]),
    )
    exchange: Any = SimpleNamespace(fail=lambda status, error, cause: told.append(str(status)))

    async def ask() -> None:
        handler = forms.FormHandler(predict, 1_000_000)
        handler.handle(b"/a/predict", exchange, body, BodyForm(encoding=b"gzip", is_raw=True))
        while not told:
            await asyncio.sleep(0.005)
        handler.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "decompress", decompress)
        asyncio.run(ask())
    assert told == [expected]
