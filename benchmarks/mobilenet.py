"""MobileNetV2 as an ONNX graph with random weights: what serving it costs needs no training.

The layers are those of Sandler et al., MobileNetV2 (CVPR 2018), table 2: 17 inverted residuals with ReLU6, batch
normalisation folded into the convolutions. 3.5 million weights, 14 MB.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.efficientnet import Drawing

SHAPE = (3, 224, 224)
CLASSES = 1000

_STAGES = (  # expansion, output channels, blocks, stride
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(seed: int = 0, shape: tuple[int, int, int] = SHAPE, classes: int = CLASSES) -> onnx.ModelProto:
    """input float32 [n, *shape] → logits float32 [n, classes]."""
    drawing = Drawing(np.random.default_rng(seed))
    bounds = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("zero", 0), ("six", 6))]
    drawing.weights.extend(bounds)
    tensor, channels = _relu6(drawing, drawing.conv("input", shape[0], 32, 3, stride=2)), 32
    for expansion, outputs, blocks, stride in _STAGES:
        for block in range(blocks):
            tensor = _inverted(drawing, tensor, channels, outputs, expansion, 1 if block else stride)
            channels = outputs
    tensor = _relu6(drawing, drawing.conv(tensor, channels, 1280, 1))
    tensor = drawing.op("Flatten", [drawing.op("GlobalAveragePool", [tensor])])
    weights = [drawing.weight((classes, 1280), 1280, gain=1.0), drawing.weight((classes,), 1)]
    drawing.nodes.append(helper.make_node("Gemm", [tensor, *weights], ["logits"], name="logits", transB=1))
    graph = helper.make_graph(
        drawing.nodes,
        "mobilenet_v2",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        drawing.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _relu6(drawing: Drawing, tensor: str) -> str:
    return drawing.op("Clip", [tensor, "zero", "six"])


def _inverted(drawing: Drawing, x: str, inputs: int, outputs: int, expansion: int, stride: int) -> str:
    inner = inputs * expansion
    y = _relu6(drawing, drawing.conv(x, inputs, inner, 1)) if expansion > 1 else x
    y = _relu6(drawing, drawing.conv(y, inner, inner, 3, stride, groups=inner))
    y = drawing.conv(y, inner, outputs, 1)
    return drawing.op("Add", [y, x]) if stride == 1 and inputs == outputs else y
