"""Runs inside clipperfs's replicas, as the wrapper that a version brings with it: a batch comes as one array."""
# mypy: ignore-errors
# (it is imported beside the model, from the version's own folder)

import answers


class Wrapper:
    """One model."""

    def load(self, context):
        """Load the model that the version belongs to."""
        self._predict = answers.load(context.model, context.path)

    def predict(self, inputs):
        """Answer a batch."""
        return self._predict(inputs)
