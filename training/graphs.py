"""A network as an ONNX graph."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

INPUT = "input"
OPSET = 17


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
