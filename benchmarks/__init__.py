"""Benchmarks: what clipperfs costs, beside references that run in the same minutes on the same machine."""
