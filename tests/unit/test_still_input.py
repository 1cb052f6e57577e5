"""What is nothing but the input in another form may leave the device no more than the input itself."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from device_agent.agent import Agent
from device_agent.planner import rank
from device_agent.planning import fallback_plan
from device_agent.plans import FixedPlan
from services import bundle
from services.bundle import Manifest
from services.domain import Deadline, Policy, Segment, Tier
from services.errors import InvalidInput, SettingsError
from services.fixed import fixed_plan, held_plan
from services.front import FixedFront, Wishes
from services.model import Model
from services.partition import partition
from services.settings import DeviceSettings
from testbed.adopt import adopt
from testbed.conversions import open_quantised
from tests.fakes import Above, FakeClock
from tests.journeys import runtime
from tests.problems import link, three

PRIVATE = Policy(privacy=True)
CODECS = ("int8+zstd", "int8+zstd")
SCALED = """
    s = Sub(x, half) p = Transpose <perm = [0, 2, 1]> (s) f = Flatten(p) g = MatMul(f, w) r = Relu(g) y = MatMul(r, v)
"""
QUANTISED = """
    q = QuantizeLinear(x, scale, zero) d = DequantizeLinear(q, scale, zero) h = MatMul(d, w)
    hq = QuantizeLinear(h, scale, zero) a = DequantizeLinear(hq, scale, zero) y = MatMul(a, v)
"""


def graph(body: str, inputs: str = "float[N,4] x", weights: str = "") -> onnx.ModelProto:
    head = f"g ({inputs}) => (float[N,2] y)" + (f" <{weights}>" if weights else "")
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {head} {{ {body} }}')


def matrix(name: str, rows: int, columns: int) -> str:
    return f"float[{rows},{columns}] {name} = {{{', '.join(f'0.{i % 7 + 1}' for i in range(rows * columns))}}}"


def scaled() -> onnx.ModelProto:
    weights = f"float half = {{0.5}}, {matrix('w', 6, 4)}, {matrix('v', 4, 2)}"
    return graph(SCALED, "float[N,2,3] x", weights)


def marked(model: onnx.ModelProto) -> dict[str, bool]:
    return {point.tensor: point.still_input for point in partition(model).split_points[1:]}


@pytest.fixture
def adopted(tmp_path: Path) -> Path:
    """A network that scales, turns and flattens its input before it computes anything, as a bundle."""
    onnx.save(scaled(), tmp_path / "scaled.onnx")
    adopt(tmp_path / "scaled.onnx", tmp_path / "b")
    return tmp_path / "b"


@pytest.fixture
def manifest(adopted: Path) -> Manifest:
    return bundle.load(adopted).manifest


def test_an_input_that_is_scaled_and_turned_around_is_still_the_input() -> None:
    assert marked(scaled()) == {"s": True, "p": True, "f": True, "g": False, "r": False, "y": False}


def test_an_input_on_a_grid_of_eight_bits_is_still_the_input() -> None:
    weights = f"float scale = {{0.1}}, uint8 zero = {{0}}, {matrix('w', 4, 4)}, {matrix('v', 4, 2)}"
    model = graph(QUANTISED, weights=weights)
    open_quantised(model)
    assert marked(model) == {"q_crossing": True, "hq_crossing": False, "y": False}


def test_a_shape_that_is_worked_out_from_the_input_makes_it_no_other() -> None:
    body = "n = Shape <start = 0, end = 1> (x) to = Concat <axis = 0> (n, rest) f = Reshape(x, to) y = MatMul(f, v)"
    found = marked(graph(body, "float[N,2,2] x", f"int64[1] rest = {{4}}, {matrix('v', 4, 2)}"))
    assert found == {"f": True, "y": False}


IMAGE = "float[N,4,2,2] x"
FORMS = [
    "f = SpaceToDepth <blocksize = 2> (x)",
    "f = DepthToSpace <blocksize = 2> (x)",
    "f = Slice(x, zero, two, two)",
    "f = Gather <axis = 1> (x, two)",
    "a, b = Split <axis = 1> (x) f = Concat <axis = 1> (b, a)",
    'f = Resize <mode = "nearest"> (x, , scales)',
    "f = Clip(x, low, high)",
    "f = Neg(x)",
    "f = Exp(x)",
    "f = Relu(x)",
    "f = Softmax(x)",
    "f = CumSum(x, axis)",
    "f = Expand(x, shape)",
    "f = Tile(x, repeats)",
    "m = ReduceMean(x) f = Sub(x, m)",
    "g = Sigmoid(x) f = Mul(x, g)",
    "f = AveragePool <kernel_shape = [2, 2]> (x)",
    "f = MaxPool <kernel_shape = [2, 2]> (x)",
    "f = GlobalAveragePool(x)",
    "f = InstanceNormalization(x, ones, ones)",
    "f = ReduceMean <axes = [1]> (x)",
    "c = Conv(x, k) f = Add(x, c)",
    "c = Conv(x, k) f = Concat <axis = 1> (c, x)",
    "r = Flatten <axis = 3> (x) h = MatMul(r, square) g = Gemm(h, square, r) f = Reshape(g, same)",
    "b = ReduceMean <axes = [0, 2, 3], keepdims = 0> (x) f = Conv(x, k, b)",
    "r = Flatten <axis = 3> (x) s = Unsqueeze(r, zero) "
    "g = GRU <hidden_size = 2> (s, gates, gates, , , s) f = Reshape(g, same)",
]
LAYERS = [
    "f = Conv(x, k)",
    "f = ConvTranspose(x, k)",
    "f = MatMul(x, square)",
    "c = Conv(x, k) n = Shape(x) f = Reshape(c, n)",
    "r = Flatten <axis = 3> (x) g = Gemm(r, square, row) f = Reshape(g, same)",
    "r = Flatten <axis = 3> (x) g = Gemm <transB = 1> (square, r) f = Reshape(g, same)",
    "f = Conv(x, k, ones)",
    "r = Flatten <axis = 3> (x) q, s, z = DynamicQuantizeLinear(r) i = MatMulInteger(q, whole, z) "
    "c = Cast <to = 1> (i) f = Reshape(c, same)",
]
CONSTANTS = f"""
    int64[1] zero = {{0}}, int64[1] two = {{2}}, float[4] scales = {{1, 1, 2, 2}}, int64 axis = {{1}},
    float low = {{-1}}, float high = {{1}}, float[4] ones = {{1, 1, 1, 1}},
    int64[4] shape = {{1, 4, 2, 2}}, int64[4] repeats = {{1, 2, 1, 1}},
    int64[4] same = {{-1, 4, 2, 2}}, {matrix("gates", 6, 2).replace("[", "[1,")}, float[2] row = {{1, 2}},
    uint8[2,2] whole = {{1, 2, 3, 4}},
    float[4,4,1,1] k = {{{", ".join(["0.5"] * 16)}}}, float[2,2] square = {{1, 2, 3, 4}}, float[1,2] v = {{1, 2}}
