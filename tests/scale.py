"""How long the proofs search: short by default, as far as ``CLIPPERFS_PROOF_SCALE`` says otherwise."""

from __future__ import annotations

import os

SCALE = float(os.environ.get("CLIPPERFS_PROOF_SCALE", "1"))


def scaled(usual: int, full: int) -> int:
    """Return a size: ``usual`` by default, that many times the scale, and ``full`` at most."""
    return min(full, round(usual * SCALE))
