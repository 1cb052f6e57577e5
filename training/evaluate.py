"""What a bundle makes of labelled images, in one process and without a network between the tiers. Numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services import codec as codecs
from services import exits as exit_rules
from services.bundle import Manifest
from services.codec import Codec
from services.domain import FloatArray, Segment
from services.images import preprocess as images_to_input
from services.model import Model
from training.datasets import Split

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One data set through one bundle. Tuples have one entry per exit, `bytes_per_hop` one per exit but the last.

    full_accuracy: the whole network without exits. answered: samples that left at each exit. bytes_per_hop:
    the activations of all samples that went on, each encoded alone.
    """

    samples: int
    full_accuracy: float
    accuracy: float
    exit_accuracies: tuple[float, ...]
    answered: tuple[int, ...]
    bytes_per_hop: tuple[int, ...]


def evaluate(model: Model, split: Split, codec: str = "int8+zstd") -> Evaluation:
    """Runs `split` as three tiers would, with every activation that crosses encoded by `codec`.

    Each sample leaves where the bundle's thresholds say. `full_accuracy` is the whole network, uncut.
    """
    exits = model.manifest.exits
    inputs = preprocess(split.images, model.manifest)
    whole = exit_logits(model, inputs)[-1].argmax(axis=1) == split.labels
    logits, crossing = _travel(model, inputs, codecs.get(codec))
    right = logits.argmax(axis=2) == split.labels
    left = assign(confidences(model.manifest, logits), [spec.threshold for spec in exits])
    return Evaluation(
        samples=len(split),
        full_accuracy=float(whole.mean()),
        accuracy=float(right[left, np.arange(len(left))].mean()),
        exit_accuracies=tuple(float(row.mean()) for row in right),
        answered=tuple(int(np.sum(left == e)) for e in range(len(exits))),
        bytes_per_hop=tuple(
            sum(codecs.get(codec).encode(row[None]).nbytes for row in sent[left > e]) for e, sent in enumerate(crossing)
        ),
    )


def preprocess(images: npt.NDArray[np.uint8], manifest: Manifest) -> FloatArray:
    """uint8 [N, H, W] or [N, H, W, C] to the float32 [N, C, H, W] that the bundle takes."""
    return images_to_input(images[..., None] if images.ndim == 3 else images, manifest.input)


def exit_logits(model: Model, inputs: FloatArray) -> FloatArray:
    """The logits of all exits for all samples, float32 [E, N, C], of inputs [N, C, H, W]."""
    return np.concatenate([_logits_from(model, 0, batch) for batch in batches(model.manifest, inputs)], axis=1)


def confidences(manifest: Manifest, logits: FloatArray) -> list[FloatArray]:
    """How sure each exit is of each sample, one [N] per exit, of logits [E, N, C]."""
    return [
        exit_rules.confidence(exit_rules.softmax(row, spec.temperature), manifest.confidence)
        for row, spec in zip(logits, manifest.exits, strict=True)
    ]


def assign(sureness: Sequence[FloatArray], thresholds: Sequence[float]) -> npt.NDArray[np.int64]:
    """The exit at which each sample leaves, int64 [N]; the final exit takes the rest."""
    left = np.full(len(sureness[-1]), len(thresholds) - 1, np.int64)
    for exit_index in reversed(range(len(thresholds) - 1)):
        left[exit_rules.leaves(sureness[exit_index], thresholds[exit_index])] = exit_index
    return left


def batches(manifest: Manifest, rows: FloatArray) -> Iterator[FloatArray]:
    """`rows` [N, …] in as few batches as the network takes."""
    size = min(_BATCH, manifest.input.max_batch or _BATCH)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _logits_from(model: Model, start: int, batch: FloatArray) -> FloatArray:
    """float32 [exits after `start`, N, C]."""
    rows, activation = [], batch
    for piece in model.pieces(Segment(start, model.last)):
        activation, logits = model.run(piece, activation)
        if logits is not None:
            rows.append(logits)
    return np.stack(rows)


def _travel(model: Model, inputs: FloatArray, codec: Codec) -> tuple[FloatArray, list[FloatArray]]:
    """Logits [E, N, C] where what leaves each early exit is encoded and decoded, and those activations."""
    logits: list[list[FloatArray]] = [[] for _ in model.manifest.exits]
    crossing: list[list[FloatArray]] = [[] for _ in model.manifest.exits[:-1]]
    for activation in batches(model.manifest, inputs):
        for index, piece in enumerate(model.pieces(Segment(0, model.last))):
            activation, scores = model.run(piece, activation)
            if scores is not None:
                logits[index].append(scores)
            if piece.end != model.last:
                crossing[index].append(activation)
                activation = codec.decode(codec.encode(activation))
    return np.stack([np.concatenate(rows) for rows in logits]), [np.concatenate(rows) for rows in crossing]
