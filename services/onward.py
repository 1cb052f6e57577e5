"""Going on behind an exit in the very worker that ran the piece before it: no turn of the event loop lies between.

What is decided there decides nothing else: who stays is worked out again where answers are written down, on the event
loop, from the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from services import exits
from services.domain import Deadline, FloatArray, Segment
from services.model import Model, SegmentOutput

AMPLE_SECONDS = 2.0
"""Whoever has so long left begins the next piece, however long that takes; its deadline ends it then."""


@dataclass(frozen=True, slots=True)
class Ran:
    """When a run started, what came of this request's part of it, when it finished, and how many samples shared it."""

    piece: Segment
    started: float
    output: SegmentOutput
    finished: float
    samples: int


@dataclass(frozen=True, slots=True)
class Ahead:
    """What comes after each piece, with the seconds it should take at most, and when an answer should leave."""

    after: Mapping[Segment, tuple[Segment, float]]
    until: Deadline


@dataclass(slots=True, eq=False)
class Onward:
    """What one request has ahead behind the exit of a piece, for the worker that runs that piece.

    thresholds: of the request, None for the bundle's. look: tells what is ahead, on the event loop; asked for when the
    piece goes to a worker. ran: what was run there, in order; who gives up waiting has what is in it by then. wanted:
    whether anybody still waits.
    """

    model: Model
    thresholds: tuple[float, ...] | None
    look: Callable[[], Ahead]
    ahead: Ahead | None = None
    ran: list[Ran] = field(default_factory=list)
    wanted: bool = True

    def following(self, ran: Ran) -> tuple[Segment, FloatArray] | None:
        """What to run after `ran`, on what; None where nothing is, nobody travels on, or no time is left."""
        if self.ahead is None or not self.wanted or ran.piece not in self.ahead.after:
            return None
        piece, seconds = self.ahead.after[ran.piece]
        if self.ahead.until.remaining() < min(seconds, AMPLE_SECONDS):
            return None
        travelling = self._travelling(ran)
        return (piece, travelling) if len(travelling) else None

    def _travelling(self, ran: Ran) -> FloatArray:
        """The samples that do not leave at the exit behind `ran`."""
        whole, logits = ran.output
        spec, manifest = self.model.exit_at(ran.piece.end), self.model.manifest
        if spec is None or logits is None:
            return whole
        confidences = exits.confidence(exits.softmax(logits, spec.temperature), manifest.confidence)
        if not np.isfinite(confidences).all():
            return whole[:0]  # it is refused where answers are written down
        return whole[~exits.leaves(confidences, spec.threshold_of(self.thresholds))]
