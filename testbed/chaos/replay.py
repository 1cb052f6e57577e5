"""The answer that one process gives: the whole network, cut where an answer's plan cut it, through the same codecs.

Which tier answered a sample says which hops it crossed: what a tier above answered came through the codec, what a tier
below finished by itself did not. Batches are made smaller where the answer says that they were, since the last bits
of a product of matrices depend on their size. So the two must be equal to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services import codec, exits
from services.domain import FloatArray, Plan, Segment
from services.model import Model
from testbed.chaos.history import Given

_EXACT = ("fp32", "pixels", "png")


class Replay:
    """Runs answers again. inputs: the pool that requests draw from, each float32 [N, *input shape]."""

    def __init__(self, model: Model, inputs: Sequence[FloatArray]):
        self._model = model
        self._inputs = inputs

    def scores(self, given: Given) -> FloatArray:
        """float32 [N, classes]: what the samples of `given` must have got. Raises ValueError for a plan of no sense."""
        return _Run(self._model, self._inputs[given.inputs], given).scores()

    def whole(self, given: Given) -> FloatArray:
        """The same without plan and codecs: the network in one piece, at the exits that `given` names."""
        own = Given(given.inputs, f"device 0:{self._model.last}", given.exits, (0,) * len(given.exits), b"")
        return self.scores(own)

    def is_equal(self, given: Given) -> bool:
        try:
            return self.scores(given).tobytes() == given.scores
        except (ValueError, KeyError):
            return False


def is_lossless(given: Given) -> bool:
    """Whether nothing on the way of any of its samples changed a value."""
    stages = Plan.parse(given.plan).stages[1:]
    return all(stage.codec.partition("+")[0] in _EXACT or max(given.tiers) < stage.tier for stage in stages)


class _Run:
    def __init__(self, model: Model, activation: FloatArray, given: Given):
        self._model, self._activation, self._at = model, activation, 0
        self._plan = Plan.parse(given.plan)
        self._exits, self._tiers = np.array(given.exits), np.array(given.tiers)
        if len(self._exits) != len(activation):
            raise ValueError(f"{len(self._exits)} answers for {len(activation)} samples")
        self._rows: npt.NDArray[np.intp] = np.arange(len(activation))
        self._scores = np.full((len(activation), len(model.manifest.labels)), np.nan, np.float32)

    def scores(self) -> FloatArray:
        first, *above = self._plan.stages
        self._to(first.segment.end)
        for stage in above:
            if not len(self._rows) or self._tiers[self._rows].max() < stage.tier:
                break
            chosen = codec.at(stage.codec, self._at, self._model.manifest.input.preprocessing)
            self._activation = chosen.decode(chosen.encode(self._activation))
            self._to(stage.segment.end)
        self._to(self._model.last)  # what is left was finished by whoever had it
        return self._scores

    def _to(self, end: int) -> None:
        """Runs on to a split point; leaves behind who was answered at an exit on the way."""
        for piece in self._model.pieces(Segment(self._at, end)):
            if not len(self._rows):
                return
            self._activation, logits = self._model.run(piece, self._activation)
            self._at = piece.end
            spec = self._model.exit_at(piece.end)
            if spec is not None and logits is not None:
                found, here = exits.softmax(logits, spec.temperature), self._exits[self._rows]
                self._scores[self._rows[here == spec.index]] = found[here == spec.index]
                self._rows, self._activation = self._rows[here > spec.index], self._activation[here > spec.index]
