"""Train a model with scikit-learn and write it as a version in ONNX: ``python export.py FOLDER``.

Whoever serves it needs onnxruntime, but neither scikit-learn nor the code that trained it.
Beside the folder, ``FOLDER-expected.npz`` keeps held-out rows and what the original answers for them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

MODEL_YAML = """\
wrapper:
  kind: onnx
  output: probabilities     # one of the model's outputs; without it, the first one: the label
input_type: floats          # float32, as the model was exported
sample: sample.json
"""


def main(folder: Path) -> None:
    """Train, export, and write the version and what to compare it with."""
    rows, labels = load_digits(return_X_y=True)
    rows = rows.astype(np.float32)
    train_rows, held_rows, train_labels, _ = train_test_split(rows, labels, random_state=0, stratify=labels)
    original = RandomForestClassifier(random_state=0).fit(train_rows, train_labels)

    folder.mkdir(parents=True)
    # One array of probabilities for each input (without zipmap a mapping), and a batch axis of any length.
    exported = to_onnx(original, train_rows[:1], options={"zipmap": False})
    (folder / "model.onnx").write_bytes(exported.SerializeToString())
    (folder / "model.yaml").write_text(MODEL_YAML)
    (folder / "sample.json").write_text(json.dumps(held_rows[:3].tolist()))
    np.savez_compressed(f"{folder}-expected.npz", rows=held_rows, probabilities=original.predict_proba(held_rows))
    print(f"exported {type(original).__name__}: {(folder / 'model.onnx').stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