"""
HEAD = "p = ReduceSum <keepdims = 0> (f, axes) u = Unsqueeze(p, one) y = MatMul(u, v)"


def _form(body: str) -> dict[str, bool]:
    return marked(graph(f"{body} {HEAD}", IMAGE, f"{CONSTANTS}, int64[3] axes = {{1, 2, 3}}, int64[1] one = {{1}}"))


@pytest.mark.parametrize("body", FORMS)
def test_an_input_that_no_layer_has_weighed_is_still_the_input(body: str) -> None:
    assert _form(body)["f"]


@pytest.mark.parametrize("body", LAYERS)
def test_what_a_layer_makes_of_the_input_is_not_the_input(body: str) -> None:
    assert not any(_form(body).values())


def test_no_private_plan_cuts_before_the_first_layer_of_a_real_classifier(data: Path, tmp_path: Path) -> None:
    path = data / "models" / "mnist" / "mnist_relu_9_200.onnx"
    if not path.is_file():
        pytest.skip(f"no {path}")
    found = adopt(path, tmp_path / "b").manifest
    assert [point.index for point in found.split_points if point.still_input] == [1, 2, 3]
    assert found.first_activation == 4


def test_with_privacy_the_planner_cuts_behind_the_first_layer(manifest: Manifest) -> None:
    layers = {tier: [seconds] * manifest.last for tier, seconds in zip(Tier, (1.0, 0.01, 0.001), strict=True)}
    beliefs = three(manifest, layers, link(Tier.DEVICE, 1.25e8, 0.001), link(Tier.EDGE, 1.25e8, 0.001))
    assert rank(beliefs, Policy())[0].plan.stages[0].segment.end < 4
    found = rank(beliefs, PRIVATE, 1, 10_000)
    assert {each.plan.stages[0].segment.end for each in found} == {4, 5, 6}


@pytest.mark.parametrize("splits", [(1, 4), (3, 3), (0, 6)])
async def test_splits_that_send_the_input_in_another_form_are_refused_with_privacy(
    adopted: Path, clock: FakeClock, splits: tuple[int, int]
) -> None:
    model = Model(bundle.load(adopted))
    edge = runtime(model, clock, tier=Tier.EDGE)
    device = runtime(model, clock, Above(edge, clock))
    agent = Agent(device, FixedPlan(fixed_plan(model.manifest, (3, 6), CODECS)))
    wishes = Wishes(privacy=True, splits=splits)
    for front in (agent, FixedFront(device, CODECS)):
        with pytest.raises(InvalidInput, match="raw input would leave"):
            await front.infer(model.zeros(0, 1), Deadline.after(9, clock), wishes=wishes)
    without_splits = await agent.infer(model.zeros(0, 1), Deadline.after(9, clock), wishes=Wishes(privacy=True))
    assert without_splits.plan.stages[0].segment.end >= 4


def test_a_device_that_must_keep_the_input_is_told_how_much_it_has_to_run(manifest: Manifest, adopted: Path) -> None:
    settings = DeviceSettings(bundle=adopted, privacy=True)
    assert fallback_plan(manifest, settings).stages[0].segment.end >= 4
    for changes in ({"splits": "3,6"}, {"holds": Segment(0, 3)}):
        with pytest.raises(SettingsError, match="at least 0:4"):
            fallback_plan(manifest, DeviceSettings(bundle=adopted, privacy=True, **changes))


def test_a_plan_by_the_exits_does_not_cut_where_the_input_crosses_if_that_must_stay(manifest: Manifest) -> None:
    early = manifest.exits[-1].model_copy(update={"split_point": 2, "name": "early"})
    last = manifest.exits[-1].model_copy(update={"index": 1})
    two = manifest.model_copy(update={"exits": (early, last)})
    assert held_plan(two, CODECS).stages[0].segment.end == 2
    assert held_plan(two, CODECS, privacy=True).stages[0].segment.end == 4


def test_a_bundle_that_was_written_without_the_marks_keeps_its_input_too(adopted: Path) -> None:
    text = (adopted / "manifest.json").read_text()
    assert '"still_input": true' in text
    (adopted / "manifest.json").write_text(text.replace('"still_input": true', '"still_input": false'))
    assert Model(bundle.load(adopted)).manifest.first_activation == 4
