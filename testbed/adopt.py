"""`offramp partition`: any ONNX classifier becomes a bundle that can be split, without retraining.

So does a network of the published families, with random weights: for timing and for bytes, which need no accuracy.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from pydantic import ValidationError

from services import bundle, exits
from services.bundle import LEAST_STD, Bundle, ExitSpec, InputSpec, Manifest, Preprocessing
from services.errors import InvalidInput
from services.images import preprocess
from services.model import Model
from services.partition import partition
from services.weights import tensors
from testbed import extras, scenes
from testbed.graphs import prepare
from testbed.weighing import CODEC, weigh
from training.families import architecture

NEVER = 1.01
"""The threshold of an exit that has not been calibrated: nobody leaves there."""

_MAX_MODEL_BYTES = 2 << 30
_SETTLING_PIXELS = 8 * 224 * 224
"""What batch normalisation is set to: so many pixels in all, whatever the size of one image."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """The bundle that was written, what was done to the graph on the way, and what its bytes were measured on."""

    manifest: Manifest
    notes: tuple[str, ...]
    measured_on: str


def adopt(
    file: Path,
    out: Path,
    output: str | None = None,
    preprocessing: Preprocessing | None = None,
    images: Path | None = None,
) -> Adopted:
    """Writes the bundle of the ONNX classifier in `file` to `out`, its bytes measured on the photos in `images`.

    Raises InvalidInput with the reason for a file that is not one, or cannot be split.
    """
    prepared = prepare(_load(file), output)
    drawn = _drawn(prepared.model, _name(file), preprocessing, None if prepared.batch_free else 1)
    return _write(drawn, prepared.model, out, tuple(prepared.notes), images)


def adopt_network(
    name: str,
    out: Path,
    exits: Sequence[int] = (),
    classes: int | None = None,
    seed: int = 0,
    images: Path | None = None,
) -> Adopted:
    """Writes the bundle of a published network with random weights to `out`, exits after the blocks `exits`.

    Raises InvalidInput for a network, or a block, there is none of.
    """
    model, preprocessing = network_graph(name, exits, classes, seed)
    note = f"the weights are random (seed {seed}): good for times and bytes, its answers mean nothing"
    return _write(_drawn(model, name, preprocessing, None), model, out, (note,), images)


def network_graph(
    name: str, exits: Sequence[int] = (), classes: int | None = None, seed: int = 0
) -> tuple[onnx.ModelProto, Preprocessing]:
    """The graph of a published network with random weights, and how its input is made of pixels.

    Raises InvalidInput listing the networks there are, SettingsError where torch is not installed.
    """
    found = architecture(name)
    try:
        from training.families.export import untrained
    except ImportError as error:
        raise extras.missing("--network", error) from None
    mean, std = found.normalisation
    preprocessing = Preprocessing(mean=mean, std=std)
    spec = InputSpec(name="input", shape=found.input_shape, preprocessing=preprocessing)
    count = min(max(_SETTLING_PIXELS // found.size**2, 2), 64)
    seen = preprocess(scenes.varied(count, found.size, found.size, 3, seed), spec)
    return untrained(name, seen, exits, classes, seed), preprocessing


def in_memory(name: str, model: onnx.ModelProto, preprocessing: Preprocessing | None = None) -> Bundle:
    """A bundle of `model` that lies nowhere: to measure with."""
    manifest = _drawn(model, name, preprocessing, None)
    return Bundle(Path(name), manifest, model.SerializeToString())


def preprocessing(mean: str | None, std: str | None) -> Preprocessing | None:
    """'0.5,0.5,0.5' and the like as the manifest's preprocessing. Raises InvalidInput for anything else."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise InvalidInput("--mean and --std go together, one number per channel, e.g. 0.5,0.5,0.5")
    return Preprocessing(mean=_numbers("--mean", mean, -math.inf), std=_numbers("--std", std, LEAST_STD))


