"""A network of the families as an ONNX graph with random weights, for everything that needs no accuracy."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import nn

from services.domain import FloatArray
from training.families.network import build, settle, with_exits

OPSET = 17
INPUT = "input"


def untrained(
    name: str, images: FloatArray, after: Sequence[int] = (), classes: int | None = None, seed: int = 0
) -> onnx.ModelProto:
    """The graph of the network called `name`, with exits after the blocks `after` and weights from `seed`.

    images: float32 [N, 3, size, size], preprocessed: what its batch normalisation is set to. Raises InvalidInput
    for a network or a block there is none of.
    """
    plain = build(name, classes)
    network: nn.Module = with_exits(plain, after) if after else plain
    settle(network, torch.from_numpy(images), seed)
    return exported(network, plain.architecture.input_shape, len(set(after)) + 1)


def exported(network: nn.Module, shape: tuple[int, ...], exits: int) -> onnx.ModelProto:
    """The graph of `network` in evaluation: float32 [N, *shape] to `exits` outputs, with a dynamic batch."""
    outputs = [f"exit_{index}" for index in range(exits)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this exporter folds, names and orders as we need
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)  # it says where it does not; it need not
        file = Path(folder) / "model.onnx"
        torch.onnx.export(
            network.eval(),
            (torch.zeros(1, *shape),),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in (INPUT, *outputs)},
        )
        model = onnx.load(file)
    for node in model.graph.node:
        node.doc_string = ""
    return model
