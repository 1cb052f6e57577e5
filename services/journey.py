"""One request on one tier: who still travels, with what, and where its time went."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from services.domain import Clock, FloatArray, Request, Segment
from services.response import Predictions, Response

Early = Callable[[Predictions], None]
"""Takes a copy of the answers so far."""

_NOBODY = Predictions.empty(0, 0)
_STAGES = ("queue", "decode", "compute", "encode", "network")


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What came back from the next tier, and what the way there cost this one. codec: by which it went."""

    response: Response
    encode_seconds: float
    bytes_up: int
    bytes_down: int
    codec: str


@dataclass(slots=True)
class Stopwatch:
    """Gives every moment since `last` to exactly one stage, so that the stages add up to the whole."""

    clock: Clock
    last: float
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STAGES, 0.0))

    def lap(self, stage: str, until: float | None = None) -> None:
        """Books the time since the last lap, up to now or `until`, under `stage` ('queue', 'compute' …)."""
        now = self.clock() if until is None else until
        self.spent[stage] += now - self.last
        self.last = now


@dataclass(slots=True)
class Journey:
    """One request on this tier: who still travels, with what, and the best answer each has so far, none at first.

    arrived: when it came; allowed_seconds: what it had left then. passed: whether it has been through an exit here.
    """

    request: Request
    watch: Stopwatch
    travelling: npt.NDArray[np.intp]
    activation: FloatArray
    at: int
    arrived: float
    allowed_seconds: float = math.inf
    passed: bool = False
    ran: list[tuple[Segment, int]] = field(default_factory=list)
    forwarded: Forwarded | None = None
    early: Early | None = None
    answers: Predictions = _NOBODY

    @property
    def answered(self) -> bool:
        """Whether everyone still travelling has passed an exit, so that stopping now is an answer."""
        return self.passed or not len(self.travelling)

    def take(self, answers: Predictions) -> None:
        """Writes down what those who travel were answered."""
        if len(self.travelling) == len(self.request.activation):
            self.answers = answers
        else:
            self.answers.put(self.travelling, answers)

    def unpack(self) -> None:
        """Decodes what was to be passed on as it came, and is to be run here after all. Raises CorruptPayload."""
        if (passing := self.request.passing) is not None and self.at == self.request.at:
            self.activation = passing.decode(passing.payload)
            self.watch.lap("decode")

    def offer(self) -> None:
        """Hands the answers so far to who wants them early, while somebody still travels."""
        if self.early is not None and len(self.travelling) and self.answered:
            self.early(self.answers.copy())
