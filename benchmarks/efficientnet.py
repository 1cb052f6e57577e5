"""EfficientNet-B0 as an ONNX graph with random weights: what a large network costs needs no training.

The layers are those of Tan and Le, EfficientNet (ICML 2019), table 1: 16 MBConv blocks with squeeze-and-
excitation and SiLU, batch normalisation folded into the convolutions. 5.3 million weights, 21 MB.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from services.bundle import Bundle, ExitSpec, InputSpec, Manifest, sha256
from services.partition import partition

SHAPE = (3, 224, 224)
CLASSES = 1000

_STAGES = (  # expansion, kernel, stride, output channels, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)

_GAIN = 1.5  # about what SiLU and the gates take away


def efficientnet_b0(seed: int = 0, shape: tuple[int, int, int] = SHAPE, classes: int = CLASSES) -> onnx.ModelProto:
    """input float32 [n, *shape] → logits float32 [n, classes]; weights scaled so that activations stay near 1."""
    drawing = Drawing(np.random.default_rng(seed))
    tensor, channels = drawing.silu(drawing.conv("input", shape[0], 32, 3, stride=2)), 32
    for expansion, kernel, stride, outputs, blocks in _STAGES:
        for block in range(blocks):
            tensor = drawing.mbconv(tensor, channels, outputs, expansion, kernel, 1 if block else stride)
            channels = outputs
    tensor = drawing.silu(drawing.conv(tensor, channels, 1280, 1))
    tensor = drawing.op("Flatten", [drawing.op("GlobalAveragePool", [tensor])])
    weights = [drawing.weight((classes, 1280), 1280, gain=1.0), drawing.weight((classes,), 1)]
    drawing.nodes.append(helper.make_node("Gemm", [tensor, *weights], ["logits"], name="logits", transB=1))
    graph = helper.make_graph(
        drawing.nodes,
        "efficientnet_b0",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        drawing.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def in_memory(graph: onnx.ModelProto) -> Bundle:
    """A bundle of `graph` that is in no file."""
    data, found = graph.SerializeToString(), partition(graph)
    first, final = found.split_points[0], found.split_points[-1]
    manifest = Manifest(
        name=graph.graph.name,
        graph_sha256=sha256(data),
        input=InputSpec(name=first.tensor, shape=first.shape),
        labels=tuple(map(str, range(final.elements))),
        split_points=found.split_points,
        exits=(ExitSpec(index=0, name="final", output=final.tensor, split_point=final.index),),
    )
    return Bundle(Path("in-memory"), manifest, data)


@dataclass(slots=True)
class Drawing:
    """A graph while it is drawn; each method adds nodes and returns the name of the tensor they make."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def weight(self, shape: tuple[int, ...], fan_in: int, gain: float = 0.1) -> str:
        name = f"weight_{len(self.weights)}"
        array = self.rng.normal(scale=gain / fan_in**0.5, size=shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
        fan_in = inputs // groups * kernel * kernel
        shape = (outputs, inputs // groups, kernel, kernel)
        weights = [self.weight(shape, fan_in, _GAIN), self.weight((outputs,), 1)]
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": groups}
        return self.op("Conv", [x, *weights], **sizes)

    def silu(self, x: str) -> str:
        return self.op("Mul", [x, self.op("Sigmoid", [x])])

    def mbconv(self, x: str, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> str:
        inner, squeezed = inputs * expansion, max(1, inputs // 4)
        y = self.silu(self.conv(x, inputs, inner, 1)) if expansion > 1 else x
        y = self.silu(self.conv(y, inner, inner, kernel, stride, groups=inner))
        gate = self.silu(self.conv(self.op("GlobalAveragePool", [y]), inner, squeezed, 1))
        gate = self.op("Sigmoid", [self.conv(gate, squeezed, inner, 1)])
        y = self.conv(self.op("Mul", [y, gate]), inner, outputs, 1)
        return self.op("Add", [y, x]) if stride == 1 and inputs == outputs else y
