"""Making a foreign ONNX graph one that can be served: its outputs rows of scores, its batch free.

Each step takes a model and returns it changed, with a sentence on what it did; nothing is done silently.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from services.errors import InvalidInput
from services.partition import partition
from testbed.conversions import channels_first, free_batch, open_quantised, widen
from testbed.graph_runs import check_one_sample, check_runs, doubt

_MAX_ELEMENTS = 1 << 26
_MAX_NUMBERS = 1 << 16
_SEQUENCES = ("SequenceEmpty", "SequenceConstruct", "SequenceInsert")
_ROUNDING = ("QuantizeLinear", "DequantizeLinear")
_AFTER_SOFTMAX = ("Cast", "Identity", "Flatten", "Reshape", "Squeeze", *_ROUNDING)
"""What an export may put between a Softmax and an output: probabilities stay probabilities."""


@dataclass(slots=True)
class Prepared:
    """A graph on its way to a bundle, and what was done to it."""

    model: onnx.ModelProto
    batch_free: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def graph(self) -> onnx.GraphProto:
        return self.model.graph

    def note(self, sentence: str | None) -> None:
        if sentence is not None:
            self.notes.append(sentence)


def prepare(model: onnx.ModelProto, output: str | None) -> Prepared:
    """Makes `model` servable. `output` names the one to keep, where there are several of different kinds.

    Raises InvalidInput with the reason for what is not a classifier or what onnxruntime does not run.
    """
    prepared = Prepared(model)
    del model.graph.quantization_annotation[:]  # says nothing that is computed, and cannot be cut
    prepared.note(widen(model))
    check_runs(model)
    _close_weights(prepared)
    _check_ends(prepared.graph)
    prepared.note(channels_first(model))
    prepared.note(open_quantised(model))
    _unpack_sequence(prepared)
    _keep(prepared, output)
    if output is None or _classes(_output_shapes(model)[0]) is not None:
        _drop_softmax(prepared)
        _flatten(prepared)
    else:
        _as_row(prepared)
    _free_batch(prepared)
    return prepared


def _close_weights(prepared: Prepared) -> None:
    """Initializers listed as inputs could be overridden by a caller, which keeps them from being optimised."""
    weights = {tensor.name for tensor in prepared.graph.initializer}
    listed = [value for value in prepared.graph.input if value.name in weights]
    for value in listed:
        prepared.graph.input.remove(value)
    if listed:
        prepared.model.ir_version = max(prepared.model.ir_version, 4)
        prepared.notes.append(f"{len(listed)} weights were listed as inputs; they are constants now")


def _check_ends(graph: onnx.GraphProto) -> None:
    """Raises InvalidInput unless the graph has one input of a sensible size, with a batch, and an output."""
    if len(graph.input) != 1 or not graph.output:
        raise InvalidInput(
            f"the graph has {len(graph.input)} inputs and {len(graph.output)} outputs; one and some needed"
        )
    sizes = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    if len(sizes) < 2 or math.prod(max(size, 1) for size in sizes) > _MAX_ELEMENTS:
        raise InvalidInput(
            f"input {graph.input[0].name!r} of shape {sizes} is not a batch of samples that can be served"
        )


def _unpack_sequence(prepared: Prepared) -> None:
    """An output that is a sequence of tensors becomes one output for each, in order."""
    graph = prepared.graph
    if len(graph.output) != 1 or graph.output[0].type.WhichOneof("value") != "sequence_type":
        return
    made_by = {name: node for node in graph.node for name in node.output}
    elements = list(_elements(graph.output[0].name, made_by))
    if not elements:
        raise InvalidInput(f"output {graph.output[0].name!r} is a sequence with nothing in it")
    prepared.notes.append(f"the output was a sequence; its {len(elements)} tensors are outputs now")
    _set_outputs(prepared, elements)


def _elements(name: str, made_by: dict[str, onnx.NodeProto]) -> Iterator[str]:
    node = made_by.get(name)
    if node is None or node.op_type not in _SEQUENCES:
        raise InvalidInput(f"output {name!r} is a sequence made in a way that is not understood")
    if node.op_type == "SequenceEmpty":
        return
    if node.op_type == "SequenceConstruct":
        yield from node.input
        return
    if len(node.input) > 2:
        raise InvalidInput(f"output {name!r} is a sequence with positions; only appending is understood")
    yield from _elements(node.input[0], made_by)
    yield node.input[1]


def _keep(prepared: Prepared, output: str | None) -> None:
    """Only `output`, or all where they are exits over the same classes; the last one is the final exit."""
    names = [value.name for value in prepared.graph.output]
    if output is not None:
        if output not in names:
            raise InvalidInput(f"no output is called {output!r}; there are {', '.join(names)}")
        _set_outputs(prepared, [output])
        return
    classes = {_classes(shape) for shape in _output_shapes(prepared.model)}
    if len(names) > 1 and (len(classes) > 1 or None in classes):
        raise InvalidInput(
            f"the outputs {', '.join(names)} are not exits over the same classes; choose one with --output"
        )
    _put_final_last(prepared, names)


def _put_final_last(prepared: Prepared, names: list[str]) -> None:
    """The final exit is the output that most nodes lead to: an export may declare auxiliary heads after it."""
    sizes = {name: len(_leading_to(prepared.graph, [name])) for name in names}
    final = max(reversed(names), key=sizes.__getitem__)
    if final != names[-1]:
        _set_outputs(prepared, [*(name for name in names if name != final), final])
        prepared.notes.append(
            f"output {final!r} is the final exit, as most nodes lead to it; the graph declares {names[-1]!r} last"
        )


def _drop_softmax(prepared: Prepared) -> None:
    """Exits apply softmax themselves, with a temperature: they want the scores before it."""
    names = [value.name for value in prepared.graph.output]
    paths = {name: path for name in names if (path := _back_to_softmax(prepared.graph, name))}
    dropped = {name: path for name, path in paths.items() if len(path) == 1 or _only_in_between(prepared, path)}
    for name, path in dropped.items():
        scores = path[-1].input[0]
        if len(path) > 1:
            path[-2].input[0] = scores
        else:
            names[names.index(name)] = scores
    if dropped:
        _set_outputs(prepared, names)
        prepared.notes.append("the final Softmax was taken off; exits apply it themselves")
    for name in [name for name in paths if name not in dropped]:
        prepared.notes.append(
            f"output {name!r} ends in probabilities, and exits apply softmax again: its confidences will be too low; "
            "export the network without its Softmax, so that it ends in logits"
        )


def _back_to_softmax(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """The nodes from the one that makes `output` back to a Softmax; none where something else is in between."""
    made_by, path = {name: node for node in graph.node for name in node.output}, list[onnx.NodeProto]()
    while (node := made_by.get(path[-1].input[0] if path else output)) is not None:
        path.append(node)
        if node.op_type == "Softmax":
            return path
        if node.op_type not in _AFTER_SOFTMAX:
            break
    return []


def _only_in_between(prepared: Prepared, path: list[onnx.NodeProto]) -> bool:
    """Whether scores can take the place of probabilities on `path`: nothing else reads it, and nothing rounds.

    The scale of a rounding fits probabilities. The Softmax must be over all scores, as that of an exit is.
    """
    graph = prepared.graph
    inferred = onnx.shape_inference.infer_shapes(prepared.model, data_prop=True).graph.value_info
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred}
    read = [name for node in graph.node for name in node.input] + [value.name for value in graph.output]
    return (
        not any(node.op_type in _ROUNDING for node in path)
        and all(read.count(node.output[0]) == 1 for node in path[:-1])
        and sum(size != 1 for size in shapes.get(path[-1].input[0], [])[1:]) == 1
    )


def _flatten(prepared: Prepared) -> None:
    """Scores of shape [N, classes, 1, 1] become rows. Raises InvalidInput for what is not a row of scores."""
    names = [value.name for value in prepared.graph.output]
    for index, (name, shape) in enumerate(zip(names, _output_shapes(prepared.model), strict=True)):
        if _classes(shape) is None:
            raise InvalidInput(f"output {name!r} of shape {list(shape)} is not one row of class scores per sample")
        if len(shape) > 2:
            prepared.graph.node.append(helper.make_node("Flatten", [name], [f"{name}_row"], name=f"{name}_row"))
            names[index] = f"{name}_row"
    if names != [value.name for value in prepared.graph.output]:
        _set_outputs(prepared, names)


def _as_row(prepared: Prepared) -> None:
    """An output that was asked for by name and is no row of scores becomes a row, so that the graph can be split."""
    name, shape = prepared.graph.output[0].name, _output_shapes(prepared.model)[0]
    numbers = math.prod(shape[1:])
    if not 2 <= numbers <= _MAX_NUMBERS:
        raise InvalidInput(
            f"output {name!r} of shape {list(shape)} does not make a row of 2 to {_MAX_NUMBERS:,} numbers"
        )
    prepared.graph.node.append(helper.make_node("Flatten", [name], [f"{name}_row"], name=f"{name}_row"))
    _set_outputs(prepared, [f"{name}_row"])
    prepared.notes.append(
        f"output {name!r} is not a row of class scores; its {numbers:,} numbers are one row now, to measure splits "
        "with: labels and confidences mean nothing"
    )


def _free_batch(prepared: Prepared) -> None:
    """Where the batch is fixed, makes it free; proves that a batch of 3 gives what 3 single runs give.

    Raises InvalidInput where it is fixed at another number than 1, and cannot be freed.
    """
    fixed = prepared.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    if fixed < 2:
        check_one_sample(prepared.model)
    as_declared = None if fixed else doubt(prepared.model)
    if not (fixed or as_declared):
        prepared.batch_free = True
        return
    candidate = onnx.ModelProto()
    candidate.CopyFrom(prepared.model)
    free_batch(candidate.graph)
    as_freed = doubt(candidate)
    if as_freed is None and _can_be_split(candidate):
        prepared.model, prepared.batch_free = candidate, True
        prepared.notes.append("the batch was fixed; it is free now, and a batch of 3 gives what 3 runs give")
    elif not fixed:
        prepared.notes.append(f"{as_declared}: one sample a request")
    elif fixed > 1:
        raise InvalidInput(f"the batch is fixed at {fixed}, and the graph does not allow to free it; export it for 1")
    else:
        reason = as_freed or "it cannot be split then"
        prepared.notes.append(
            f"the batch is fixed at 1 and the graph does not allow to free it, as {reason}: one sample a request"
        )


def _can_be_split(model: onnx.ModelProto) -> bool:
    try:
        partition(model)
    except InvalidInput:
        return False
    return True


def _set_outputs(prepared: Prepared, names: list[str]) -> None:
    """Makes `names` the outputs, and leaves out what no longer leads to one."""
    graph = prepared.graph
    known = {v.name: v for v in onnx.shape_inference.infer_shapes(prepared.model).graph.value_info}
    known |= {v.name: v for v in graph.output}
    values = [known.get(n) or helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names]
    del graph.output[:]
    graph.output.extend(values)
    kept = _leading_to(graph, names)
    needed = {*names, *(name for node in kept for name in node.input)}
    del graph.node[:]
    graph.node.extend(kept)
    for tensor in [t for t in graph.initializer if t.name not in needed]:
        graph.initializer.remove(tensor)


def _leading_to(graph: onnx.GraphProto, names: list[str]) -> list[onnx.NodeProto]:
    """The nodes that `names` are made from, in the graph's order."""
    needed, found = set(names), list[onnx.NodeProto]()
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input) - {""}  # what is optional and left out
            found.append(node)
    return found[::-1]


def _output_shapes(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    """Shapes of the outputs; 0 for a size that is not known."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return [tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in inferred.output]


def _classes(shape: tuple[int, ...]) -> int | None:
    """How many classes [N, classes] or [N, classes, 1, …] has, else None."""
    return shape[1] if len(shape) >= 2 and shape[1] > 1 and all(size == 1 for size in shape[2:]) else None
