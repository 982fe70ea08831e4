"""Runs inside MLServer's inference workers: a batch of requests comes as one request of many rows."""
# mypy: ignore-errors
# (its packages are those of MLServer's environment)

import os

import answers
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Served(MLModel):
    """One model."""

    async def load(self):
        """Load the model that the environment names."""
        self._predict = answers.load(os.environ["BENCH_MODEL"], os.environ["BENCH_FOLDER"])
        return True

    async def predict(self, payload):
        """Answer all rows."""
        rows = NumpyCodec.decode_input(payload.inputs[0])
        outputs = np.array(self._predict(rows), dtype=np.int32).reshape(-1, 1)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("output", outputs)])
