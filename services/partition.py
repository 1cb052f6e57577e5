"""Split points of an ONNX graph, and cutting out the segment between two of them.

A split point is a tensor that every path from the input to the outputs above it goes through, so that one
tensor crosses (Bakhtiarnia et al., Dynamic Split Computing, ICASSP 2023, section 3: no retraining, no
knowledge of the architecture). An exit head hangs off the trunk; it belongs to the split point after which
it becomes computable, and a segment that ends there carries it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx.utils import Extractor
from pydantic import ValidationError

from services.bundle import SplitPointSpec
from services.domain import Segment
from services.errors import InvalidInput

_WEIGHED = (
    dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), 2)
    | dict.fromkeys(("DeformConv", "RNN", "GRU", "LSTM"), 3)
    | dict.fromkeys(("ConvInteger", "MatMulInteger"), 4)
    | dict.fromkeys(("QLinearConv", "QLinearMatMul"), 6)
)
"""How many of its inputs, the first ones, a layer sums up by weights: a bias or a first state goes in as it is.

Anything else may be the input rearranged, scaled, or made smaller.
"""
_MEASURING = frozenset({"Shape", "Size"})
_INT8_RANGE_BYTES = 8  # per channel: a float32 minimum and a float32 step
_SAMPLES = 1009
"""Where the batch is free, shapes are inferred for so many: no other size of a tensor is likely to be the same."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Where a graph can be cut. `exits` maps the name of each exit's output to its split point."""

    split_points: tuple[SplitPointSpec, ...]
    exits: dict[str, int]


def partition(model: onnx.ModelProto) -> Partition:
    """Finds every split point of `model`; the last graph output is the final exit.

    Raises InvalidInput saying why, for a graph that does not have one input, is not float32 at its ends, has
    an unknown shape where it could be cut, or nothing to cut.
    """
    known = _of_known_batch(model, _SAMPLES)
    graph = _inferred(known).graph
    alone = graph if known is model else _inferred(_of_known_batch(model, 1)).graph
    if looping := {node.op_type for node in graph.node if any(a.HasField("g") for a in node.attribute)}:
        raise InvalidInput(
            f"{', '.join(sorted(looping))} reads tensors that its inputs do not show; it cannot be split"
        )
    source, outputs = _input(graph).name, [o.name for o in graph.output]
    if not outputs:
        raise InvalidInput("the graph has no output")
    shapes, foreign = _shapes_alike(graph, alone, source), _not_float32(graph)
    if wrong := foreign & {source, *outputs}:
        raise InvalidInput(f"input and outputs must be float32; {', '.join(sorted(wrong))} is not")
    unknown = {name for node in graph.node for name in node.output if shapes.get(name) is None}
    foreign |= (_off_the_grid(graph, source) | unknown) - {source, outputs[-1]}
    tensors: dict[str, str] = {source: "input"}
    exits: dict[str, int] = {}
    waiting: list[str] = []
    for tensor, after, finished in _separators(graph, source, outputs):
        waiting += finished
        if tensor not in foreign:  # only float32 crosses; an exit there belongs to the next split point
            tensors.setdefault(tensor, after)
            exits |= {name: len(tensors) - 1 for name in waiting}
            waiting.clear()
    if outputs[-1] in tensors:
        _check_rows(graph, source, outputs[-1])
    try:
        found = [(name, after, shapes.get(name)) for name, after in tensors.items()]
        points = tuple(_describe(found, _still_input(graph, source)))
    except ValidationError as error:
        raise InvalidInput(f"a tensor of this graph cannot cross: {error.errors()[0]['msg']}") from None
    if len(points) < 2 or points[-1].tensor != outputs[-1]:
        raise InvalidInput(f"no single tensor leads to {outputs[-1]!r}: this graph cannot be split")
    for name in outputs:
        if name not in exits:
            raise InvalidInput(f"nothing in this graph leads to output {name!r}")
        if exits[name] == 0:
            raise InvalidInput(f"exit {name!r} hangs off the input itself; there is no split point before it")
        if shapes.get(name) != points[-1].shape:
            raise InvalidInput(f"exit {name!r} has not the shape of the last one, {list(points[-1].shape)}")
    return Partition(points, {name: exits[name] for name in outputs})


