"""What the built-in wrappers refuse to load, why, and what they tell the reader to do next."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
import skops.io
from clipperfs.wrappers.closure import save
from clipperfs.wrappers.onnx import Onnx
from clipperfs.wrappers.onnx_weights import weight_files
from clipperfs.wrappers.python import Python
from clipperfs.wrappers.sklearn import Sklearn
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from clipperfs.errors import LoadFailed, PredictFailed
from clipperfs.replica.session import ReplicaSession
from clipperfs.wrapper import LoadContext

ROWS = np.random.default_rng(0).random((60, 4))
LABELS = np.arange(60) % 3


def context(path: Path, *, allow_code: bool = False, input_type: Any = "doubles", **options: Any) -> LoadContext:
    return LoadContext(path, "m", "1", input_type, allow_code, options)


def refusal(wrapper: Any, context: LoadContext) -> LoadFailed:
    with pytest.raises(LoadFailed) as caught:
        wrapper.load(context)
    assert caught.value.hint, caught.value.message
    return caught.value


# --- every wrapper with a file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../model.onnx", "/model.onnx", "a/../../b", "", 7, ["x"], "link.onnx"])
@pytest.mark.parametrize("wrapper", [Onnx, Sklearn])
def test_file_outside_the_version_is_refused(wrapper: Callable[[], Any], name: Any, tmp_path: Path) -> None:
    (tmp_path / "outside.onnx").write_bytes(b"x")
    version = tmp_path / "version"
    version.mkdir()
    (version / "link.onnx").symlink_to(tmp_path / "outside.onnx")
    error = refusal(wrapper(), context(version, file=name))
    assert "option file" in error.message


def test_file_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    error = refusal(Sklearn(), context(tmp_path))
    assert error.message == "sklearn: version 1 of m has no model.skops or model.joblib or model.pkl"
    assert error.hint == "it holds weights.bin; name the file by the option file"


def test_option_with_a_slip_is_named_with_the_right_ones(tmp_path: Path) -> None:
    error = refusal(Sklearn(), context(tmp_path, methd="predict"))
    assert error.message == "the wrapper sklearn has no option 'methd'"
    assert error.hint == "its options: file, method, trusted"


# --- sklearn ---------------------------------------------------------------------------------------------------------


def test_joblib_and_pickle_need_a_policy_that_allows_code(tmp_path: Path) -> None:
    model = LinearRegression().fit(ROWS, LABELS)
    joblib.dump(model, tmp_path / "model.joblib")
    error = refusal(Sklearn(), context(tmp_path))
    assert error.hint == "clipperfs policy m allow_code=true"
    (tmp_path / "model.joblib").unlink()
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    refusal(Sklearn(), context(tmp_path))
    wrapper = Sklearn()
    wrapper.load(context(tmp_path, allow_code=True))
    assert wrapper.predict(ROWS[:2]) == pytest.approx(model.predict(ROWS[:2]))


def test_skops_is_taken_before_joblib(tmp_path: Path) -> None:
    joblib.dump(1, tmp_path / "model.joblib")
    skops.io.dump(LinearRegression().fit(ROWS, LABELS), tmp_path / "model.skops")
    Sklearn().load(context(tmp_path))


@pytest.mark.parametrize(
    "model",
    [HistGradientBoostingClassifier(max_iter=3), MLPClassifier(max_iter=500, tol=1), KNeighborsClassifier()],
    ids=lambda model: type(model).__name__,
)
def test_everyday_estimators_load_without_further_trust(model: Any, tmp_path: Path) -> None:
    model.fit(ROWS, LABELS)
    skops.io.dump(model, tmp_path / "model.skops")
    wrapper = Sklearn()
    wrapper.load(context(tmp_path))
    assert (wrapper.predict(ROWS) == model.predict(ROWS)).all()


class Own:
    """A type that no default trusts."""

    def __init__(self) -> None:
        self.kept = 1


def test_skops_types_that_are_not_trusted_are_listed_and_then_need_code(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(kw_args={"own": Own()}), LinearRegression())
    skops.io.dump(model, tmp_path / "model.skops")
    name = f"{Own.__module__}.Own"
    error = refusal(Sklearn(), context(tmp_path))
    assert error.message == f"sklearn: model.skops holds types that are not trusted: {name}"
    assert f"trusted: [{name}]" in (error.hint or "")
    error = refusal(Sklearn(), context(tmp_path, trusted=[name]))
    assert error.hint == "clipperfs policy m allow_code=true"
    Sklearn().load(context(tmp_path, trusted=[name], allow_code=True))


def test_method_that_the_estimator_lacks_is_refused(tmp_path: Path) -> None:
    skops.io.dump(LinearRegression().fit(ROWS, LABELS), tmp_path / "model.skops")
    assert (
        "LinearRegression in model.skops has no predict_proba"
        in refusal(Sklearn(), context(tmp_path, method="predict_proba")).message
    )
    assert "one of predict, predict_proba" in (refusal(Sklearn(), context(tmp_path, method="fit")).hint or "")


def test_truncated_model_is_named_by_its_error(tmp_path: Path) -> None:
    skops.io.dump(LinearRegression().fit(ROWS, LABELS), tmp_path / "model.skops")
    data = (tmp_path / "model.skops").read_bytes()
    (tmp_path / "model.skops").write_bytes(data[: len(data) // 2])
    with pytest.raises(LoadFailed, match="BadZipFile"), ReplicaSession(context(tmp_path), "sklearn"):
        pass


# --- closure ---------------------------------------------------------------------------------------------------------


def test_closure_takes_along_what_it_refers_to(tmp_path: Path) -> None:
    factor = 3
    file = save(
        lambda inputs: [helper_in_this_module(row.sum()) * factor for row in inputs], tmp_path / "new" / "folder"
    )
    assert file == tmp_path / "new" / "folder" / "closure.pkl"
    with ReplicaSession(context(file.parent, allow_code=True), "closure") as session:
        assert session.predict([[1.0, 2.0], [0.0, 0.0]]) == [12.0, 3.0]


def helper_in_this_module(value: float) -> float:
    return float(value) + 1


def test_closure_file_may_have_any_name(tmp_path: Path) -> None:
    assert save(len, tmp_path / "count.pkl") == tmp_path / "count.pkl"
    session = ReplicaSession(context(tmp_path, allow_code=True, file="count.pkl"), "closure")
    with session, pytest.raises(PredictFailed, match="predict returned int; expected a list of 1 outputs"):
        session.predict([[1.0]])


def test_closure_that_cannot_be_called_or_pickled_is_refused(tmp_path: Path) -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match="not int"):
        save(7, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="lock"):
        save(lambda inputs: [lock] * len(inputs), tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "closure.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(LoadFailed, match="an object of type list, which cannot be called"):
        ReplicaSession(context(tmp_path, allow_code=True), "closure").start()


def test_pickle_is_not_even_opened_without_permission(tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    for name in ("closure.pkl", "model.pkl", "model.joblib"):
        (tmp_path / name).write_bytes(pickle.dumps(Canary()))
    for kind in ("closure", "sklearn"):
        with pytest.raises(LoadFailed, match="runs code that comes with the version"):
            ReplicaSession(context(tmp_path), kind).start()
    assert not (tmp_path / "ran").exists()


# --- python ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entrypoint",
    ["os:system", "wrapper.py", "../wrapper.py:Wrapper", "/x.py:W", "wrapper.py:a b", "wrapper.txt:W", 5, ":W"],
)
def test_entrypoint_that_is_not_a_class_in_the_version_is_refused(entrypoint: Any, tmp_path: Path) -> None:
    (tmp_path / "wrapper.py").write_text("class Wrapper: pass\n")
    assert "option entrypoint" in refusal(Python(), context(tmp_path, entrypoint=entrypoint, allow_code=True)).message


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "has no Wrapper"),
        ("Wrapper = 5", "has something else called Wrapper"),
        ("class Wrapper: pass", "Wrapper in wrapper.py has no predict"),
        ("class Wrapper:\n  bytes_as = 'int16'\n  def predict(self, x): ...", "bytes_as of Wrapper is 'int16'"),
    ],
)
def test_file_without_a_usable_class_is_refused(source: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "wrapper.py").write_text(source + "\n")
    with pytest.raises(LoadFailed, match=words) as caught, ReplicaSession(context(tmp_path, allow_code=True), "python"):
        pass
    assert caught.value.hint


def test_missing_wrapper_file_is_named(tmp_path: Path) -> None:
    assert "version 1 of m has no wrapper.py" in refusal(Python(), context(tmp_path, allow_code=True)).message


def test_class_gets_its_options_and_its_bytes_as_it_asks(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.py").write_text("import beside\n" + SOURCE)
    (tmp_path / "sub" / "beside.py").write_text("X = 1\n")
    options = {"entrypoint": "sub/other.py:Mine", "depth": 3}
    with ReplicaSession(context(tmp_path, allow_code=True, input_type="bytes", **options), "python") as session:
        assert session.predict([b"ab", "YWI="]) == [["ab", 3, "m", "1"]] * 2


SOURCE = """
class Mine:
    bytes_as = "raw"
    def load(self, context):
        self.rest = [context.options["depth"], context.model, context.version]
    def predict(self, inputs):
        return [[item, *self.rest] for item in inputs]
