"""Tensors of the Open Inference Protocol ⇄ numpy. Every length is checked before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from services.bundle import InputSpec
from services.domain import FloatArray
from services.errors import InvalidInput, TooLarge
from services.images import image_shape, preprocess
from services.limiter import check_batch

IMAGE = "image"
"""The name of the second way in: uint8 pixels, [N, height, width, channels], preprocessed by the tier."""

_DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}
_MAX_TYPED = 1 << 20
"""Typed contents are turned to numbers one by one, while everybody else waits: for so many, a tenth of a second."""
_CONTENTS = {"FP32": "fp32_contents", "UINT8": "uint_contents"}

Take = Callable[[int], object]
"""Is told how many bytes of float32 there are about to be, and raises where that is too many."""


def read_input(request: Any, spec: InputSpec, max_batch: int, take: Take = lambda size: None) -> FloatArray:
    """The samples of a ModelInferRequest as float32 [N, *input shape].

    Raises what `take` raises, TooLarge for a batch over `max_batch` or too many typed values, and InvalidInput for a
    wrong name, dtype, shape or size, mixed raw and typed contents, or values that are not finite.
    """
    if len(request.inputs) != 1:
        raise InvalidInput(f"give exactly one input, {spec.name!r}{_or_image(spec)}; got {len(request.inputs)}")
    tensor = request.inputs[0]
    if tensor.name == spec.name and not (tensor.name == IMAGE and tensor.datatype == "UINT8"):
        samples = _array(request, tensor, "FP32", spec.shape, max_batch, take)
    elif tensor.name == IMAGE and (shape := image_shape(spec)) is not None:
        samples = preprocess(_array(request, tensor, "UINT8", shape, max_batch, take), spec)
    else:
        raise InvalidInput(f"no input is called {tensor.name[:60]!r}; there is {spec.name!r}{_or_image(spec)}")
    if not np.logical_and.reduce(np.isfinite(samples), axis=None):
        raise InvalidInput(f"input {tensor.name!r} has values that are not finite (NaN or infinity)")
    return np.ascontiguousarray(samples, np.float32)


def _array(
    request: Any, tensor: Any, datatype: str, shape: tuple[int, ...], max_batch: int, take: Take
) -> npt.NDArray[Any]:
    if tensor.datatype != datatype:
        raise InvalidInput(f"input {tensor.name!r} must be {datatype}, got {tensor.datatype[:20]!r}")
    given = tuple(tensor.shape[: len(shape) + 2])
    if given[1:] != shape:
        raise InvalidInput(f"input {tensor.name!r} must have shape {[-1, *shape]}, got {list(tensor.shape[:10])}")
    check_batch(given[0], max_batch)
    count = math.prod(given)
    take(4 * count)  # pixels, too, become float32
    return _flat(request, tensor, datatype, count).reshape(given)


def _flat(request: Any, tensor: Any, datatype: str, count: int) -> npt.NDArray[Any]:
    raw = request.raw_input_contents
    typed = tensor.HasField("contents") and bool(tensor.contents.ListFields())  # MLServer's client sends it empty
    if len(raw) and typed:
        raise InvalidInput("give raw_input_contents or contents, not both")
    if len(raw):
        return _from_raw(raw, tensor.name, _DTYPES[datatype], count)
    if not typed:
        raise InvalidInput(f"input {tensor.name!r} has no data")
    if count > _MAX_TYPED:
        raise TooLarge(f"input {tensor.name!r} has {count:,} values; beyond {_MAX_TYPED:,} give raw_input_contents")
    values = getattr(tensor.contents, _CONTENTS[datatype])
    if len(values) != count:
        raise InvalidInput(f"input {tensor.name!r} has {len(values)} values, its shape needs {count}")
    array = np.fromiter(values, np.float32 if datatype == "FP32" else np.uint32, count)
    if datatype == "UINT8" and (array > 255).any():
        raise InvalidInput(f"input {tensor.name!r} has values above 255")
    return array


def _from_raw(raw: Any, name: str, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    if len(raw) != 1:
        raise InvalidInput(f"raw_input_contents has {len(raw)} elements for 1 input")
    data = raw[0]  # once: each time makes a copy of it
    if len(data) != count * dtype.itemsize:
        raise InvalidInput(f"input {name!r} has {len(data)} bytes, its shape needs {count * dtype.itemsize}")
    return np.frombuffer(data, dtype)


def _or_image(spec: InputSpec) -> str:
    return f" or {IMAGE!r}" if spec.preprocessing else ""
