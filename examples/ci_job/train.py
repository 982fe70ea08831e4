"""Train a model and write the folder that is a version of it: ``python train.py FOLDER``.

What a version needs is the model's file and a ``model.yaml``. The sample and the held-out rows let the hooks
``loadable`` and ``quality`` judge it before it answers anybody.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import skops.io
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

MODEL_YAML = """\
wrapper: sklearn        # loads model.skops
input_type: doubles     # an input is a list of 64 numbers
sample: sample.json     # what the check `loadable` predicts
hooks:                  # what a version must pass before it becomes active
  - signature           # it takes and gives what the active version does
  - quality: {metric: accuracy, floor: 0.9, delta: 0.02}  # on holdout.npz; at most 0.02 worse than the active version
"""


def main(folder: Path) -> None:
    """Train with the settings in ``params.json``, which a commit changes, and write the version into ``folder``."""
    params = json.loads(Path(__file__).with_name("params.json").read_text())
    rows, labels = load_digits(return_X_y=True)
    # The same split for every version: only then does "no worse than the active version" mean something.
    train_rows, held_rows, train_labels, held_labels = train_test_split(
        rows, labels, test_size=1 / 3, random_state=0, stratify=labels
    )
    estimator = SVC(**params).fit(train_rows, train_labels)

    folder.mkdir(parents=True)
    skops.io.dump(estimator, folder / "model.skops")
    np.savez_compressed(folder / "holdout.npz", x=held_rows, y=held_labels)
    (folder / "sample.json").write_text(json.dumps(held_rows[:3].tolist()))
    (folder / "model.yaml").write_text(MODEL_YAML)
    print(f"trained with {params}: accuracy {estimator.score(held_rows, held_labels):.3f} on {len(held_rows)} rows")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python train.py FOLDER")
    main(Path(sys.argv[1]))
