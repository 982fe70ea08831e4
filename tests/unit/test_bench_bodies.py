"""The benchmark of bodies sends the same numbers in every form, and prints what it measured."""

from __future__ import annotations

import base64
import gzip
import json

import numpy as np
import zstandard

from benchmarks.bodies import Cell, Run, forms, render_bodies, summarise


def test_every_form_holds_the_same_numbers() -> None:
    cells = forms(50)
    raw = cells["raw"].body
    assert np.allclose(json.loads(cells["JSON"].body)["input"], np.frombuffer(raw, "<f4"))
    assert base64.b64decode(json.loads(cells["base64"].body)["input"]) == raw
    assert gzip.decompress(cells["raw, gzip"].body) == raw
    assert zstandard.ZstdDecompressor().decompress(cells["raw, zstd"].body) == raw
    assert len({tuple(cell.expected) for cell in cells.values()}) == 1


def test_rows_are_medians_of_rounds_and_blanks_where_nothing_was_measured() -> None:
    cell = Cell("floats", b"x" * 400, {}, [100, 0.5])
    cell.runs = [Run([0.1, 0.3, 0.2], 1.0, 0.003, None), Run([0.4], 0.5, 0.004, None)]
    row = summarise(100, "raw", cell)
    assert row["latency_ms"] == {"median": 300.0, "low": 200.0, "high": 400.0}
    assert row["requests_per_s"]["median"] == 2.5
    assert row["cpu_us"] == {"median": 2500.0, "low": 1000.0, "high": 4000.0}
    assert row["input_mb_per_s"]["median"] == 0.001
    cell.runs = [Run([0.1], 1.0, 0.003, 7.25)]
    cell.peaks = {"frontend": 1.02, "replica": 2.0}
    result = {"plan": {"rounds": 1, "duration_s": 1.0}, "rows": [row, summarise(20_000_000, "JSON", cell)]}
    blank, full = render_bodies(result).splitlines()[-2:]
    assert blank.count(" - ") == 3
    assert "20,000,000, JSON" in full and "1.02" in full and "7.2" in full
