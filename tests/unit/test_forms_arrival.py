"""When the time of a query with a compressed body begins."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from clipperfs.serverd import forms
from clipperfs.serverd.form import BodyForm


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
        handler = forms.FormHandler(predict, 1000)
        exchange: Any = None
        handler.handle(b"/a/predict", exchange, b"12345678", form)
        while not arrivals:
            await asyncio.sleep(0.005)
        handler.close()

    form: Any = SimpleNamespace(encoding=b"gzip", is_raw=True, version=b"", key=b"")
    assert set(vars(form)) <= set(BodyForm.__dataclass_fields__) | set(dir(BodyForm))
    asyncio.run(ask())
    assert arrivals[0] >= done[0]
