"""Runs inside BentoML: one service with a batchable method."""
# mypy: ignore-errors
# (its packages are those of BentoML's environment)

import os

import answers
import bentoml


@bentoml.service(
    workers="cpu_count",
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
)
class Served:
    """One model."""

    def __init__(self):
        """Load the model that the environment names."""
        self.model = answers.load(os.environ["BENCH_MODEL"], os.environ["BENCH_FOLDER"])

    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=64)
    def predict(self, inputs: list[list[float]]) -> list[int]:
        """Answer a batch."""
        return self.model(inputs)