def _numbers(option: str, text: str, least: float) -> tuple[float, ...]:
    """'0.5,0.5,0.5' as finite numbers. Raises InvalidInput naming the one that is none, or below `least`."""
    found = []
    for part in text.split(","):
        try:
            number = float(part)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number >= least):
            wanted = "finite numbers" if math.isinf(least) else f"numbers of at least {least:g}"
            raise InvalidInput(f"{option} {part.strip()[:40]!r}: give {wanted}, one per channel, e.g. 0.5,0.5,0.5")
        found.append(number)
    return tuple(found)


def _drawn(model: onnx.ModelProto, name: str, preprocessing: Preprocessing | None, max_batch: int | None) -> Manifest:
    """The manifest of a servable graph: its split points, its exits that are not calibrated, labels by number."""
    try:
        return _manifest(model, name, preprocessing, max_batch)
    except ValidationError as error:
        raise InvalidInput(f"{name} makes no bundle: {error.errors()[0]['msg']}") from None


def _manifest(
    model: onnx.ModelProto, name: str, preprocessing: Preprocessing | None, max_batch: int | None
) -> Manifest:
    found = partition(model)
    last = len(found.split_points) - 1
    names = exits.names(len(found.exits))
    if preprocessing is not None:
        _check_images(name, found.split_points[0].shape, preprocessing)
    ordered = sorted(found.exits.items(), key=lambda exit: exit[1])
    for (first, place), (second, other) in itertools.pairwise(ordered):
        if place == other:
            raise InvalidInput(
                f"{name} makes no bundle: outputs {first!r} and {second!r} hang off one split point; "
                "choose one with --output"
            )
    return Manifest(
        name=name,
        graph_sha256=bundle.sha256(model.SerializeToString()),
        input=InputSpec(
            name=found.split_points[0].tensor,
            shape=found.split_points[0].shape,
            preprocessing=preprocessing,
            max_batch=max_batch,
        ),
        labels=tuple(map(str, range(found.split_points[-1].elements))),
        split_points=found.split_points,
        exits=tuple(
            ExitSpec(index=i, name=name, output=output, split_point=at, threshold=0.0 if at == last else NEVER)
            for i, (name, (output, at)) in enumerate(zip(names, ordered, strict=True))
        ),
    )


def _check_images(name: str, shape: tuple[int, ...], preprocessing: Preprocessing) -> None:
    """Raises InvalidInput unless an input of `shape` can be made of pixels so."""
    if len(shape) != 3:
        raise InvalidInput(
            f"{name} takes {list(shape)}, which is no image [channels, height, width]; leave out --mean and --std"
        )
    if not len(preprocessing.mean) == len(preprocessing.std) == shape[0]:
        raise InvalidInput(f"{name} has {shape[0]} channels; give as many numbers to --mean and to --std")


def _write(drawn: Manifest, model: onnx.ModelProto, out: Path, notes: tuple[str, ...], images: Path | None) -> Adopted:
    graph = model.SerializeToString()
    inputs, what = scenes.inputs(drawn.input, images)
    running = Model(Bundle(out, drawn, graph))  # as a tier will at its start
    manifest = drawn.model_copy(update={"codec_accuracy": weigh(running, inputs)})
    bundle.write(out, manifest, graph)
    return Adopted(manifest, notes, f"bytes after {CODEC} were measured on {what}")


def _load(file: Path) -> onnx.ModelProto:
    if not file.is_file():
        raise InvalidInput(f"{file}: no such file")
    if file.stat().st_size > _MAX_MODEL_BYTES:
        raise InvalidInput(f"{file}: over {_MAX_MODEL_BYTES:,} bytes; larger graphs need external data")
    try:
        model = onnx.load(file, format="protobuf", load_external_data=False)  # whatever its name ends in
    except DecodeError:
        raise InvalidInput(f"{file}: not an ONNX file") from None
    if not model.graph.node:
        raise InvalidInput(f"{file}: not an ONNX graph; it has no nodes")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors(model.graph)):
        raise InvalidInput(f"{file}: keeps its weights in other files; save it as one file first")
    if model.graph.sparse_initializer:
        raise InvalidInput(f"{file}: keeps weights in sparse tensors; save them dense first")
    return model


def _name(file: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._")[:100] or "model"
