"""Foreign graphs on their way to a bundle: which output is final, what it ends in, whether the batch is free."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from services.domain import FloatArray
from services.errors import InvalidInput
from services.partition import partition
from testbed.graph_runs import check_runs
from testbed.graphs import prepare

LOGITS = "r = Relu(x)  s = MatMul(r, w)"
WEIGHTS = "float[4,3] w = {1, 2, 3, 3, 2, 1, 0, 1, 0, 2, 0, 2}"


def graph(body: str, outputs: str = "float[N,3] y", weights: str = "") -> onnx.ModelProto:
    """A graph from `x` [N, 4], which `LOGITS` lead to three scores `s`."""
    head = f"g (float[N,4] x) => ({outputs}) <{', '.join(filter(None, (WEIGHTS, weights)))}>"
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {head} {{ {body} }}')


def answer(model: onnx.ModelProto, x: FloatArray) -> FloatArray:
    """What the last output of `model` says."""
    return np.asarray(ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[-1])


def names(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in model.graph.output]


def test_the_final_exit_is_the_main_output_where_an_auxiliary_head_is_declared_after_it() -> None:
    model = graph(
        f"{LOGITS}  a = Abs(r)  b = Neg(a)  main = MatMul(b, w)",
        outputs="float[N,3] main, float[N,3] s",
    )
    found = prepare(model, None)
    assert partition(found.model).exits == {"s": 1, "main": 4}
    assert partition(found.model).split_points[-1].tensor == "main"
    assert [note for note in found.notes if "'main' is the final exit" in note and "'s' last" in note]


def test_outputs_that_as_many_nodes_lead_to_keep_their_order() -> None:
    body = "r = Relu(x)  one = MatMul(r, w)  two = MatMul(r, w)"
    for order in (["one", "two"], ["two", "one"]):
        found = prepare(graph(body, outputs=", ".join(f"float[N,3] {name}" for name in order)), None)
        assert names(found.model) == order
        assert not found.notes


@pytest.mark.parametrize(
    ("after", "weights"),
    [
        ("y = Identity(p)", ""),
        ("c = Cast <to = 10> (p)  y = Cast <to = 1> (c)", ""),
        ("y = Flatten(p)", ""),
        ("y = Reshape(p, k)", "int64[2] k = {0, 3}"),
        ("u = Unsqueeze(s, k)  p = Softmax <axis = 1> (u)  y = Squeeze(p, k)", "int64[1] k = {2}"),
    ],
    ids=["identity", "cast", "flatten", "reshape", "squeeze"],
)
def test_a_softmax_that_something_follows_does_not_happen_twice_either(after: str, weights: str) -> None:
    softmax = "" if "Softmax" in after else "p = Softmax(s)"
    found = prepare(graph(f"{LOGITS}  {softmax}  {after}", weights=weights), None)
    x = np.random.default_rng(0).random((2, 4), np.float32)
    np.testing.assert_allclose(answer(found.model, x), answer(graph(f"{LOGITS}  y = Identity(s)"), x), rtol=1e-6)
    assert "the final Softmax was taken off; exits apply it themselves" in found.notes


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (f"{LOGITS}  p = Softmax(s)  q = QuantizeLinear(p, g, z)  y = DequantizeLinear(q, g, z)", "float[N,3] y"),
        (f"{LOGITS}  p = Softmax(s)  i = Identity(p)  n = Neg(i)  y = Identity(i)", "float[N,3] n, float[N,3] y"),
        ("r = Relu(x)  t = Reshape(r, k)  p = Softmax(t)  y = Reshape(p, l)", "float[N,4] y"),
    ],
    ids=["rounded", "read elsewhere", "over half of the scores"],
)
def test_a_softmax_that_cannot_be_taken_off_is_told(body: str, outputs: str) -> None:
    model = graph(body, outputs, "float g = {0.00390625}, uint8 z = {0}, int64[3] k = {0, 2, 2}, int64[2] l = {0, 4}")
    x = np.random.default_rng(0).random((2, 4), np.float32)
    before = answer(model, x)
    found = prepare(model, None)
    np.testing.assert_allclose(answer(found.model, x), before, rtol=1e-6)
    assert any("'y' ends in probabilities" in note and "logits" in note for note in found.notes)
    assert not any("taken off" in note for note in found.notes)


def test_a_graph_that_answers_random_inputs_with_nothing_but_nan_is_given_one_sample_at_a_time() -> None:
    model = graph("m = Neg(x)  a = Sqrt(m)  b = Sqrt(x)  c = Add(a, b)  y = MatMul(c, w)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = prepare(model, None)
    assert not found.batch_free
    assert any("not all finite" in note and "one sample a request" in note for note in found.notes)


@pytest.mark.parametrize(
    ("end", "free"), [("y = Neg(h)", True), ("m = ReduceMax <axes = [0]> (h)  y = Sub(h, m)", False)]
)
def test_a_graph_that_takes_only_positive_numbers_is_tried_with_those(end: str, free: bool) -> None:
    found = prepare(graph(f"l = Log(x)  h = MatMul(l, w)  {end}"), None)
    assert found.batch_free == free


@pytest.mark.parametrize(
    ("ir_version", "opset", "reason"), [(99, 17, "max supported IR version"), (8, 99, "till opset")]
)
def test_a_graph_newer_than_onnxruntime_is_refused_with_the_versions(ir_version: int, opset: int, reason: str) -> None:
    model = graph(f"{LOGITS}  y = Neg(s)")
    model.ir_version, model.opset_import[0].version = ir_version, opset
    with pytest.raises(InvalidInput, match=reason):
        check_runs(model)
