"""Foreign ONNX graphs become bundles, or are refused with the reason."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from services import bundle
from services.domain import FloatArray, Segment
from services.errors import InvalidInput, SettingsError, TooLarge
from services.model import Model
from testbed.adopt import NEVER, adopt, adopt_network
from tests.networks import three_exit_graph

CLASSIFIERS = {
    "models/cifar10/cifar_deep_kw.onnx": 1,
    "models/cifar10/imageclassifier_winml.onnx": 1,
    "models/cifar10/resnet_2b.onnx": 1,
    "models/early_exit/triplewins_mnist_3exits.onnx": 3,
    "models/mnist/mnist-8.onnx": 1,
    "models/mnist/mnist_relu_9_200.onnx": 1,
    "light_graphs/light_squeezenet.onnx": 1,
}
REFUSED = {
    "models/odd/mnist_opset1_2017.onnx": "onnxruntime refuses",
    "models/other/ultraface_rfb320.onnx": "choose one with --output",
    "models/other/super_resolution_10.onnx": "not one row of class scores",
    "models/other/fns_candy_720.onnx": "not one row of class scores",
}


def save(model: onnx.ModelProto, folder: Path) -> Path:
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def dense(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: list[int | str], out: list[int | str]
) -> onnx.ModelProto:
    """A graph from `x` to `y`."""
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", out))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


HUGE = {"light_graphs/light_resnet50.onnx": 40, "light_graphs/light_vgg19.onnx": 46}


def chained(model: Model, tensor: FloatArray, start: int, end: int) -> FloatArray:
    return cut_at(model, tensor, start, end)[0]


def cut_at(model: Model, tensor: FloatArray, *cuts: int) -> tuple[FloatArray, list[FloatArray]]:
    """What comes out at the last of `cuts`, and the scores of every exit on the way."""
    left = []
    for start, end in pairwise(cuts):
        for piece in model.pieces(Segment(start, end)):
            tensor, scores = model.run(piece, tensor)
            if scores is not None:
                left.append(scores)
    return tensor, left


@pytest.mark.parametrize(("name", "exits"), CLASSIFIERS.items())
def test_a_real_classifier_split_anywhere_equals_the_whole_at_every_exit(
    data: Path, tmp_path: Path, name: str, exits: int
) -> None:
    manifest = adopt(data / name, tmp_path / "b").manifest
    assert len(manifest.exits) == exits
    model = Model(bundle.load(tmp_path / "b"), max_sessions=4)
    inputs = np.random.default_rng(0).normal(size=(3, *manifest.input.shape)).astype(np.float32)
    _, whole = cut_at(model, inputs, 0, model.last)
    assert len(whole) == exits
    for cut in range(1, model.last):
        _, split = cut_at(model, inputs, 0, cut, model.last)
        for found, expected in zip(split, whole, strict=True):
            assert np.abs(found - expected).max() <= 1e-5 * max(1.0, float(np.abs(expected).max())), cut


@pytest.mark.parametrize(("name", "points"), HUGE.items())
def test_a_huge_classifier_split_everywhere_at_once_equals_the_whole(
    data: Path, tmp_path: Path, name: str, points: int
) -> None:
    manifest = adopt(data / name, tmp_path / "b").manifest
    assert len(manifest.split_points) == points
    model = Model(bundle.load(tmp_path / "b"), max_sessions=1)
    inputs = np.random.default_rng(0).normal(size=(1, *manifest.input.shape)).astype(np.float32)
    pieces = inputs
    for cut in range(model.last):
        pieces = chained(model, pieces, cut, cut + 1)
    whole = chained(model, inputs, 0, model.last)
    assert np.abs(pieces - whole).max() <= 1e-5 * np.abs(whole).max()


def test_one_named_output_of_a_detector_can_be_split_anywhere(data: Path, tmp_path: Path) -> None:
    adopted = adopt(data / "models/other/ultraface_rfb320.onnx", tmp_path / "b", output="scores")
    assert adopted.manifest.split_points[-1].shape == (8840,)
    assert any("8,840 numbers" in note for note in adopted.notes)
    model = Model(bundle.load(tmp_path / "b"), max_sessions=4)
    inputs = np.random.default_rng(0).normal(size=(2, 3, 240, 320)).astype(np.float32)
    whole = chained(model, inputs, 0, model.last)
    for cut in range(1, model.last):
        split = chained(model, chained(model, inputs, 0, cut), cut, model.last)
        assert np.abs(split - whole).max() <= 1e-5, cut


def test_a_named_output_of_too_many_numbers_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="2 to 65,536 numbers"):
        adopt(data / "models/other/super_resolution_10.onnx", tmp_path / "b", output="output")


def test_photos_that_are_given_are_what_bytes_are_measured_on(data: Path, tmp_path: Path) -> None:
    found = adopt(data / "models/cifar10/resnet_2b.onnx", tmp_path / "b", images=data / "photos")
    assert "8 photos" in found.measured_on
    assert [entry.split_point for entry in found.manifest.codec_accuracy] == list(range(11))
    assert all(entry.delta is None for entry in found.manifest.codec_accuracy)


def test_bytes_after_the_codec_are_measured_at_every_split_point(tmp_path: Path) -> None:
    found = adopt(save(three_exit_graph(), tmp_path), tmp_path / "b")
    assert "synthetic" in found.measured_on
    measured = {
        entry.split_point: entry.bytes_per_sample for entry in bundle.load(tmp_path / "b").manifest.codec_accuracy
    }
    for point in found.manifest.split_points:
        weight = measured[point.index]
        assert weight is not None
        assert 0 < weight < point.bytes_int8 + 64


def test_weights_that_an_old_graph_lists_as_inputs_become_constants(tmp_path: Path) -> None:
    weights = {"w": np.eye(4, dtype=np.float32), "b": np.ones(4, np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    old = dense(nodes, weights, ["n", 4], ["n", 4])
    listed = (helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in weights.items())
    old.graph.input.extend(listed)
    old.ir_version, old.opset_import[0].version = 3, 8
    found = adopt(save(old, tmp_path), tmp_path / "b")
    assert "2 weights were listed as inputs; they are constants now" in found.notes
    assert found.manifest.input.name == "x"
    model, x = Model(bundle.load(tmp_path / "b")), np.zeros((3, 4), np.float32)
    assert np.array_equal(chained(model, x, 0, model.last), np.ones((3, 4)))


def test_a_misspelt_network_is_told_from_a_missing_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "training.families.export", None)  # as where torch is not installed
    with pytest.raises(InvalidInput, match=r"no network is called 'resnet999'; known: .*resnet20"):
        adopt_network("resnet999", tmp_path / "b")
    with pytest.raises(SettingsError, match="--network needs"):
        adopt_network("resnet20", tmp_path / "b")


def test_a_published_network_becomes_a_bundle_with_random_weights_and_exits(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    found = adopt_network("resnet20", tmp_path / "b", exits=(3, 6), classes=5, seed=7)
    loaded = bundle.load(tmp_path / "b")
    assert [spec.threshold for spec in loaded.manifest.exits] == [NEVER, NEVER, 0]
    assert loaded.manifest.labels == ("0", "1", "2", "3", "4")
    assert loaded.manifest.input.preprocessing is not None
    assert "seed 7" in found.notes[0]
    again = adopt_network("resnet20", tmp_path / "c", exits=(6, 3), classes=5, seed=7)
    assert again.manifest.graph_sha256 == found.manifest.graph_sha256
    model, inputs = Model(loaded), np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    whole = chained(model, inputs, 0, model.last)
    for cut in range(1, model.last):
        assert np.abs(chained(model, chained(model, inputs, 0, cut), cut, model.last) - whole).max() <= 1e-5


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_what_cannot_be_served_is_refused_with_the_reason(data: Path, tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        adopt(data / name, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_several_exits_over_the_same_classes_are_kept(tmp_path: Path) -> None:
    manifest = adopt(save(three_exit_graph(), tmp_path), tmp_path / "b").manifest
    assert [spec.split_point for spec in manifest.exits] == [2, 4, 8]
    assert [spec.threshold for spec in manifest.exits] == [NEVER, NEVER, 0]


def test_one_output_can_be_chosen(tmp_path: Path) -> None:
    manifest = adopt(save(three_exit_graph(), tmp_path), tmp_path / "b", output="exit_1").manifest
    assert [spec.output for spec in manifest.exits] == ["exit_1"]
    assert "c3" not in [point.tensor for point in manifest.split_points]


def test_an_output_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="exit_0, exit_1, exit_2"):
        adopt(save(three_exit_graph(), tmp_path), tmp_path / "b", output="nonsense")


def test_a_softmax_at_the_end_does_not_happen_twice(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["s"]), helper.make_node("Softmax", ["s"], ["y"])]
    model = dense(nodes, {"w": np.eye(3, dtype=np.float32)}, ["n", 3], ["n", 3])
    adopted = adopt(save(model, tmp_path), tmp_path / "b")
    assert adopted.manifest.exits[0].output == "s"
    assert any("Softmax" in note for note in adopted.notes)


def test_a_graph_that_needs_its_fixed_batch_keeps_it_and_says_so(tmp_path: Path) -> None:
    nodes = [helper.make_node("Concat", ["x", "c"], ["j"], axis=1), helper.make_node("MatMul", ["j", "w"], ["y"])]
    weights = {"c": np.ones((1, 1), np.float32), "w": np.ones((4, 2), np.float32)}
    adopted = adopt(save(dense(nodes, weights, [1, 3], [1, 2]), tmp_path), tmp_path / "b")
    assert adopted.manifest.input.max_batch == 1
    assert any("does not allow" in note for note in adopted.notes)
    with pytest.raises(TooLarge, match="1 sample at a time"):
        Model(bundle.load(tmp_path / "b")).check(0, (2, 3))


def test_answers_that_depend_on_the_rest_of_their_batch_are_given_one_by_one(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "scale"], ["y"]),
    ]
    weights = {"w": np.random.default_rng(1).integers(-9, 9, (8, 3)).astype(np.int8)}
    adopted = adopt(save(dense(nodes, weights, ["n", 8], ["n", 3]), tmp_path), tmp_path / "b")
    assert adopted.manifest.input.max_batch == 1
    assert any("depends on the other samples" in note for note in adopted.notes)


def test_a_batch_that_is_fixed_at_several_and_cannot_be_freed_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "two"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"])]
    weights = {"two": np.array([2, 4], np.int64), "w": np.ones((4, 3), np.float32)}
    with pytest.raises(InvalidInput, match="the batch is fixed at 2"):
        adopt(save(dense(nodes, weights, [2, 2, 2], [2, 3]), tmp_path), tmp_path / "b")


def test_a_shape_that_is_computed_survives_the_freeing_of_the_batch(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["g"]),
        helper.make_node("Unsqueeze", ["g", "axis"], ["u"]),
        helper.make_node("Concat", ["u", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["r", "t"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    weights = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1]), "w": np.ones((4, 3), np.float32)}
    adopted = adopt(save(dense(nodes, weights, [1, 2, 2], [1, 3]), tmp_path), tmp_path / "b")
    assert adopted.manifest.input.max_batch is None
    assert [point.tensor for point in adopted.manifest.split_points] == ["x", "r", "f", "y"]


def test_exits_may_be_declared_in_any_order_but_two_at_one_place_are_refused(tmp_path: Path) -> None:
    weights = {"w": np.eye(4, 3, dtype=np.float32)}
    ends = ("a", "b", "c")
    nodes = [helper.make_node("Relu", [x], [y]) for x, y in zip(("x", "a", "b"), ends, strict=True)]
    nodes += [helper.make_node("MatMul", [end, "w"], [f"e{end}"]) for end in ends]
    model = dense(nodes, weights, ["n", 4], ["n", 3])
    for order, exits in ((("eb", "ea", "ec"), ["ea", "eb", "ec"]), (("ea", "ea2", "ec"), None)):
        del model.graph.output[:]
        if exits is None:
            model.graph.node.append(helper.make_node("MatMul", ["a", "w"], ["ea2"]))
        model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in order)
        if exits is None:
            with pytest.raises(InvalidInput, match=r"makes no bundle: outputs 'ea' and 'ea2' .* --output"):
                adopt(save(model, tmp_path), tmp_path / "b")
        else:
            found = adopt(save(model, tmp_path), tmp_path / "b").manifest.exits
            assert [spec.output for spec in found] == exits


@pytest.mark.parametrize("content", [b"", b"\x00", b"not a graph", b"\x08\x08"])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"model\.onnx"):
        adopt(tmp_path / "model.onnx", tmp_path / "b")


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    model = three_exit_graph()
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="../secret")
    with pytest.raises(InvalidInput, match="other files"):
        adopt(save(model, tmp_path), tmp_path / "b")


@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16])
def test_numbers_of_a_constant_in_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    """Wherever the command was started: a file beside it must not end up in the bundle."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(8))
    outside = onnx.TensorProto(name="k", data_type=kind, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="secret")
    nodes = [helper.make_node("Constant", [], ["k"], value=outside), helper.make_node("Add", ["x", "k"], ["y"])]
    with pytest.raises(InvalidInput, match="other files"):
        adopt(save(dense(nodes, {}, ["n", 2], ["n", 2]), tmp_path), tmp_path / "b")


def test_a_batch_that_a_constant_fixes_is_freed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["sizes"], value_ints=[1, 4]),
        helper.make_node("Reshape", ["x", "sizes"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    model = dense(nodes, {"w": np.ones((4, 3), np.float32)}, [1, 2, 2], [1, 3])
    assert adopt(save(model, tmp_path), tmp_path / "b").manifest.input.max_batch is None


@pytest.mark.parametrize("shape", [[], ["n"], [1, 1 << 40]])
def test_an_input_that_is_no_batch_of_samples_is_refused(tmp_path: Path, shape: list[int | str]) -> None:
    model = dense([helper.make_node("Relu", ["x"], ["y"])], {}, shape, shape)
    with pytest.raises(InvalidInput, match="batch"):
        adopt(save(model, tmp_path), tmp_path / "b")
