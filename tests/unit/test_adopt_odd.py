"""Foreign graphs that are odd: batches spelled out or lost, sequences, annotations, sparse weights, names of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from services import bundle
from services.errors import InvalidInput
from services.model import Model
from testbed.adopt import adopt
from tests.unit.test_adopt import chained, dense, save


def _pooled(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray], batch: int | str = "n") -> onnx.ModelProto:
    """A graph over pictures [batch, 3, 4, 4] whose first tensor is `p` [batch, 3, 1, 1]."""
    pool = helper.make_node("GlobalAveragePool", ["x"], ["p"])
    return dense([pool, *nodes], weights, [batch, 3, 4, 4], [batch, 2])


_COLUMNS = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_what_loses_its_batch_where_there_is_one_sample_is_no_split_point(tmp_path: Path) -> None:
    model = _pooled(
        helper.make_node("Squeeze", ["p"], ["s"]),
        helper.make_node("Relu", ["s"], ["r"]),
        helper.make_node("Reshape", ["r", "sizes"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["y"]),
        weights={"sizes": np.array([-1, 3]), "w": _COLUMNS},
    )
    adopt(save(model, tmp_path), tmp_path / "b")
    found = Model(bundle.load(tmp_path / "b"))
    assert [point.tensor for point in found.manifest.split_points] == ["x", "p", "rows", "y"]
    one = np.random.default_rng(0).random((1, 3, 4, 4), np.float32)
    whole = chained(found, one, 0, found.last)
    for at in range(1, found.last):
        np.testing.assert_allclose(chained(found, chained(found, one, 0, at), at, found.last), whole, rtol=1e-6)


def test_what_runs_with_a_batch_only_is_refused_as_most_requests_are_one_sample(tmp_path: Path) -> None:
    model = _pooled(
        helper.make_node("Reshape", ["p", "sizes"], ["pairs"]),
        helper.make_node("MatMul", ["pairs", "w"], ["y"]),
        weights={"sizes": np.array([-1, 6]), "w": np.ones((6, 2), np.float32)},
    )
    with pytest.raises(InvalidInput, match="does not run one sample"):
        adopt(save(model, tmp_path), tmp_path / "b")


@pytest.mark.parametrize("batch", [1, "n"])
def test_a_shape_that_a_constant_spells_out_in_full_is_freed_whatever_the_input_declares(
    tmp_path: Path, batch: int | str
) -> None:
    model = _pooled(
        helper.make_node("Reshape", ["p", "sizes"], ["rows"], allowzero=1),
        helper.make_node("MatMul", ["rows", "w"], ["y"]),
        weights={"sizes": np.array([1, 3]), "w": _COLUMNS},
        batch=batch,
    )
    adopted = adopt(save(model, tmp_path), tmp_path / "b")
    assert adopted.manifest.input.max_batch is None
    assert any("it is free now" in note for note in adopted.notes)


@pytest.mark.parametrize("suffix", [".json", ".prototxt", ".onnxtxt", ".txtpb"])
def test_a_file_is_read_as_an_onnx_file_whatever_its_name_ends_in(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(_pooled(*_HEAD, weights=_HEAD_WEIGHTS).SerializeToString())
    assert adopt(file, tmp_path / "b").manifest.split_points
    file.write_text('{"name": "caffe"}')
    with pytest.raises(InvalidInput, match="not an ONNX"):
        adopt(file, tmp_path / "c")


_HEAD = (helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"]))
_HEAD_WEIGHTS = {"w": _COLUMNS}


def test_what_is_only_said_of_quantisation_is_no_reason_to_refuse_a_graph(tmp_path: Path) -> None:
    model = _pooled(*_HEAD, weights=_HEAD_WEIGHTS)
    model.graph.quantization_annotation.add(tensor_name="f")
    assert adopt(save(model, tmp_path), tmp_path / "b").manifest.split_points


def test_sparse_weights_are_refused_with_that_reason(tmp_path: Path) -> None:
    model = _pooled(*_HEAD, weights={})
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [5.0])
    places = helper.make_tensor("w_places", TensorProto.INT64, [1], [4])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3, 2]))
    with pytest.raises(InvalidInput, match="sparse"):
        adopt(save(model, tmp_path), tmp_path / "b")


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_exits_that_are_appended_to_an_empty_sequence_are_exits_in_either_precision(tmp_path: Path, kind: int) -> None:
    half = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    model = _pooled(
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["early"]),
        helper.make_node("Relu", ["f"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["final"]),
        helper.make_node("SequenceEmpty", [], ["none"], dtype=kind),
        helper.make_node("SequenceInsert", ["none", "early"], ["one"]),
        helper.make_node("SequenceInsert", ["one", "final"], ["y"]),
        weights={"w": _COLUMNS.astype(half)},
    )
    model.graph.input[0].type.tensor_type.elem_type = kind
    model.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", kind, None))
    adopted = adopt(save(model, tmp_path), tmp_path / "b")
    assert [spec.output for spec in adopted.manifest.exits] == ["early", "final"]


def test_a_sequence_with_nothing_in_it_is_refused(tmp_path: Path) -> None:
    model = _pooled(helper.make_node("SequenceEmpty", [], ["y"], dtype=TensorProto.FLOAT), weights={})
    model.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None))
    with pytest.raises(InvalidInput, match="output 'y' is a sequence with nothing in it"):
        adopt(save(model, tmp_path), tmp_path / "b")


def test_a_sequence_inside_the_network_stays_what_it_is(tmp_path: Path) -> None:
    model = _pooled(
        helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("SequenceConstruct", ["p", "q"], ["inner"]),
        helper.make_node("ConcatFromSequence", ["inner"], ["both"], axis=1),
        helper.make_node("Reshape", ["both", "sizes"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["scores"]),
        helper.make_node("SequenceConstruct", ["scores"], ["y"]),
        weights={"sizes": np.array([-1, 6]), "w": np.arange(12, dtype=np.float32).reshape(6, 2)},
    )
    model.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["n", 2]))
    model.graph.value_info.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2]))
    adopt(save(model, tmp_path), tmp_path / "b")
    found = Model(bundle.load(tmp_path / "b"))
    one = np.random.default_rng(0).random((1, 3, 4, 4), np.float32)
    mean = one.mean(axis=(2, 3))
    wanted = np.concatenate([mean, mean], axis=1) @ np.arange(12, dtype=np.float32).reshape(6, 2)
    np.testing.assert_allclose(chained(found, one, 0, found.last), wanted, rtol=1e-5)
