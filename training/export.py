"""A trained network to a bundle: one ONNX graph with an output per exit, and the manifest that describes it."""

from __future__ import annotations

from pathlib import Path

import onnx

from services.bundle import ExitSpec, InputSpec, Manifest, Preprocessing, sha256, write, write_samples
from services.partition import partition
from training.calibrate import NEVER
from training.datasets import Dataset
from training.graphs import INPUT, exported
from training.models import EXITS, ThreeParts

OUTPUTS = tuple(f"exit_{index}" for index in range(len(EXITS)))


def to_onnx(network: ThreeParts) -> bytes:
    """The graph, with normalisation folded into the convolutions and a dynamic batch: float32 [N, C, H, W]."""
    model = exported(network, (network.channels, network.side, network.side), len(OUTPUTS))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def write_bundle(
    network: ThreeParts, dataset: Dataset, mean: tuple[float, ...], std: tuple[float, ...], out: Path
) -> Manifest:
    """Writes the bundle of `network` to `out`, uncalibrated: every sample leaves at the final exit.

    The held-out digits travel with their bundle; other data sets are the user's own and do not.
    """
    graph = to_onnx(network)
    found = partition(onnx.load_model_from_string(graph))
    out.mkdir(parents=True, exist_ok=True)
    shipped = dataset.name == "digits"
    manifest = Manifest(
        name=dataset.name,
        graph_sha256=sha256(graph),
        input=InputSpec(
            name=INPUT,
            shape=(network.channels, network.side, network.side),
            preprocessing=Preprocessing(mean=mean, std=std),
        ),
        labels=dataset.labels,
        split_points=found.split_points,
        exits=tuple(_exit(index, found.exits[output]) for index, output in enumerate(OUTPUTS)),
        samples=write_samples(out, dataset.test.images, dataset.test.labels) if shipped else None,
    )
    write(out, manifest, graph)
    return manifest


def _exit(index: int, split_point: int) -> ExitSpec:
    final = index == len(EXITS) - 1
    return ExitSpec(
        index=index,
        name=EXITS[index],
        output=OUTPUTS[index],
        split_point=split_point,
        threshold=0.0 if final else NEVER,
    )
