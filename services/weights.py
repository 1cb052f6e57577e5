"""Weights apart from the graphs that use them: each once in memory, however many sessions run on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

LARGE_BYTES = 1 << 10
"""A smaller tensor stays in its graph: shapes must be seen there, and a reference is not much smaller."""
SHARED_FROM_BYTES = 1 << 20
"""A model with less than this in large tensors is not worth the care that sharing takes."""

_ALIGNMENT = 64  # a cache line: kernels run 3 to 4 % slower on weights that straddle two
_SHARABLE = {
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT32,
    TensorProto.INT64,
}

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Weight:
    """One tensor as onnxruntime reads it. `value` points into `array` and does not keep it alive."""

    array: Array
    value: ort.OrtValue


class WeightStore:
    """Tensors by content, for as long as anyone uses them. Not thread-safe."""

    def __init__(self) -> None:
        self._weights: WeakValueDictionary[tuple[bytes, str, tuple[int, ...]], Weight] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._weights)

    def add(self, array: Array) -> Weight:
        """The tensor with the content, type and shape of `array`, which is copied unless there is one already."""
        array = np.ascontiguousarray(array)
        content = array.reshape(-1).view(np.uint8)
        key = hashlib.blake2b(content.data, digest_size=32).digest(), array.dtype.str, array.shape
        weight = self._weights.get(key)
        if weight is None:
            kept = _aligned(content).view(array.dtype).reshape(array.shape)
            weight = self._weights[key] = Weight(kept, ort.OrtValue.ortvalue_from_numpy(kept))
        return weight


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that is written down in `graph`. Graphs within it are refused where it is split."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)


def detach(model: onnx.ModelProto, store: WeightStore) -> dict[str, Weight]:
    """Moves the large initializers of `model` into `store`, where they are worth it, and returns them by name.

    What stays of each in the graph is a reference, so that cutting and parsing the graph moves no weights. The
    references name no file: whoever builds a session has to hand the weights over.
    """
    candidates = (t for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL)
    large = [t for t in candidates if t.data_type in _SHARABLE and _nbytes(t) >= LARGE_BYTES]
    if sum(map(_nbytes, large)) < SHARED_FROM_BYTES:
        return {}
    weights = {}
    for tensor in large:
        weights[tensor.name] = store.add(numpy_helper.to_array(tensor))
        reference = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        reference.data_location = TensorProto.EXTERNAL
        reference.external_data.add(key="location", value="detached")
        tensor.CopyFrom(reference)
    return weights


def read(model: Path, weights: Path) -> Iterator[tuple[str, Array]]:
    """Name and content of each tensor that the graph in file `model` keeps in file `weights`, mapped, not copied.

    Raises ValueError where the two do not fit.
    """
    graph = onnx.load(str(model), load_external_data=False).graph
    tensors = [tensor for tensor in graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    content: Array = np.memmap(weights, np.uint8, "r") if tensors else np.empty(0, np.uint8)
    for tensor in tensors:
        offset = int({entry.key: entry.value for entry in tensor.external_data}.get("offset", 0))
        part = content[offset : offset + _nbytes(tensor)]
        yield tensor.name, part.view(helper.tensor_dtype_to_np_dtype(tensor.data_type)).reshape(tuple(tensor.dims))


def _nbytes(tensor: TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _aligned(content: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    room = np.empty(content.nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    kept = room[start : start + content.nbytes]
    kept[:] = content
    return kept
