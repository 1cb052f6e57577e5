"""Where graphs can be cut, and that the pieces are the whole."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from services import bundle, codec
from services.domain import FloatArray, Segment
from services.errors import InvalidInput
from services.partition import Cutter, Partition, partition
from tests.networks import three_exit_graph

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.parent for path in (ROOT / "models").glob("*/manifest.json"))
TOLERANCE = 1e-5


def graph(body: str, inputs: str = "float[N,4] x", outputs: str = "float[N,4] y", weights: str = "") -> onnx.ModelProto:
    head = f"g ({inputs}) => ({outputs})" + (f" <{weights}>" if weights else "")
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {head} {{ {body} }}')


def tensors(model: onnx.ModelProto) -> list[str]:
    return [point.tensor for point in partition(model).split_points]


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def chained(model: onnx.ModelProto, found: Partition, x: FloatArray) -> Callable[[list[int]], list[FloatArray]]:
    """Runs the network cut at the given split points, each activation through the raw codec."""
    cutter, raw = Cutter(model, found.split_points, found.exits), codec.get("fp32")

    @functools.cache
    def built(segment: Segment) -> ort.InferenceSession:
        return session(cutter.cut(segment))

    def run(cuts: list[int]) -> list[FloatArray]:
        activation, exits = x, {}
        edges = [0, *cuts, len(found.split_points) - 1]
        for start, end in itertools.pairwise(edges):
            if start < end:
                activation = raw.decode(raw.encode(activation))
                names = cutter.outputs(Segment(start, end))
                outputs = built(Segment(start, end)).run(None, {found.split_points[start].tensor: activation})
                exits |= dict(zip(names, outputs, strict=True))
                activation = outputs[0]
        return [exits[name] for name in found.exits]

    return run


def all_cuts(found: Partition) -> list[list[int]]:
    count = len(found.split_points)
    return [[a, b] for a in range(count) for b in range(a, count)]


def largest_difference(model: onnx.ModelProto, samples: int) -> float:
    """Between the whole and a chain of three segments, over all cuts and exits."""
    found = partition(model)
    x = np.random.default_rng(0).random((samples, *found.split_points[0].shape), np.float32)
    whole = session(model).run(list(found.exits), {found.split_points[0].tensor: x})
    run = chained(model, found, x)
    return max(
        float(np.abs(got - expected).max())
        for cuts in all_cuts(found)
        for got, expected in zip(run(cuts), whole, strict=True)
    )


def test_every_tensor_of_a_chain_is_a_split_point() -> None:
    assert tensors(graph("a = Relu(x)  b = Abs(a)  y = Neg(b)")) == ["x", "a", "b", "y"]


def test_a_residual_block_is_cut_before_and_after_but_not_inside() -> None:
    assert tensors(graph("a = Relu(x)  b = Abs(a)  c = Neg(b)  d = Add(c, a)  y = Exp(d)")) == ["x", "a", "d", "y"]


def test_a_dense_block_is_cut_before_and_after_but_not_inside() -> None:
    model = graph(
        "a = Relu(x)  b = Slice(a, zero, two, one)  ab = Concat <axis = 1> (a, b)  c = Slice(ab, zero, two, one)"
        "  abc = Concat <axis = 1> (a, b, c)  d = Neg(abc)  y = Slice(d, zero, four, one)",
        weights="int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4}",
    )
    assert tensors(model) == ["x", "a", "abc", "d", "y"]
    assert largest_difference(model, 2) == 0


def test_a_skip_from_the_input_leaves_only_the_ends() -> None:
    assert tensors(graph("a = Relu(x)  b = Abs(a)  y = Add(b, x)")) == ["x", "y"]


def test_an_exit_head_belongs_to_the_split_point_it_hangs_from() -> None:
    model = graph("a = Relu(x)  b = Abs(a)  e = Neg(a)  f = Exp(e)  y = Neg(b)", outputs="float[N,4] f, float[N,4] y")
    found = partition(model)
    assert [p.tensor for p in found.split_points] == ["x", "a", "b", "y"]
    assert found.exits == {"f": 1, "y": 3}


def test_an_exit_head_fed_from_two_places_belongs_to_the_later_one() -> None:
    model = graph(
        "a = Relu(x)  b = Abs(a)  c = Exp(b)  e = Add(a, b)  y = Neg(c)", outputs="float[N,4] e, float[N,4] y"
    )
    found = partition(model)
    assert [p.tensor for p in found.split_points] == ["x", "a", "b", "c", "y"]
    assert found.exits == {"e": 2, "y": 4}


def test_the_small_network_has_the_split_points_and_exits_it_was_built_with() -> None:
    found = partition(three_exit_graph())
    assert [p.tensor for p in found.split_points] == ["input", "c1", "a1", "c2", "a2", "sum", "a3", "h3", "exit_2"]
    assert found.exits == {"exit_0": 2, "exit_1": 4, "exit_2": 8}


def test_constants_and_unused_branches_are_not_in_the_way() -> None:
    model = graph(
        "k = Constant <value = float[1] {2.0}> ()  a = Mul(x, k)  unused = Exp(a)  b = Add(a, w)  y = Mul(b, k)",
        weights="float[4] w = {1.0, 2.0, 3.0, 4.0}",
    )
    assert tensors(model) == ["x", "a", "b", "y"]


def test_nodes_that_read_only_the_shape_do_not_hide_the_cut_after_them() -> None:
    model = graph(
        "a = Relu(x)  s = Shape(a)  n = Gather(s, zero)  m = Unsqueeze(n, axis)  t = Concat <axis = 0> (m, rest)"
        "  b = Reshape(a, t)  y = Neg(b)",
        inputs="float[N,2,2] x",
        weights="int64 zero = {0}, int64[1] axis = {0}, int64[1] rest = {4}",
    )
    found = partition(model)
    assert [p.tensor for p in found.split_points] == ["x", "a", "b", "y"]
    assert [p.shape for p in found.split_points] == [(2, 2), (2, 2), (4,), (4,)]


def test_a_tensor_whose_rows_are_not_samples_is_no_split_point() -> None:
    model = graph(
        "a = Reshape(x, rows)  b = Relu(a)  c = Reshape(b, samples)  y = Neg(c)",
        inputs="float[N,2,4] x",
        outputs="float[N,8] y",
        weights="int64[2] rows = {-1, 4}, int64[2] samples = {-1, 8}",
    )
    assert tensors(model) == ["x", "c", "y"]
    turned = graph(
        "a = Relu(x)  b = Transpose <perm = [1, 0, 2]> (a)  c = Transpose <perm = [1, 0, 2]> (b)  y = Neg(c)",
        inputs="float[1,4,3] x",
        outputs="float[1,4,3] y",
    )
    assert tensors(turned) == ["x", "a", "c", "y"]


def test_what_is_optional_and_left_out_is_no_tensor() -> None:
    body = 'a = Clip(x, "", six)  b = Neg(a)  c = Relu(b)  y = Neg(c)'
    model = graph(body, weights="float six = {6.0}")
    model.graph.node[1].op_type = "Dropout"
    model.graph.node[1].output.append("")
    assert tensors(model) == ["x", "a", "b", "c", "y"]


def test_a_branch_that_leads_to_no_output_hides_nothing() -> None:
    assert tensors(graph("a = Relu(x)  b = Neg(a)  c = Relu(b)  unused = Add(a, c)  y = Neg(c)")) == list("xabcy")


def test_a_tensor_that_is_not_float32_is_no_split_point() -> None:
    model = graph("a = Relu(x)  b = Cast <to = 7> (a)  c = Cast <to = 1> (b)  y = Neg(c)")
    assert tensors(model) == ["x", "a", "c", "y"]


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (graph("y = Cast <to = 1> (x)", inputs="uint8[N,4] x"), "float32"),
        (graph("y = ArgMax <axis = 1> (x)", outputs="int64[N,1] y"), "float32"),
    ],
    ids=["input", "output"],
)
def test_an_input_or_output_that_is_not_float32_is_refused(model: onnx.ModelProto, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        partition(model)


def test_two_inputs_are_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"2 inputs \(x, z\)"):
        partition(graph("y = Add(x, z)", inputs="float[N,4] x, float[N,4] z"))


@pytest.mark.parametrize("shape", ["float[N,M] x", "float[] x", "float x"])
def test_an_input_of_unknown_shape_is_refused(shape: str) -> None:
    with pytest.raises(InvalidInput, match="fixed sizes"):
        partition(graph("y = Relu(x)", inputs=shape, outputs=shape.replace("x", "y")))


def test_an_output_whose_rows_are_not_samples_is_refused_with_that_reason() -> None:
    found = graph(
        "r = Relu(x)  y = Reshape(r, rows)",
        inputs="float[1,490] x",
        outputs="float[49,10] y",
        weights="int64[2] rows = {49, 10}",
    )
    with pytest.raises(InvalidInput, match=r"'y' has 49 rows for 1 sample\(s\): its rows are not samples"):
        partition(found)


def test_shapes_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InvalidInput, match="infer the shapes"):
        partition(graph("y = Add(x, w)", weights="float[3] w = {1.0, 2.0, 3.0}"))


def test_a_graph_without_anything_to_cut_is_refused() -> None:
    with pytest.raises(InvalidInput, match="cannot be split"):
        partition(graph("a = Relu(x)  y = Identity(k)", outputs="float[4] y", weights="float[4] k = {1, 2, 3, 4}"))


def test_sizes_ratios_and_bytes_are_those_of_the_shapes() -> None:
    points = partition(three_exit_graph()).split_points
    assert [p.shape for p in points[:4]] == [(1, 8, 8), (4, 8, 8), (4, 8, 8), (6, 4, 4)]
    for point in points:
        assert point.elements == math.prod(point.shape)
        assert point.ratio == point.elements / 64
        assert point.bytes_fp32 == codec.get("fp32").estimate_bytes((1, *point.shape))
        assert point.bytes_int8 == codec.get("int8").estimate_bytes((1, *point.shape))


def test_natural_is_smaller_than_the_input_and_compressive_than_all_before() -> None:
    model = graph(
        "a = Slice(x, zero, three, one)  b = Concat <axis = 1> (a, a)  c = Slice(b, zero, two, one)  y = Neg(c)",
        inputs="float[N,8] x",
        outputs="float[N,2] y",
        weights="int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}",
    )
    points = partition(model).split_points
    assert [(p.elements, p.natural, p.compressive) for p in points] == [
        (8, False, False),
        (3, True, True),
        (6, True, False),
        (2, True, True),
        (2, True, False),
    ]


def test_a_cut_carries_the_exits_after_its_start_up_to_its_end() -> None:
    model = three_exit_graph()
    found = partition(model)
    cutter = Cutter(model, found.split_points, found.exits)
    assert cutter.outputs(Segment(0, 2)) == ["a1", "exit_0"]
    assert cutter.outputs(Segment(2, 4)) == ["a2", "exit_1"]
    assert cutter.outputs(Segment(2, 3)) == ["c2"]
    assert cutter.outputs(Segment(4, 8)) == ["exit_2"]


@pytest.mark.parametrize("seed", range(3))
def test_the_small_network_cut_anywhere_equals_the_whole(seed: int) -> None:
    assert largest_difference(three_exit_graph(seed), 5) <= TOLERANCE


@pytest.mark.parametrize("path", SHIPPED, ids=[path.name for path in SHIPPED])
def test_a_shipped_bundle_cut_anywhere_equals_the_whole(path: Path) -> None:
    loaded = bundle.load(path)
    model = onnx.load_model_from_string(loaded.graph)
    assert partition(model).split_points == loaded.manifest.split_points
    assert largest_difference(model, 3) <= TOLERANCE


@pytest.mark.parametrize(
    ("file", "samples"),
    [
        ("cifar10/imageclassifier_winml.onnx", 3),
        ("cifar10/resnet_2b.onnx", 1),
        ("cifar10/cifar_deep_kw.onnx", 1),
        ("mnist/mnist-8.onnx", 1),
    ],
)
def test_a_real_classifier_cut_anywhere_equals_the_whole(data: Path, file: str, samples: int) -> None:
    path = data / "models" / file
    if not path.is_file():
        pytest.skip(f"no {path}")
    assert largest_difference(onnx.load(path), samples) <= TOLERANCE


def test_a_sequence_of_logits_is_refused_with_its_reason(data: Path) -> None:
    path = data / "models" / "early_exit" / "triplewins_mnist_3exits.onnx"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with pytest.raises(InvalidInput, match="exit"):
        partition(onnx.load(path))


def test_a_graph_that_reads_behind_the_back_of_its_inputs_is_refused() -> None:
    branches = (
        "then_branch = b () => (float[N,4] b) { b = Identity(x) }, else_branch = c () => (float[N,4] c) { c = Neg(x) }"
    )
    body = f"r = Relu(x) flag = Constant <value = bool {{1}}> () y = If (flag) <{branches}>"
    with pytest.raises(InvalidInput, match="If reads tensors"):
        partition(graph(body))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("e = Neg(x) r = Relu(x) y = Sigmoid(r)", "hangs off the input"),
        ("r = Relu(x) e = Slice(r, a, b, c) y = Sigmoid(r)", "not the shape"),
    ],
)
def test_an_exit_that_cannot_be_one_is_refused(body: str, reason: str) -> None:
    width = 2 if "Slice" in body else 4
    weights = "int64[1] a = {0}, int64[1] b = {2}, int64[1] c = {1}" if "Slice" in body else ""
    with pytest.raises(InvalidInput, match=reason):
        partition(graph(body, outputs=f"float[N,{width}] e, float[N,4] y", weights=weights))
