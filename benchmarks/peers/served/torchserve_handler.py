"""Runs inside TorchServe's worker: a list of requests comes, a list of replies goes."""
# mypy: ignore-errors
# (its packages are those of TorchServe's environment)

import answers

_predict = None


def handle(data, context):
    """Answer a batch; the first call, without data, loads the model that the archive is called after."""
    global _predict
    if _predict is None:
        _predict = answers.load(context.manifest["model"]["modelName"], context.system_properties["model_dir"])
    if not data:
        return []
    return [{"output": output} for output in _predict([request["body"]["input"] for request in data])]
