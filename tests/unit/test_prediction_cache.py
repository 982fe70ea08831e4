"""The prediction cache: bounded in bytes, keeps what is asked for again, forgets what was asked for once."""

from __future__ import annotations

from clipperfs.serverd.cache import ENTRY_BYTES, PredictionCache, cache_prefix
from hypothesis import given
from hypothesis import strategies as st


def test_output_that_was_asked_for_again_survives_those_that_were_not() -> None:
    cache = PredictionCache(10 * (ENTRY_BYTES + 3))
    for number in range(10):
        cache.put(b"%02d" % number, b"1")
    assert cache.get(b"00") == b"1"
    cache.put(b"10", b"1")
    assert cache.get(b"01") is None
    assert cache.get(b"00") == b"1"
    assert cache.snapshot() == {"hits": 2, "misses": 1, "evictions": 1, "entries": 10, "bytes": 10 * (ENTRY_BYTES + 3)}


def test_scan_does_not_drive_out_what_is_used() -> None:
    cache = PredictionCache(100 * (ENTRY_BYTES + 7))
    used = [b"used%02d" % number for number in range(50)]
    for _ in range(3):
        for key in used:
            if cache.get(key) is None:
                cache.put(key, b"1")
    for number in range(1000):
        cache.put(b"%06d" % number, b"1")
    assert all(cache.get(key) == b"1" for key in used)


def test_output_that_comes_back_soon_after_it_went_is_kept() -> None:
    cache = PredictionCache(100 * (ENTRY_BYTES + 7))
    for number in range(101):
        cache.put(b"%06d" % number, b"1")
    assert cache.get(b"000000") is None
    cache.put(b"000000", b"1")
    for number in range(200, 290):
        cache.put(b"%06d" % number, b"1")
    assert cache.get(b"000000") == b"1"


def test_output_that_would_fill_the_cache_is_not_kept() -> None:
    cache = PredictionCache(3000)
    cache.put(b"a", b"1")
    cache.put(b"b", b"x" * 900)
    assert cache.get(b"b") is None
    assert cache.get(b"a") == b"1"


def test_versions_settings_and_input_types_do_not_share_outputs() -> None:
    kinds, settings = ("ints", "floats"), ("", "0f")
    prefixes = {cache_prefix(digest * 64, one, kind) for digest in "ab" for one in settings for kind in kinds}
    assert len(prefixes) == 8


@given(st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=60), st.booleans()), max_size=200))
def test_cache_never_gives_another_output_and_keeps_its_bound(steps: list[tuple[bytes, bytes, bool]]) -> None:
    cache = PredictionCache(3000)
    put: dict[bytes, set[bytes]] = {}
    for key, output, is_put in steps:
        if is_put:
            cache.put(key, output)
            put.setdefault(key, set()).add(output)
            assert cache.get(key) in put[key]  # it has just come, or was there
        else:
            found = cache.get(key)
            assert found is None or found in put[key]
        kept = cache._outputs
        assert cache.size_bytes == sum(len(k) + len(v[0]) + ENTRY_BYTES for k, v in kept.items()) <= 3000
        assert sorted([*cache._small, *cache._main]) == sorted(kept)
        assert cache._small_bytes == sum(len(k) + len(kept[k][0]) + ENTRY_BYTES for k in cache._small)
