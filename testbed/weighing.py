"""What an activation weighs: bytes on the wire at every split point, after the codec, on real inputs."""

from __future__ import annotations

import numpy as np

from services import bundle, codec
from services.bundle import Bundle, CodecAccuracy
from services.domain import FloatArray, Segment
from services.errors import InvalidInput
from services.images import preprocess
from services.model import Model

CODEC = "int8+zstd"
_SAMPLES = 32


def weigh(model: Model, inputs: FloatArray, name: str = CODEC) -> tuple[CodecAccuracy, ...]:
    """Mean bytes of one sample of `inputs`, float32 [N, …], encoded alone at each split point of `model`.

    A point whose activation is not finite, or too wide for the codec, is left out; so is all that follows it.
    """
    found, encoder = [], codec.get(name)
    samples = [sample[None] for sample in inputs]
    for at in range(model.last + 1):
        if at:
            samples = [model.run(Segment(at - 1, at), sample)[0] for sample in samples]
        try:
            sizes = [encoder.encode(sample).nbytes for sample in samples]
        except InvalidInput:
            break
        found.append(CodecAccuracy(split_point=at, codec=name, bytes_per_sample=float(np.mean(sizes))))
    return tuple(found)


def shipped(loaded: Bundle) -> FloatArray | None:
    """Some of the inputs that travel with the bundle, float32 [N, …]; None where there are none."""
    spec = loaded.manifest.input
    if loaded.manifest.samples is None or spec.preprocessing is None:
        return None
    images = bundle.load_samples(loaded)[0][:_SAMPLES]
    return preprocess(images if images.ndim == 4 else images[..., None], spec)
