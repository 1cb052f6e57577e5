"""A small three-exit network and its bundle, made from a seed: what most tests run on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from services import bundle
from services.bundle import ExitSpec, InputSpec, Manifest, Preprocessing
from services.partition import partition

SHAPE = (1, 8, 8)
CLASSES = 4


def three_exit_graph(seed: int = 0, classes: int = CLASSES) -> onnx.ModelProto:
    """input [N,1,8,8] → conv, relu (exit_0) → conv stride 2, relu (exit_1) → residual block → exit_2."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def conv(x: str, y: str, inputs: int, outputs: int, kernel: int, stride: int = 1, pad: int = 0) -> None:
        scale = 1.5 / np.sqrt(inputs * kernel * kernel)
        array = (rng.normal(size=(outputs, inputs, kernel, kernel)) * scale).astype(np.float32)
        weights.append(numpy_helper.from_array(array, f"{y}_w"))
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        nodes.append(helper.make_node("Conv", [x, f"{y}_w"], [y], name=y, **sizes))

    def then(op: str, x: list[str], y: str) -> None:
        nodes.append(helper.make_node(op, x, [y], name=y))

    conv("input", "c1", 1, 4, 3, pad=1)
    then("Relu", ["c1"], "a1")
    conv("a1", "h1", 4, classes, 8)
    then("Flatten", ["h1"], "exit_0")
    conv("a1", "c2", 4, 6, 3, stride=2, pad=1)
    then("Relu", ["c2"], "a2")
    conv("a2", "h2", 6, classes, 4)
    then("Flatten", ["h2"], "exit_1")
    conv("a2", "c3", 6, 6, 3, pad=1)
    then("Add", ["c3", "a2"], "sum")
    then("Relu", ["sum"], "a3")
    conv("a3", "h3", 6, classes, 4)
    then("Flatten", ["h3"], "exit_2")
    outputs = [helper.make_tensor_value_info(f"exit_{i}", TensorProto.FLOAT, ["n", classes]) for i in range(3)]
    graph = helper.make_graph(
        nodes,
        "three_exits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *SHAPE])],
        outputs,
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def write_bundle(
    path: Path,
    seed: int = 0,
    thresholds: tuple[float, ...] = (0.6, 0.5, 0.0),
    name: str = "tiny",
    version: str = "1",
) -> Path:
    """A bundle of `three_exit_graph(seed)` with 40 random labelled samples."""
    path.mkdir(parents=True, exist_ok=True)
    graph = three_exit_graph(seed).SerializeToString()
    found = partition(onnx.load_model_from_string(graph))
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (40, *SHAPE[1:]), dtype=np.uint8)
    manifest = Manifest(
        name=name,
        version=version,
        graph_sha256=bundle.sha256(graph),
        input=InputSpec(name="input", shape=SHAPE, preprocessing=Preprocessing(mean=(0.5,), std=(0.25,))),
        labels=tuple("abcdefgh"[:CLASSES]),
        split_points=found.split_points,
        exits=tuple(
            ExitSpec(index=i, name=f"exit{i}", output=f"exit_{i}", split_point=at, threshold=thresholds[i])
            for i, at in enumerate(found.exits.values())
        ),
        samples=bundle.write_samples(path, pixels, rng.integers(0, CLASSES, 40)),
    )
    bundle.write(path, manifest, graph)
    return path


@cache
def graph_hash(seed: int = 0) -> str:
    """What the manifest of `write_bundle` says of its graph."""
    return bundle.sha256(three_exit_graph(seed).SerializeToString())
