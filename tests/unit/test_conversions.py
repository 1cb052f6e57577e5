"""Foreign numbers and layouts: half precision, channels last, quantised; converted, they answer as before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from services import bundle
from services.domain import FloatArray, Segment
from services.errors import InvalidInput
from services.model import Model
from services.partition import partition
from testbed.adopt import Adopted, adopt
from testbed.conversions import channels_first, open_quantised, widen
from tests.networks import SHAPE, three_exit_graph

HALF = np.dtype(np.float16)


def samples(count: int = 3, shape: tuple[int, ...] = SHAPE) -> FloatArray:
    return np.random.default_rng(0).random((count, *shape), np.float32)


def answers(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(None, {session.get_inputs()[0].name: x})]


def adopted(model: onnx.ModelProto, folder: Path) -> Adopted:
    onnx.save(model, folder / "model.onnx")
    return adopt(folder / "model.onnx", folder / "b")


def largest_difference_of_any_split(path: Path, x: FloatArray) -> float:
    """Between the whole and head then tail, over all split points, at the final exit."""
    model = Model(bundle.load(path), max_sessions=4)

    def run(start: int, end: int, tensor: FloatArray) -> FloatArray:
        for piece in model.pieces(Segment(start, end)):
            tensor = model.run(piece, tensor)[0]
        return tensor

    whole = run(0, model.last, x)
    return max(float(np.abs(run(k, model.last, run(0, k, x)) - whole).max()) for k in range(1, model.last))


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with weights and ends in float16."""
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(HALF), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def test_a_network_in_half_precision_answers_as_before_in_float32(tmp_path: Path) -> None:
    half, x = in_half(three_exit_graph()), samples().astype(HALF)
    before = answers(half, x)
    found = adopted(half, tmp_path)
    assert found.manifest.input.dtype == "float32"
    assert any("half precision" in note for note in found.notes)
    after = answers(onnx.load(tmp_path / "b" / "model.onnx"), x.astype(np.float32))
    for got, wanted in zip(after, before, strict=True):
        assert np.abs(got - wanted.astype(np.float32)).max() <= 5e-3 * np.abs(wanted).max()
    assert [p.index for p in found.manifest.split_points] == list(range(9))
    assert largest_difference_of_any_split(tmp_path / "b", x.astype(np.float32)) <= 1e-5


