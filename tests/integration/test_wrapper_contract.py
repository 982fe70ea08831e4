"""The built-in wrappers under the public contract suite."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
import skops.io
from clipperfs.wrappers.closure import save
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from clipperfs.documents import InputType
from clipperfs.testing.wrapper_suite import WrapperCase, WrapperSuite

ALL_TYPES: tuple[InputType, ...] = ("ints", "floats", "doubles", "bytes", "strings")
FRAMEWORKS = ("sklearn", "skops", "joblib", "onnxruntime", "cloudpickle", "pandas", "scipy")

ROWS, LABELS = load_iris(return_X_y=True)
SOME = [[float(value) for value in ROWS[index]] for index in (0, 60, 120)]


class TestNoop(WrapperSuite):
    frameworks = FRAMEWORKS
    input_types = ALL_TYPES
    needs_files = False

    def make_case(self, folder: Path) -> WrapperCase:
        return WrapperCase("noop", "doubles", [[1.0], [2.0]], [{"a": 1}] * 2, options={"output": {"a": 1}})


class TestClosure(WrapperSuite):
    frameworks = FRAMEWORKS
    input_types = ALL_TYPES

    def make_case(self, folder: Path) -> WrapperCase:
        save(lambda inputs: [_length(value) for value in inputs], folder)
        return WrapperCase("closure", "doubles", [[1.0, 2.0], [3.0, 4.0]], [2, 2], allow_code=True)


def _length(value: object) -> int:
    return len(value)  # type: ignore[arg-type]


class TestPython(WrapperSuite):
    frameworks = FRAMEWORKS
    input_types = ("bytes",)

    def make_case(self, folder: Path) -> WrapperCase:
        (folder / "weights.py").write_text("FACTOR = 3\n")
        (folder / "wrapper.py").write_text(
            "import weights\n"
            "class Wrapper:\n"
            "    bytes_as = 'uint8'\n"
            "    def load(self, context):\n"
            "        self.factor = weights.FACTOR\n"
            "    def predict(self, inputs):\n"
            "        return [float(x.sum()) * self.factor for x in inputs]\n"
        )
        return WrapperCase("python", "ints", [[1, 2], [3, 4]], [9.0, 21.0], allow_code=True)


class TestSklearnClassifier(WrapperSuite):
    frameworks = FRAMEWORKS

    def make_case(self, folder: Path) -> WrapperCase:
        model = LogisticRegression(max_iter=500).fit(ROWS, LABELS)
        skops.io.dump(model, folder / "model.skops")
        return WrapperCase("sklearn", "doubles", SOME, model.predict(SOME).tolist())


class TestSklearnProbabilities(WrapperSuite):
    frameworks = FRAMEWORKS
    input_types = ()

    def make_case(self, folder: Path) -> WrapperCase:
        model = RandomForestClassifier(5, random_state=0, n_jobs=-1).fit(ROWS, LABELS)
        skops.io.dump(model, folder / "forest.skops")
        options = {"file": "forest.skops", "method": "predict_proba"}
        return WrapperCase("sklearn", "doubles", SOME, model.predict_proba(SOME).tolist(), options=options)


class TestSklearnText(WrapperSuite):
    def make_case(self, folder: Path) -> WrapperCase:
        texts = ["good fine", "bad awful", "fine good", "awful"]
        model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, ["yes", "no", "yes", "no"])
        joblib.dump(model, folder / "model.joblib")
        return WrapperCase("sklearn", "strings", ["good", "bad", "fine"], ["yes", "no", "yes"], allow_code=True)


class TestOnnxLabels(WrapperSuite):
    frameworks = FRAMEWORKS
    input_types = ()

    def make_case(self, folder: Path) -> WrapperCase:
        model = LogisticRegression(max_iter=500).fit(ROWS, LABELS)
        (folder / "model.onnx").write_bytes(to_onnx(model, ROWS[:1].astype(np.float32)).SerializeToString())
        return WrapperCase("onnx", "doubles", SOME, model.predict(SOME).tolist())


class TestOnnxProbabilities(WrapperSuite):
    def make_case(self, folder: Path) -> WrapperCase:
        model = LogisticRegression(max_iter=500).fit(ROWS, LABELS)
        onnx = to_onnx(model, ROWS[:1].astype(np.float32), options={"zipmap": False})
        (folder / "model.onnx").write_bytes(onnx.SerializeToString())
        expected = [
            {"label": int(label), "probabilities": row.tolist()}
            for label, row in zip(model.predict(SOME), model.predict_proba(SOME), strict=True)
        ]
        options = {"output": ["label", "probabilities"]}
        return WrapperCase("onnx", "floats", SOME, expected, options=options)
