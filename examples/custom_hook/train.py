"""Write three versions of a model: ``good``, ``blind``, which never saw an 8, and ``fat``, which is too large."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import skops.io
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

MODEL_YAML = """\
wrapper: sklearn
input_type: doubles
sample: sample.json
hooks:
  - class_recall: {floor: 0.8}
"""

rows, labels = load_digits(return_X_y=True)
train_rows, held_rows, train_labels, held_labels = train_test_split(rows, labels, random_state=0, stratify=labels)

for name, wanted in (("good", train_labels >= 0), ("blind", train_labels != 8), ("fat", train_labels >= 0)):
    folder = Path(name)
    folder.mkdir()
    model = SVC(gamma=0.001).fit(train_rows[wanted], train_labels[wanted])
    skops.io.dump(model, folder / "model.skops")
    (folder / "sample.json").write_text(json.dumps(held_rows[:2].tolist()))
    np.savez_compressed(folder / "holdout.npz", x=held_rows, y=held_labels)
    (folder / "model.yaml").write_text(MODEL_YAML)
    print(f"{name}: accuracy {model.score(held_rows, held_labels):.3f}")
Path("fat/training-rows.npy").write_bytes(bytes(10_000_000))
