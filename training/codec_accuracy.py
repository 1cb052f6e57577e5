"""What codecs do to a network: accuracy lost and bytes sent, for every split point and codec that a plan may use."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from services import codec
from services.bundle import NOT_CARRIED, CodecAccuracy, Manifest
from services.codec import Codec
from services.domain import FloatArray, Segment
from services.errors import InvalidInput
from services.model import Model
from training.evaluate import batches

ACCURACY_SAMPLES = 2000
"""Samples that accuracy is taken over: the first ones of the calibration split, which is in random order."""
BYTES_SAMPLES = 500
"""Samples whose bytes are counted, one by one."""


def codec_accuracies(model: Model, inputs: FloatArray, labels: npt.NDArray[np.int64]) -> tuple[CodecAccuracy, ...]:
    """Accuracy deltas on the first 2,000 of `inputs` [N, …], bytes of the first 500, at `useful_split_points`.

    A delta is that of the whole network, without exits, with nothing but this codec at this split point. What
    follows a `+` is lossless, so such a codec has the delta of the one before it. Where a codec cannot carry one of
    the activations, such as one that is not finite, it is noted down as `NOT_CARRIED`, so that no plan uses it there.
    """
    inputs, labels = inputs[:ACCURACY_SAMPLES], labels[:ACCURACY_SAMPLES]
    manifest, found, at, activation = model.manifest, [], 0, inputs
    right = final_labels(model, 0, inputs) == labels
    for split_point in useful_split_points(manifest):
        activation, at = _onwards(model, at, split_point, activation), split_point
        deltas: dict[str, float] = {}
        for name in codec.usable(manifest, split_point):
            base, chosen = name.split("+")[0], codec.at(name, split_point, manifest.input.preprocessing)
            try:
                if base not in deltas:
                    kept = final_labels(model, split_point, activation, chosen) == labels
                    deltas[base] = round(float(kept.mean() - right.mean()), 6)
                sent = round(mean_bytes(chosen, activation[:BYTES_SAMPLES]), 1)
            except InvalidInput:
                found.append(CodecAccuracy(split_point=split_point, codec=name, delta=NOT_CARRIED))
                continue
            found.append(CodecAccuracy(split_point=split_point, codec=name, delta=deltas[base], bytes_per_sample=sent))
    return tuple(found)


def with_bytes(measured: tuple[CodecAccuracy, ...], before: Manifest) -> tuple[CodecAccuracy, ...]:
    """`measured`, and of what was known `before` the bytes at other split points: not what it did to accuracy."""
    places = {(each.split_point, each.codec) for each in measured}
    others = (each for each in before.codec_accuracy if (each.split_point, each.codec) not in places)
    return (*measured, *(each.model_copy(update={"delta": None}) for each in others if each.bytes_per_sample))


def useful_split_points(manifest: Manifest) -> tuple[int, ...]:
    """The input, the natural bottlenecks, and wherever an exit but the last is: where cutting can pay."""
    exits = {spec.split_point for spec in manifest.exits}
    points = manifest.split_points[:-1]
    return tuple(point.index for point in points if point.index == 0 or point.natural or point.index in exits)


def mean_bytes(chosen: Codec, activation: FloatArray) -> float:
    """Mean bytes on the wire of the samples of `activation` [N, …], each sent alone."""
    return float(np.mean([chosen.encode(row[None]).nbytes for row in activation]))


def final_labels(model: Model, start: int, activation: FloatArray, by: Codec | None = None) -> npt.NDArray[np.int64]:
    """What the whole network says, int64 [N], of activations [N, …] at `start` that crossed `by` there."""
    said = []
    for batch in batches(model.manifest, activation):
        carried = batch if by is None else by.decode(by.encode(batch))
        said.append(_onwards(model, start, model.last, carried).argmax(axis=1))
    return np.concatenate(said)


def _onwards(model: Model, start: int, end: int, activation: FloatArray) -> FloatArray:
    """The activations at `end` of activations at `start`."""
    pieces = model.pieces(Segment(start, end))
    whole = []
    for batch in batches(model.manifest, activation):
        for piece in pieces:
            batch, _ = model.run(piece, batch)
        whole.append(batch)
    return np.concatenate(whole)
