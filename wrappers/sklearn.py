"""``sklearn``: a scikit-learn estimator or pipeline, saved with skops or, if the policy allows code, with joblib."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from clipperfs.errors import LoadFailed
from clipperfs.wrapper import BytesAs, Inputs, LoadContext

from .version_file import check_options, choose, find_file, require_code

FILES = ("model.skops", "model.joblib", "model.pkl")
METHODS = ("predict", "predict_proba", "decision_function")

TRUSTED = (
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.link.LogLink",
    "sklearn._loss.link.MultinomialLogit",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)
"""Plain data holders of scikit-learn that skops does not trust by itself, but everyday estimators contain."""


class Sklearn:
    """Predicts with the estimator in ``model.skops``, ``model.joblib`` or ``model.pkl`` (option ``file``).

    Options: ``method``: ``predict`` (default), ``predict_proba`` or ``decision_function``. ``trusted``: names of types
    that a skops file holds beyond scikit-learn's, numpy's and scipy's; like pickles they need a policy that allows
    code. Numeric inputs of one length arrive as one array of shape (batch, features); texts as a list. Every ``n_jobs``
    is set to 1: replicas, not threads, are how a version is scaled.
    """

    bytes_as: ClassVar[BytesAs] = "uint8"

    def load(self, context: LoadContext) -> None:
        """Load the estimator. Raises LoadFailed, ModuleNotFoundError and what loading raises."""
        check_options(context, "sklearn", {"file", "method", "trusted"})
        method = choose(context, "sklearn", "method", METHODS)
        path = find_file(context, "sklearn", FILES)
        estimator = _load_skops(path, context) if path.suffix == ".skops" else _load_pickle(path, context)
        if not hasattr(estimator, method):
            raise LoadFailed(
                f"sklearn: the {type(estimator).__name__} in {path.name} has no {method}",
                hint="choose another by the option method, or train it so that it has one",
            )
        _use_one_job(estimator)
        self._predict = getattr(estimator, method)

    def predict(self, inputs: Inputs) -> Any:
        """Return the estimator's answer: an array with the batch as its first axis."""
        outputs = self._predict(inputs)
        if isinstance(outputs, list):  # predict_proba of several targets: one array a target
            return [list(rows) for rows in zip(*outputs, strict=True)]
        return outputs


def _load_skops(path: Path, context: LoadContext) -> Any:
    import skops.io

    trusted = context.options.get("trusted", [])
    if not isinstance(trusted, list) or not all(isinstance(name, str) for name in trusted):
        raise LoadFailed("sklearn: option trusted is not a list of type names", hint="trusted: [package.module.Type]")
    needed = skops.io.get_untrusted_types(file=path)
    further = set(needed) - set(TRUSTED)
    unnamed = sorted(further - set(trusted))
    if unnamed:
        raise LoadFailed(
            f"sklearn: {path.name} holds types that are not trusted: {', '.join(unnamed)}",
            hint=f"if you trust them, add to model.yaml under wrapper: trusted: [{', '.join(unnamed)}]",
        )
    if further:
        # The version names its own trusted types, so trusting them is the same as trusting its code.
        require_code(context, f"a skops file with types of its own ({', '.join(sorted(further))})")
    return skops.io.load(path, trusted=needed)


def _load_pickle(path: Path, context: LoadContext) -> Any:
    require_code(context, path.name)
    import joblib

    return joblib.load(path)  # reads plain pickles too


def _use_one_job(estimator: Any) -> None:
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    if hasattr(estimator, "get_params") and hasattr(estimator, "set_params"):
        names = [name for name in estimator.get_params() if name.rpartition("__")[2] == "n_jobs"]
        estimator.set_params(**dict.fromkeys(names, threads))
