"""The inputs that requests draw from: few enough to run each of them again, singles and batches, easy and hard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services import exits
from services.domain import FloatArray, Segment
from services.images import preprocess
from services.model import Model

SINGLES = 32
BATCHES = 12
MOST_IN_BATCH = 12


@dataclass(frozen=True, slots=True)
class Pool:
    """images: uint8 [N, H, W, C] each, the singles first. tensors: what the network takes, float32."""

    images: Sequence[npt.NDArray[np.uint8]]
    tensors: Sequence[FloatArray]

    @classmethod
    def of(cls, images: npt.NDArray[np.uint8], model: Model, seed: int) -> Pool:
        """Draws from `images`, uint8 [N, H, W, C]: half of them the least sure at the first exit, half the surest."""
        order = np.argsort(_sureness(preprocess(images, model.manifest.input), model), kind="stable")
        half = min(len(order) // 2, SINGLES)
        few = np.concatenate([order[:half], order[len(order) - half :]])
        rng = np.random.default_rng(seed)
        singles = rng.permutation(few)[:SINGLES]
        batches = BATCHES if model.manifest.input.max_batch is None else 0
        sizes = rng.integers(2, MOST_IN_BATCH + 1, batches)
        parts = [*(singles[at : at + 1] for at in range(len(singles))), *(rng.choice(few, size) for size in sizes)]
        found = [images[part] for part in parts]
        return cls(found, [preprocess(each, model.manifest.input) for each in found])

    @property
    def singles(self) -> int:
        return sum(len(each) == 1 for each in self.images)


def _sureness(tensors: FloatArray, model: Model) -> FloatArray:
    """Confidence at the first exit, float32 [N]."""
    activation = tensors
    for piece in model.pieces(Segment(0, model.last)):
        activation, logits = model.run(piece, activation)
        if logits is not None:
            spec = model.exit_at(piece.end)
            return exits.confidence(exits.softmax(logits, spec.temperature if spec else 1.0))
    return np.zeros(len(tensors), np.float32)
