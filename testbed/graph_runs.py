"""What onnxruntime makes of a graph: whether it runs, also on one sample, and whether batches give what those do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from services.errors import InvalidInput

_TOLERANCE = 1e-3
"""Of a sample's largest output, between its answers alone and in a batch: kernels differ by less, samples by more."""
_SCALES = (1.0, 1.0, 100.0)
"""Of the samples of a batch: where one decides how others are rounded, equal ones would not show it."""


def check_runs(model: onnx.ModelProto) -> None:
    """Raises InvalidInput with onnxruntime's reason, where it refuses the graph."""
    try:
        _session(model)
    except Exception as error:  # onnxruntime raises many kinds; each means that it does not run this
        reason = str(error).strip().splitlines()[0][-300:]  # it begins with a place in onnxruntime's source
        raise InvalidInput(f"onnxruntime refuses the graph: {reason}") from None


def check_one_sample(model: onnx.ModelProto) -> None:
    """Raises InvalidInput where onnxruntime does not run a single sample, which is what most requests are."""
    name, shape = _input(model)
    if not all(shape):
        return  # a size that is not known is refused where it is asked for
    try:
        _session(model).run(None, {name: np.ones((1, *shape), np.float32)})
    except Exception as error:  # whatever onnxruntime says
        raise InvalidInput(f"onnxruntime does not run one sample: {str(error)[:200]}") from None


def doubt(model: onnx.ModelProto) -> str | None:
    """Why a batch may not give what single runs give; None where it does."""
    name, shape = _input(model)
    scales = np.array(_SCALES, np.float32).reshape(-1, *(1 for _ in shape))
    samples = scales * np.random.default_rng(0).normal(size=(len(_SCALES), *shape)).astype(np.float32)
    try:
        session = _session(model)
        for inputs in (samples, np.abs(samples)):  # Log and Sqrt know no negative numbers
            together = session.run(None, {name: inputs})
            alone = [session.run(None, {name: each[None]}) for each in inputs]
            if all(np.isfinite(found).all() for answer in (together, *alone) for found in answer):
                return None if _agree(together, alone) else "an answer depends on the other samples of its batch"
    except Exception:  # whatever onnxruntime says, this graph does not take a batch
        return "it does not run with a batch"
    return "its answers to random inputs are not all finite, which proves nothing about batches"


def _input(model: onnx.ModelProto) -> tuple[str, list[int]]:
    """Its name, and the shape of one sample; 0 where a size is not known."""
    value = model.graph.input[0]
    return value.name, [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def _agree(together: Sequence[Any], alone: list[Sequence[Any]]) -> bool:
    return all(
        len(batch) == len(alone) and all(_alike(row, one[index]) for row, one in zip(batch, alone, strict=True))
        for index, batch in enumerate(together)
    )


def _alike(together: npt.NDArray[Any], alone: npt.NDArray[Any]) -> bool:
    wide, one = np.asarray(together, np.float64), np.asarray(alone[0], np.float64)  # differences may overflow float32
    return bool(np.allclose(wide, one, rtol=0, atol=_TOLERANCE * np.max(np.abs(one))))
