"""What comes back, as values: the answers, and where the time went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from services.domain import NO_EXIT, FloatArray, LinkEstimate, Segment, Tier, TierProfile

IntArray = npt.NDArray[np.int32]


class HopTrace(NamedTuple):
    """Where one tier's time went, in seconds, and what its call to the next tier moved, in bytes.

    A tuple, as is what else every request makes: those are made in a third of the time.
    """

    tier: Tier
    queue_seconds: float = 0.0
    decode_seconds: float = 0.0
    compute_seconds: float = 0.0
    encode_seconds: float = 0.0
    network_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def seconds(self) -> float:
        return (
            self.queue_seconds + self.decode_seconds + self.compute_seconds + self.encode_seconds + self.network_seconds
        )


@dataclass(frozen=True, slots=True)
class Trace:
    """The waterfall of one request, nearest tier first. Its stages are disjoint, so they add up."""

    hops: tuple[HopTrace, ...] = ()

    @property
    def seconds(self) -> float:
        return self.hops[0].seconds if len(self.hops) == 1 else sum([hop.seconds for hop in self.hops])


@dataclass(frozen=True, slots=True)
class Predictions:
    """Answers for N samples, in the caller's order.

    scores: float32 [N, classes], calibrated probabilities. confidences: float32 [N], what was compared
    with the exit's threshold. exits, tiers, reasons: int32 [N].
    """

    scores: FloatArray
    confidences: FloatArray
    exits: IntArray
    tiers: IntArray
    reasons: IntArray

    @classmethod
    def empty(cls, count: int, classes: int) -> Predictions:
        exits = np.empty(count, np.int32)
        exits.fill(NO_EXIT)
        return cls(
            np.zeros((count, classes), np.float32),
            np.zeros(count, np.float32),
            exits,
            np.zeros(count, np.int32),
            np.zeros(count, np.int32),
        )

    @classmethod
    def of_exit(cls, scores: FloatArray, confidences: FloatArray, exit_index: int, tier: Tier) -> Predictions:
        """What everybody is answered at one exit."""
        exits, tiers = np.empty(len(scores), np.int32), np.empty(len(scores), np.int32)
        exits.fill(exit_index)
        tiers.fill(tier)
        return cls(scores, confidences, exits, tiers, np.zeros(len(scores), np.int32))

    def __len__(self) -> int:
        return len(self.exits)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.scores.argmax(axis=1), np.int64)

    def part(self, rows: slice) -> Predictions:
        """The answers of some samples, as they lie in these."""
        return Predictions(
            self.scores[rows], self.confidences[rows], self.exits[rows], self.tiers[rows], self.reasons[rows]
        )

    def copy(self) -> Predictions:
        """The same answers, which stay as they are."""
        return Predictions(
            self.scores.copy(), self.confidences.copy(), self.exits.copy(), self.tiers.copy(), self.reasons.copy()
        )

    def put(self, rows: npt.NDArray[np.intp], other: Predictions) -> None:
        """Scatters `other`, the answers of a compacted batch, back into `rows`."""
        self.scores[rows] = other.scores
        self.confidences[rows] = other.confidences
        self.exits[rows] = other.exits
        self.tiers[rows] = other.tiers
        self.reasons[rows] = other.reasons


class Response(NamedTuple):
    """What a tier returns: answers, where the time went from here up, and what is believed of tiers and links.

    ran: what this tier ran for it, and with how many samples; its own profile is only made for who wants to plan.
    """

    predictions: Predictions
    trace: Trace
    profiles: tuple[TierProfile, ...] = ()
    links: tuple[LinkEstimate, ...] = ()
    ran: tuple[tuple[Segment, int], ...] = ()
