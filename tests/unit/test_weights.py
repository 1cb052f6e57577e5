"""Weights apart from their graphs, each once in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from benchmarks.efficientnet import efficientnet_b0
from services.weights import WeightStore, detach, read
from tests.networks import three_exit_graph


def test_equal_tensors_are_kept_once() -> None:
    store, array = WeightStore(), np.arange(6, dtype=np.float32).reshape(2, 3)
    first = store.add(array)
    assert store.add(array.copy()) is first
    assert store.add(np.asfortranarray(array)) is first
    others = [store.add(other) for other in (array + 1, array.reshape(3, 2), array.view(np.int32))]
    assert len({first, *others}) == len(store) == 4


def test_a_tensor_that_nobody_uses_is_let_go() -> None:
    store = WeightStore()
    weight = store.add(np.zeros(9, np.float32))
    assert len(store) == 1
    del weight
    assert len(store) == 0


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.sampled_from(["f4", "f2", "i1", "i8"]))
def test_a_kept_tensor_is_a_copy_that_starts_at_a_cache_line(shape: list[int], dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    weight = WeightStore().add(array)
    assert weight.array.ctypes.data % 64 == 0
    assert weight.array.dtype == array.dtype
    np.testing.assert_array_equal(weight.array, array)
    np.testing.assert_array_equal(weight.value.numpy(), array)
    assert not np.shares_memory(weight.array, array)


def test_a_large_graph_without_its_weights_is_small() -> None:
    graph, store = efficientnet_b0(), WeightStore()
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    weights = detach(graph, store)
    assert sum(weight.array.nbytes for weight in weights.values()) > 20e6
    assert len(graph.SerializeToString()) < 200e3
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight.array, expected[name])


def test_a_small_graph_keeps_its_weights() -> None:
    graph, store = three_exit_graph(), WeightStore()
    assert detach(graph, store) == {}
    assert graph == three_exit_graph()


def test_weights_in_another_file_are_not_looked_for() -> None:
    graph = efficientnet_b0()
    lost = graph.graph.initializer[-2]
    lost.ClearField("raw_data")
    lost.data_location = TensorProto.EXTERNAL
    lost.external_data.add(key="location", value="elsewhere")
    assert lost.name not in detach(graph, WeightStore())


def _written(folder: Path, nbytes: int) -> tuple[Path, Path]:
    """A graph whose only tensor, float32 [2, 3], starts 4 bytes into a file of `nbytes`."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="content")
    tensor.external_data.add(key="offset", value="4")
    model, content = folder / "model.onnx", folder / "content"
    model.write_bytes(helper.make_model(onnx.GraphProto(name="g", initializer=[tensor])).SerializeToString())
    content.write_bytes(np.arange(nbytes // 4, dtype=np.float32).tobytes())
    return model, content


def test_tensors_are_read_from_the_file_beside_the_graph(tmp_path: Path) -> None:
    ((name, array),) = read(*_written(tmp_path, 40))
    assert name == "w"
    np.testing.assert_array_equal(array, np.arange(1, 7, dtype=np.float32).reshape(2, 3))


def test_a_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reshape"):
        list(read(*_written(tmp_path, 16)))