def test_half_precision_inside_casts_and_constants_is_widened_too() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) {
        h = Cast <to = 10> (x)  k = Constant <value = float[1] {2.0}> ()  a = Mul(h, k)  b = Relu(a)
        y = Cast <to = 1> (b) }"""
    model = onnx.parser.parse_model(text)
    constant = model.graph.node[1].attribute[0].t
    constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant).astype(HALF)))
    assert [p.tensor for p in partition(model).split_points] == ["x", "y"]
    assert widen(model) is not None
    assert [p.tensor for p in partition(model).split_points] == ["x", "h", "a", "b", "y"]
    x = samples(2, (4,))
    np.testing.assert_array_equal(answers(model, x)[0], 2 * x)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_a_weight_in_half_precision_that_is_cut_short_is_refused(tmp_path: Path, kind: int) -> None:
    model = in_half(three_exit_graph())
    weight = model.graph.initializer[0]
    weight.data_type, weight.raw_data = kind, weight.raw_data[:-4]
    with pytest.raises(InvalidInput, match=f"weight '{weight.name}' does not hold the numbers it should"):
        adopted(model, tmp_path)


def test_float32_is_left_alone() -> None:
    model = three_exit_graph()
    before = model.SerializeToString()
    assert widen(model) is channels_first(model) is open_quantised(model) is None
    assert model.SerializeToString() == before


def pictures(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray], batch: int | str = "n") -> onnx.ModelProto:
    """A graph from images `x` [N, 6, 5, 3] to `y` [N, 4]."""
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    ends = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", [batch, 6, 5, 3]), ("y", [batch, 4]))]
    graph = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)


@pytest.mark.parametrize("batch", ["n", 1])
def test_images_with_channels_last_become_channels_first_and_their_transpose_goes(
    tmp_path: Path, batch: int | str
) -> None:
    w = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
    model = pictures(
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w", "c"),
        node("GlobalAveragePool", "c", "p"),
        node("Flatten", "p", "y"),
        weights={"w": w},
        batch=batch,
    )
    x = samples(1, (6, 5, 3))
    before = answers(model, x)[0]
    found = adopted(model, tmp_path)
    assert found.manifest.input.shape == (3, 6, 5)
    assert [point.tensor for point in found.manifest.split_points] == ["x", "c", "p", "y"]
    after = answers(onnx.load(tmp_path / "b" / "model.onnx"), x.transpose(0, 3, 1, 2))[0]
    np.testing.assert_array_equal(after, before)


def test_a_network_that_works_on_channels_last_keeps_its_order_inside(tmp_path: Path) -> None:
    w = np.random.default_rng(1).normal(size=(90, 4)).astype(np.float32)
    model = pictures(node("Relu", "x", "r"), node("Flatten", "r", "f"), node("MatMul", "f w", "y"), weights={"w": w})
    x = samples(2, (6, 5, 3)) - 0.5
    before = answers(model, x)[0]
    found = adopted(model, tmp_path)
    assert any("[N, H, W, C]" in note for note in found.notes)
    after = answers(onnx.load(tmp_path / "b" / "model.onnx"), x.transpose(0, 3, 1, 2))[0]
    np.testing.assert_allclose(after, before, rtol=1e-6)
    assert largest_difference_of_any_split(tmp_path / "b", x.transpose(0, 3, 1, 2)) <= 1e-6


@pytest.mark.parametrize(
    "body",
    [
        "y = Conv(x, w)",
        "y = ConvTranspose(x, v)",
        "y = MaxPool <kernel_shape = [2, 1]> (x)",
        "y = GlobalAveragePool(x)",
        "y = BatchNormalization(x, b, b, b, b)",
        "c = Cast <to = 1> (x)  y = Conv(c, w)",
    ],
)
def test_an_input_that_is_read_as_channels_first_is_left_alone_whatever_its_shape(body: str) -> None:
    nine = ", ".join("1" * 9)
    weights = f"float[1,9,1,1] w = {{{nine}}}, float[9,1,1,1] v = {{{nine}}}, float[9] b = {{{nine}}}"
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,9,128,1] x) => (float[N,C,H,W] y) <{weights}>'
    model = onnx.parser.parse_model(f"{text} {{ {body} }}")
    before = model.SerializeToString()
    assert channels_first(model) is None
    assert model.SerializeToString() == before


class Calibration(CalibrationDataReader):
    def __init__(self) -> None:
        self.inputs: Iterator[dict[str, FloatArray]] = iter([{"input": samples(4)}])

    def get_next(self) -> dict[str, FloatArray] | None:
        return next(self.inputs, None)


def quantised(folder: Path) -> onnx.ModelProto:
    source, result = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(three_exit_graph(), source)
    quantize_static(
        source,
        result,
        Calibration(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return onnx.load(result)


def test_a_quantised_network_is_cut_where_it_is_on_the_grid_and_answers_to_the_bit(tmp_path: Path) -> None:
    model, x = quantised(tmp_path), samples()
    before = answers(model, x)
    assert [p.tensor for p in partition(model).split_points] == ["input", "exit_2"]
    found = adopted(model, tmp_path)
    points = found.manifest.split_points
    assert len(points) > 4
    assert all(point.tensor.endswith("_crossing") for point in points[1:-1])
    for got, wanted in zip(answers(onnx.load(tmp_path / "b" / "model.onnx"), x), before, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert largest_difference_of_any_split(tmp_path / "b", x) == 0


def test_a_quantised_tensor_that_two_nodes_read_is_opened_once() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y)
        <float s = {0.1}, uint8 z = {0}> {
        q = QuantizeLinear(x, s, z)  a = DequantizeLinear(q, s, z)  b = DequantizeLinear(q, s, z)
        n = Neg(a)  y = Add(n, b) }"""
    model = onnx.parser.parse_model(text)
    assert "1 quantised" in (open_quantised(model) or "")
    assert [p.tensor for p in partition(model).split_points] == ["x", "q_crossing", "y"]
    x = samples(2, (4,))
    np.testing.assert_array_equal(answers(model, x)[0], 0 * x)
