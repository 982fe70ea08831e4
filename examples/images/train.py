"""Draw pictures, and write a version that tells them apart: ``python train.py FOLDER``. Leaves a few pictures here."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "version"))

import png  # noqa: E402  (the same as in prediction)

SIZE = 32
source = np.random.default_rng(7)


def draw(kind: str, size: int = SIZE) -> np.ndarray:
    """Return a bright shape on a dark ground, a little moved, with noise."""
    across, down = np.meshgrid(*[np.linspace(-1, 1, size)] * 2)
    across, down = across - source.normal(0, 0.05), down - source.normal(0, 0.05)
    inside = {
        "circle": across**2 + down**2 < 0.5,
        "square": np.maximum(abs(across), abs(down)) < 0.6,
        "triangle": (down < 0.6) & (2 * abs(across) < down + 0.8),
    }[kind]
    return np.clip(0.2 + 0.6 * inside + source.normal(0, 0.1, inside.shape), 0, 1).astype(np.float32)


folder = Path(sys.argv[1])
shutil.copytree(HERE / "version", folder, ignore=shutil.ignore_patterns("__pycache__"))
kinds = ("circle", "square", "triangle")
np.savez(folder / "averages.npz", **{kind: np.mean([draw(kind) for _ in range(200)], axis=0) for kind in kinds})
(folder / "sample.json").write_text(json.dumps([base64.b64encode(png.encode(draw("square"))).decode()]))
for kind in kinds:
    Path(f"{kind}.png").write_bytes(png.encode(draw(kind, 128)))
print(f"wrote a version that knows {', '.join(kinds)}")