"""


# --- onnx ------------------------------------------------------------------------------------------------------------


def linear_model(
    *, weights_at: str | None = None, batch: Any = "N", width: Any = 2, element: int = TensorProto.FLOAT
) -> Any:
    """Return a model that doubles its input, its one weight in an outside file if asked."""
    weight = numpy_helper.from_array(np.array([2.0], np.float32), "w")
    if weights_at is not None:
        weight = TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT)
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", weights_at), ("offset", "0"), ("length", "4")):
            entry = weight.external_data.add()
            entry.key, entry.value = key, value
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", element, [batch, width])],
        [helper.make_tensor_value_info("y", element, [batch, width])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_weights_beside_the_model_are_found(tmp_path: Path) -> None:
    onnx.save(linear_model(weights_at="w.bin"), tmp_path / "model.onnx")
    assert "which the version does not hold" in refusal(Onnx(), context(tmp_path)).message
    (tmp_path / "w.bin").write_bytes(np.array([2.0], np.float32).tobytes())
    wrapper = Onnx()
    wrapper.load(context(tmp_path))
    assert wrapper.predict(np.array([[1.0, 2.0]])).tolist() == [[2.0, 4.0]]


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "sub/../../w.bin", "link.bin"])
def test_weights_outside_the_version_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.array([2.0], np.float32).tobytes())
    version = tmp_path / "version"
    version.mkdir()
    (version / "link.bin").symlink_to(tmp_path / "w.bin")
    (version / "model.onnx").write_bytes(linear_model(weights_at=location).SerializeToString())
    assert "outside the version" in refusal(Onnx(), context(version)).message


def test_weights_are_found_wherever_a_model_can_hold_a_tensor() -> None:
    def tensor(location: str) -> Any:
        made = TensorProto(name="t", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        for key, value in (("offset", "0"), ("location", location)):
            entry = made.external_data.add()
            entry.key, entry.value = key, value
        return made

    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor("in-subgraph"))], "b", [], [])
    nodes = [
        helper.make_node("Constant", [], ["a"], value=tensor("in-attribute")),
        helper.make_node("If", ["a"], ["b"], then_branch=inner, else_branch=inner),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], [tensor("in-initializer")]))
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor("in-sparse"))
    nodes[0].attribute.add(name="many", type=onnx.AttributeProto.TENSORS).tensors.append(tensor("in-list"))
    model.functions.add(name="f").node.append(nodes[0])
    model.training_info.add().initialization.initializer.append(tensor("in-training"))
    assert weight_files(memoryview(model.SerializeToString())) == {
        "in-subgraph",
        "in-attribute",
        "in-initializer",
        "in-sparse",
        "in-list",
        "in-training",
    }


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x0a\xff\xff\xff\xff\x7f", b"\xff" * 40, b"PK\x03\x04"])
def test_file_that_is_no_onnx_model_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(LoadFailed), ReplicaSession(context(tmp_path), "onnx"):
        pass


def test_model_with_a_fixed_batch_of_one_is_run_one_by_one(tmp_path: Path) -> None:
    onnx.save(linear_model(batch=1), tmp_path / "model.onnx")
    wrapper = Onnx()
    wrapper.load(context(tmp_path))
    assert np.array(wrapper.predict(np.array([[1.0, 2.0], [3.0, 4.0]]))).tolist() == [[2.0, 4.0], [6.0, 8.0]]


def test_model_with_another_fixed_batch_is_refused(tmp_path: Path) -> None:
    onnx.save(linear_model(batch=8), tmp_path / "model.onnx")
    error = refusal(Onnx(), context(tmp_path))
    assert "fixed at 8" in error.message and "dynamic batch axis" in (error.hint or "")


def test_input_takes_the_shape_that_the_model_declares(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 1, 2, "W"])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["N", 1, 2, "W"])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "model.onnx"
    )
    with ReplicaSession(context(tmp_path, input_type="bytes"), "onnx") as session:
        assert session.predict([bytes([1, 2, 250, 255])]) == [[[[1, 2], [250, 255]]]]
        with pytest.raises(PredictFailed, match=r"an input of 3 elements does not fit the model's 1 × 2 × \?"):
            session.predict([b"abc"])


def test_texts_reach_a_model_of_texts_and_numbers_do_not(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["N", 1])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, ["N", 1])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "model.onnx"
    )
    with ReplicaSession(context(tmp_path, input_type="strings"), "onnx") as session:
        assert session.predict(["é", ""]) == [["é"], [""]]
    session = ReplicaSession(context(tmp_path, input_type="ints"), "onnx")
    with session, pytest.raises(PredictFailed, match="the model takes texts, not int32"):
        session.predict([[1]])


def test_model_with_two_inputs_is_refused_with_the_way_out(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "g", values[:2], values[2:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "model.onnx"
    )
    error = refusal(Onnx(), context(tmp_path))
    assert "the model has 2 inputs (a, b)" in error.message and "wrapper: python" in (error.hint or "")


def test_output_that_the_model_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    onnx.save(linear_model(), tmp_path / "model.onnx")
    assert refusal(Onnx(), context(tmp_path, output="z")).hint == "its outputs: y"
    assert refusal(Onnx(), context(tmp_path, output=[])).hint == "the model's outputs: y"
    wrapper = Onnx()
    wrapper.load(context(tmp_path, output=["y"]))
    assert [sorted(row) for row in wrapper.predict(np.array([[1.0, 2.0]]))] == [["y"]]


def test_digits_survive_the_way_through_json(tmp_path: Path) -> None:
    model = LogisticRegression(max_iter=300).fit(ROWS, LABELS)
    skops.io.dump(model, tmp_path / "model.skops")
    with ReplicaSession(context(tmp_path, method="predict_proba"), "sklearn") as session:
        outputs = session.predict(json.loads(json.dumps(ROWS.tolist())))
    assert np.array_equal(np.array(outputs), model.predict_proba(ROWS))
