"""The prediction cache: bounded in bytes, the least recently used goes first."""

from __future__ import annotations

from clipperfs.serverd.cache import ENTRY_BYTES, PredictionCache, cache_prefix
from hypothesis import given
from hypothesis import strategies as st


def test_least_recently_used_output_goes_first() -> None:
    cache = PredictionCache(5 * (ENTRY_BYTES + 2))
    for key in b"abcde":
        cache.put(bytes([key]), b"1")
    assert cache.get(b"a") == b"1"
    cache.put(b"f", b"1")
    assert cache.get(b"b") is None
    assert cache.get(b"a") == b"1"
    assert cache.snapshot() == {"hits": 2, "misses": 1, "evictions": 1, "entries": 5, "bytes": 5 * (ENTRY_BYTES + 2)}


def test_output_that_would_fill_the_cache_is_not_kept() -> None:
    cache = PredictionCache(1000)
    cache.put(b"a", b"1")
    cache.put(b"b", b"x" * 900)
    assert cache.get(b"b") is None
    assert cache.get(b"a") == b"1"


def test_versions_and_input_types_do_not_share_outputs() -> None:
    prefixes = {cache_prefix(digest * 64, kind) for digest in "ab" for kind in ("ints", "floats")}
    assert len(prefixes) == 4


@given(st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=60), st.booleans()), max_size=80))
def test_cache_agrees_with_a_plain_model_and_keeps_its_bound(steps: list[tuple[bytes, bytes, bool]]) -> None:
    cache = PredictionCache(2000)
    model: dict[bytes, bytes] = {}
    for key, output, is_put in steps:
        if is_put:
            cache.put(key, output)
            if key not in model:
                model[key] = output
                while sum(len(k) + len(v) + ENTRY_BYTES for k, v in model.items()) > 2000:
                    del model[next(iter(model))]
        else:
            assert cache.get(key) == model.get(key)
            if key in model:
                model[key] = model.pop(key)
        assert cache.size_bytes == sum(len(k) + len(v) + ENTRY_BYTES for k, v in model.items()) <= 2000