class Cutter:
    """Cuts segments out of one model. Holds the shape-inferred graph, so that each cut is cheap."""

    def __init__(self, model: onnx.ModelProto, split_points: tuple[SplitPointSpec, ...], exits: dict[str, int]):
        self._extractor = Extractor(_inferred(model))
        self._tensors = [point.tensor for point in split_points]
        self._exits = exits

    def outputs(self, segment: Segment) -> list[str]:
        """Output names of `segment`: the activation at its end, then the logits of the exits it carries."""
        heads = [name for name, at in self._exits.items() if segment.start < at <= segment.end]
        return list(dict.fromkeys([self._tensors[segment.end], *heads]))

    def cut(self, segment: Segment) -> onnx.ModelProto:
        """The part of the network in `segment`, as a model of its own."""
        return self._extractor.extract_model([self._tensors[segment.start]], self.outputs(segment))


def _separators(graph: onnx.GraphProto, source: str, outputs: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yields (tensor, the node that made it, exits finished by then) wherever one tensor alone is live.

    A tensor through which every path goes is alone at one point of *any* topological order, so one sweep
    finds them all. Exit heads run as soon as they can, so that the trunk is seen without them.
    """
    order = _heads_first(graph, source, outputs)
    uses: dict[str, int] = {}
    for node in order:
        for name in _named(node.input):
            uses[name] = uses.get(name, 0) + 1
    uses[outputs[-1]] = uses.get(outputs[-1], 0) + 1
    made_by, live = {source: "input"}, {source}
    finished: list[str] = []
    for position, node in enumerate(order):
        for name in _named(node.input) & live:
            uses[name] -= 1
            live -= {name} if not uses[name] else set()
        live |= {name for name in node.output if uses.get(name)}
        made_by |= dict.fromkeys(node.output, node.name or f"{node.op_type}_{position}")
        finished += [name for name in node.output if name in outputs]
        if len(live) == 1:
            tensor = next(iter(live))
            yield tensor, made_by[tensor], finished
            finished = []


def _heads_first(graph: onnx.GraphProto, source: str, outputs: list[str]) -> list[onnx.NodeProto]:
    """The nodes between the input and an output, in a topological order that runs exit heads first."""
    nodes = _depending(graph, source)
    wanted = _ancestors(nodes, outputs)
    nodes = [node for node in nodes if id(node) in wanted]
    trunk, anchors, keyed = _ancestors(nodes, outputs[-1:]), {source: -1}, []
    for position, node in enumerate(nodes):
        on_trunk = id(node) in trunk
        anchor = position if on_trunk else max(anchors.get(name, -1) for name in node.input)
        anchors |= dict.fromkeys(node.output, anchor)
        keyed.append((anchor, not on_trunk, position))
    return [nodes[position] for _, _, position in sorted(keyed)]


def _depending(graph: onnx.GraphProto, source: str) -> list[onnx.NodeProto]:
    """The nodes that the input reaches, in the graph's order, which is topological."""
    variable, nodes = {source}, []
    for node in graph.node:
        if variable & set(node.input):
            variable |= _named(node.output)
            nodes.append(node)
    return nodes


def _still_input(graph: onnx.GraphProto, source: str) -> set[str]:
    """Tensors that the input reaches without being weighed: who sees one may see the input in another form.

    Also beside what was weighed: a sum of both, or one behind the other, still has the input in it.
    """
    still = {source}
    for node in _depending(graph, source):
        unweighed = node.input[_WEIGHED.get(node.op_type, 0) :]
        if node.op_type not in _MEASURING and still & set(unweighed):
            still |= _named(node.output)
    return still - {source}


def _ancestors(nodes: list[onnx.NodeProto], tensors: list[str]) -> set[int]:
    needed, found = set(tensors), set()
    for node in reversed(nodes):
        if needed & set(node.output):
            found.add(id(node))
            needed |= _named(node.input)
    return found


def _named(tensors: Iterable[str]) -> set[str]:
    """Those that are there: what is optional and left out has no name."""
    return {name for name in tensors if name}


def _describe(points: list[tuple[str, str, tuple[int, ...] | None]], still_input: set[str]) -> Iterator[SplitPointSpec]:
    first = points[0][2]
    if first is None:
        raise InvalidInput("the input's shape is not fully known; export the model with fixed sizes")
    whole, smallest = math.prod(first), math.inf
    for index, (name, after, shape) in enumerate(points):
        if shape is None:
            raise InvalidInput(f"the shape of {name!r} cannot be inferred; export the model with fixed sizes")
        elements = math.prod(shape)
        natural = elements < whole
        yield SplitPointSpec(
            index=index,
            tensor=name,
            after=after,
            shape=shape,
            elements=elements,
            ratio=elements / whole,
            natural=natural,
            compressive=natural and elements < smallest,
            bytes_fp32=4 * elements,
            bytes_int8=elements + _INT8_RANGE_BYTES * (shape[0] if len(shape) > 1 else 1),
            still_input=name in still_input,
        )
        smallest = min(smallest, elements)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise InvalidInput(f"onnx cannot infer the shapes of this graph: {str(error)[:200]}") from None


def _check_rows(graph: onnx.GraphProto, source: str, output: str) -> None:
    """Raises InvalidInput where `output` is known to have another number of rows than there are samples."""
    sizes = _sizes(graph)
    samples, found = sizes[source][:1], sizes[output]
    if samples and min(found, default=0) > 0 and found[:1] != samples:
        raise InvalidInput(
            f"output {output!r} has {found[0]:,} rows for {samples[0]:,} sample(s): its rows are not samples"
        )


def _input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    weights = {i.name for i in graph.initializer}
    found = [i for i in graph.input if i.name not in weights]
    if len(found) != 1:
        names = ", ".join(i.name for i in found)
        raise InvalidInput(f"the graph has {len(found)} inputs ({names}); only one can be split")
    return found[0]


def _not_float32(graph: onnx.GraphProto) -> set[str]:
    """Tensors known to be of another type, and what is no tensor; one of unknown type has no known shape either."""
    fine = (onnx.TensorProto.FLOAT, onnx.TensorProto.UNDEFINED)
    values = [*graph.input, *graph.value_info, *graph.output]
    others = {value.name for value in values if value.type.WhichOneof("value") not in ("tensor_type", None)}
    return others | {value.name for value in values if value.type.tensor_type.elem_type not in fine}


def _off_the_grid(graph: onnx.GraphProto, source: str) -> set[str]:
    """In a graph with quantised activations, tensors that are not just dequantised and next quantised again.

    A runtime joins what stands between the two to one integer kernel. A cut inside would take it apart, and the
    pieces would round differently from the whole.
    """
    nodes = _depending(graph, source)
    if not any(node.op_type == "QuantizeLinear" for node in nodes):
        return set()
    made = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    used = {name for node in nodes if node.op_type != "QuantizeLinear" for name in node.input}
    return {name for node in nodes for name in node.output} - (made - used)


def _of_known_batch(model: onnx.ModelProto, samples: int) -> onnx.ModelProto:
    """`model` for so many samples: what is not known of shapes then is not known at all."""
    first = next(iter(_input(model.graph).type.tensor_type.shape.dim), None)
    if first is None or first.dim_value:
        return model
    name, known = first.dim_param, onnx.ModelProto()
    known.CopyFrom(model)
    graph = known.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if name and dim.dim_param == name:
                dim.dim_value = samples
    _input(graph).type.tensor_type.shape.dim[0].dim_value = samples
    return known


def _shapes_alike(many: onnx.GraphProto, alone: onnx.GraphProto, source: str) -> dict[str, tuple[int, ...] | None]:
    """Shapes of one sample, unless it has another one alone: a Squeeze may take the batch for a 1 to be left out."""
    one = _sizes(alone)
    found = _shapes(many, source).items()
    return {name: shape if shape and _fits(one.get(name, ()), shape) else None for name, shape in found}


def _fits(sizes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether `sizes`, as far as they are known, are those of one sample of `shape`."""
    known = [(size, wanted) for size, wanted in zip(sizes[1:], shape, strict=False) if size]
    return not sizes or (len(sizes) == 1 + len(shape) and all(size == wanted for size, wanted in known))


def _shapes(graph: onnx.GraphProto, source: str) -> dict[str, tuple[int, ...] | None]:
    """Shape of each tensor for one sample; None where it is not known, or the tensor is no row of samples."""
    sizes = _sizes(graph)
    batch = sizes[source][:1]
    return {name: s[1:] if len(s) > 1 and s[:1] == batch and min(s) > 0 else None for name, s in sizes.items()}


def _sizes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Every dimension of each tensor; 0 where it is not known."""
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values}
