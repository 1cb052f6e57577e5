"""`offramp partition`: any ONNX classifier becomes a bundle that can be split, without retraining."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from services import bundle
from services.bundle import Bundle, ExitSpec, InputSpec, Manifest, Preprocessing
from services.errors import InvalidInput
from services.model import Model
from services.partition import partition
from testbed.graphs import prepare

NEVER = 1.01
"""The threshold of an exit that has not been calibrated: nobody leaves there."""

_MAX_MODEL_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Adopted:
    """The bundle that was written, and what was done to the graph on the way."""

    manifest: Manifest
    notes: tuple[str, ...]


def adopt(file: Path, out: Path, output: str | None = None, preprocessing: Preprocessing | None = None) -> Adopted:
    """Writes the bundle of the ONNX classifier in `file` to `out`.

    Raises InvalidInput with the reason for a file that is not one, or cannot be split.
    """
    prepared = prepare(_load(file), output)
    graph = prepared.model.SerializeToString()
    found = partition(prepared.model)
    last = len(found.split_points) - 1
    channels = found.split_points[0].shape[0]
    if preprocessing is not None and (len(preprocessing.mean), len(preprocessing.std)) != (channels, channels):
        raise InvalidInput(f"{file} has {channels} channels; give as many numbers to --mean and to --std")
    manifest = Manifest(
        name=_name(file),
        graph_sha256=bundle.sha256(graph),
        input=InputSpec(
            name=found.split_points[0].tensor,
            shape=found.split_points[0].shape,
            preprocessing=preprocessing,
            max_batch=None if prepared.batch_free else 1,
        ),
        labels=tuple(map(str, range(found.split_points[-1].elements))),
        split_points=found.split_points,
        exits=tuple(
            ExitSpec(index=i, name=f"exit_{i}", output=name, split_point=at, threshold=0.0 if at == last else NEVER)
            for i, (name, at) in enumerate(found.exits.items())
        ),
    )
    Model(Bundle(out, manifest, graph))  # as a tier will at its start
    bundle.write(out, manifest, graph)
    return Adopted(manifest, tuple(prepared.notes))


def preprocessing(mean: str | None, std: str | None) -> Preprocessing | None:
    """'0.5,0.5,0.5' and the like as the manifest's preprocessing. Raises InvalidInput for anything else."""
    if mean is None and std is None:
        return None
    try:
        means, stds = (tuple(float(part) for part in (text or "").split(",")) for text in (mean, std))
        return Preprocessing(mean=means, std=stds)
    except ValueError:
        raise InvalidInput("--mean and --std go together, one number per channel, e.g. 0.5,0.5,0.5") from None


def _load(file: Path) -> onnx.ModelProto:
    if not file.is_file():
        raise InvalidInput(f"{file}: no such file")
    if file.stat().st_size > _MAX_MODEL_BYTES:
        raise InvalidInput(f"{file}: over {_MAX_MODEL_BYTES:,} bytes; larger graphs need external data")
    try:
        model = onnx.load(file, load_external_data=False)
    except DecodeError:
        raise InvalidInput(f"{file}: not an ONNX file") from None
    if not model.graph.node:
        raise InvalidInput(f"{file}: not an ONNX graph; it has no nodes")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise InvalidInput(f"{file}: keeps its weights in other files; save it as one file first")
    return model


def _name(file: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._")[:100] or "model"
