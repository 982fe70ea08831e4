"""Runs inside Triton's Python backend: all requests that were batched become one call of the model."""
# mypy: ignore-errors
# (its packages are those of Triton's environment)

import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as triton

sys.path.insert(0, str(Path(__file__).parent))
import answers


class TritonPythonModel:
    """One model."""

    def initialize(self, args):
        """Load the model that the configuration names."""
        self.predict = answers.load(args["model_name"], Path(__file__).parent)

    def execute(self, requests):
        """Answer requests, each with one or more rows."""
        inputs = [triton.get_input_tensor_by_name(request, "INPUT").as_numpy() for request in requests]
        outputs = np.array(self.predict(np.concatenate(inputs)), dtype=np.int32).reshape(-1, 1)
        replies, at = [], 0
        for rows in inputs:
            part = triton.Tensor("OUTPUT", outputs[at : at + len(rows)])
            replies.append(triton.InferenceResponse(output_tensors=[part]))
            at += len(rows)
        return replies
