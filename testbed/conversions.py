"""Foreign numbers and layouts made ones that can cross a split: float32, channels first, any number of samples.

Each step changes a model in place; one that is not always needed returns a sentence on what it did, or None where
there was nothing to do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from services.errors import InvalidInput
from services.weights import tensors

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
_CHANNELS = (1, 3, 4)
_CHANNELS_FIRST = ("BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "InstanceNormalization")
_POOL = "Pool"  # MaxPool, GlobalAveragePool and the like
_SAME_LAYOUT = ("Cast", "Identity", "QuantizeLinear", "DequantizeLinear")
_TO_FIRST, _TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def widen(model: onnx.ModelProto) -> str | None:
    """Half-precision numbers become float32: a processor computes in it anyway, and it is what crosses a split.

    Raises InvalidInput for a weight that is damaged.
    """
    graph, changed = model.graph, 0
    for tensor in tensors(graph):
        if tensor.data_type in _HALVES:
            tensor.CopyFrom(_widened(tensor))
            changed += 1
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _HALVES:
                attribute.i = TensorProto.FLOAT
                changed += 1
    for value in (*graph.input, *graph.output):
        of_sequence = value.type.WhichOneof("value") == "sequence_type"
        tensor_type = (value.type.sequence_type.elem_type if of_sequence else value.type).tensor_type
        if tensor_type.elem_type in _HALVES:
            tensor_type.elem_type = TensorProto.FLOAT
            changed += 1
    if not changed:
        return None
    del graph.value_info[:]
    return "the graph was in half precision; it is in float32 now, which is what it takes and computes with"


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    try:
        return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
    except ValueError as error:
        raise InvalidInput(f"weight {tensor.name!r} does not hold the numbers it should: {error}") from None


def channels_first(model: onnx.ModelProto) -> str | None:
    """An input of images [N, H, W, C] becomes [N, C, H, W]; a Transpose that only undid that goes."""
    graph, value = model.graph, model.graph.input[0]
    sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if len(sizes) != 4 or sizes[3] not in _CHANNELS or sizes[1] in _CHANNELS or min(sizes[1:]) < 1:
        return None
    if _read_channels_first(graph, value.name):
        return None
    del graph.value_info[:]
    for dim, size in zip(value.type.tensor_type.shape.dim[1:], (sizes[3], sizes[1], sizes[2]), strict=True):
        dim.dim_value = size
    last = f"{value.name}_channels_last"
    for node in graph.node:
        _rename(node, value.name, last)
    for node in [node for node in graph.node if list(node.input) == [last] and _permutation(node) == _TO_FIRST]:
        graph.node.remove(node)
        for other in graph.node:
            _rename(other, node.output[0], value.name)
    if any(last in node.input for node in graph.node):
        turn = helper.make_node("Transpose", [value.name], [last], name=last, perm=_TO_LAST)
        graph.node.insert(0, turn)
    return f"images were [N, H, W, C]; the input is [N, {sizes[3]}, {sizes[1]}, {sizes[2]}] now, as tiers carry images"


def _read_channels_first(graph: onnx.GraphProto, tensor: str) -> bool:
    """Whether a node that knows no other order than [N, C, H, W] reads `tensor` as it is."""
    same = {tensor}
    for node in graph.node:
        if not same & set(node.input[:1]):
            continue
        standard = node.domain in ("", "ai.onnx")  # others have poolings of [N, H, W, C]
        if standard and (node.op_type in _CHANNELS_FIRST or node.op_type.endswith(_POOL)):
            return True
        if node.op_type in _SAME_LAYOUT:
            same |= set(node.output)
    return False


def _permutation(node: onnx.NodeProto) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == "perm"), []) if node.op_type == "Transpose" else []


def _rename(node: onnx.NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new


def open_quantised(model: onnx.ModelProto) -> str | None:
    """Every quantised activation is dequantised to float32 and quantised again, so that it can cross in between.

    The pair is exact (the numbers are already on the grid) and onnxruntime leaves it out where nothing is cut. A cut
    anywhere else would take an integer kernel apart, and answers would change by a step of the quantisation.
    """
    graph = model.graph
    varying, made = {graph.input[0].name}, list[onnx.NodeProto]()
    opened = 0
    for node in list(graph.node):
        made.append(node)
        if not varying & set(node.input):
            continue
        varying |= set(node.output)
        if node.op_type == "QuantizeLinear":
            made += _opened(node)
            opened += 1
    if not opened:
        return None
    del graph.node[:]
    graph.node.extend(made)
    return f"the graph is quantised; it can be cut at its {opened} quantised activations, as float32 on their grids"


def _opened(quantise: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """Gives what `quantise` makes another name; the two nodes that lead from there to the old one."""
    name, label, ranges = quantise.output[0], quantise.name or quantise.output[0], list(quantise.input[1:])
    quantise.output[0], quantise.name = f"{name}_inner", f"{label}_inner"
    back = helper.make_node("DequantizeLinear", [f"{name}_inner", *ranges], [f"{name}_crossing"], label)
    again = helper.make_node("QuantizeLinear", [f"{name}_crossing", *ranges], [name], f"{label}_again")
    for node, kept in ((back, ("axis", "block_size")), (again, ("axis", "block_size", "saturate", "output_dtype"))):
        node.attribute.extend(a for a in quantise.attribute if a.name in kept)
    return back, again


def free_batch(graph: onnx.GraphProto) -> None:
    """A name for the first dimension of input and outputs, and 0 (as it comes) where a Reshape says 1."""
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim[:1]:  # an output may be declared without a shape
            dim.dim_param = "batch"
    del graph.value_info[:]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants |= {n.output[0]: a for n in graph.node if n.op_type == "Constant" and (a := _constant(n)) is not None}
    varying = {graph.input[0].name}
    for node in graph.node:
        if not varying & set(node.input):
            continue
        varying |= set(node.output)
        if node.op_type == "Reshape" and node.input[1] in constants:
            sizes = np.array(constants[node.input[1]], np.int64)
            literal = [each for each in node.attribute if each.name == "allowzero" and each.i]  # 0 is no element then
            if sizes.size and sizes[0] == 1 and not (literal and 0 in sizes):
                sizes[0] = 0
                for attribute in literal:
                    node.attribute.remove(attribute)
                name = f"{node.output[0]}_free_shape"
                graph.initializer.append(numpy_helper.from_array(sizes, name))
                node.input[1] = name


def _constant(node: onnx.NodeProto) -> npt.NDArray[Any] | None:
    """The numbers of a Constant node, however it holds them; None for text and sparse tensors."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return np.asarray(numpy_helper.to_array(attribute.t))
        if attribute.name in ("value_int", "value_ints"):
            return np.atleast_1d(np.asarray(helper.get_attribute_value(attribute), np.int64))
    return None
