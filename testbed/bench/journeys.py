"""What a plan makes of every sample, by running it: exits, right or wrong, bytes, and seconds on each tier.

A simulation draws samples and looks their journey up, so that exits, bytes and accuracy are real, codecs included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from services import codec, exits
from services.domain import NO_EXIT, FloatArray, Plan, Segment, Stage, Tier
from services.model import Model
from services.plan_rules import passes_on
from testbed.bench.costs import Costs
from testbed.bench.workloads import Workload
from training.evaluate import batches

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Hop:
    """What one hop carries of each of N samples: bytes (0: it left before), and seconds of the codec."""

    bytes: list[int]
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True, slots=True)
class Journey:
    """One plan and N samples. compute: seconds on each tier. right: whether the answer is; None is not known.

    early: the exit of the best answer that the device has, should the rest not come back, or NO_EXIT; early_right:
    whether that is right.
    """

    plan: Plan
    compute: Mapping[Tier, list[float]]
    hops: Mapping[Tier, Hop]
    exit: list[int]
    right: list[bool | None]
    early: list[int]
    early_right: list[bool | None]


@dataclass(slots=True)
class _Way:
    """All samples on their way: who still travels, and what each has as an answer so far."""

    rows: npt.NDArray[np.intp]
    tensor: FloatArray
    labels: Ints
    exit: Ints


@dataclass(slots=True)
class Journeys:
    """Runs plans on all samples of a workload, each once. `slowdowns`: how many times as long each tier takes."""

    workload: Workload
    model: Model
    costs: Costs
    slowdowns: Mapping[Tier, float]
    _known: dict[tuple[tuple[Stage, ...], bool], Journey] = field(default_factory=dict)

    def of(self, plan: Plan, with_exits: bool = True) -> Journey:
        """The journey of `plan`; without exits, everyone travels to its end."""
        key = (plan.stages, with_exits)
        if key not in self._known:
            self._known[key] = self._travel(plan, with_exits)
        return self._known[key]

    def seconds_of_rest(self, journey: Journey) -> float:
        """What the device takes at most for all that the plan gave to others: without leaving at an exit."""
        start = journey.plan.stages[0].segment.end
        return self.costs.seconds(start, self.model.last) * self.slowdowns[Tier.DEVICE]

    def finished_here(self, journey: Journey, with_exits: bool = True) -> Journey:
        """The same where the device runs the rest itself, after all; `compute` is that of the rest alone."""
        head = journey.plan.stages[0]
        rest = Stage(Tier.DEVICE, Segment(head.segment.end, self.model.last))
        return self.of(Plan((head, rest)), with_exits)

    def _travel(self, plan: Plan, with_exits: bool) -> Journey:
        inputs = self.workload.inputs()
        nobody = np.full(len(inputs), NO_EXIT, np.int64)
        way = _Way(np.arange(len(inputs)), inputs, nobody.copy(), nobody.copy())
        compute: dict[Tier, list[float]] = {}
        hops: dict[Tier, Hop] = {}
        early = early_exit = nobody
        for stage in plan.stages:
            if stage.tier is not plan.stages[0].tier:
                self._cross(plan, stage, way, hops, len(inputs))
            compute[stage.tier] = self._run(stage, way, with_exits, len(inputs))
            if stage.tier is Tier.DEVICE:
                early, early_exit = way.labels.copy(), way.exit.copy()
        right, early_right = self._right(way.labels), self._right(early)
        return Journey(plan, compute, hops, way.exit.tolist(), right, early_exit.tolist(), early_right)

    def _cross(self, plan: Plan, stage: Stage, way: _Way, hops: dict[Tier, Hop], count: int) -> None:
        """The hop to `stage`; where the tier before hands on what it gets, that is decoded only where it ends."""
        source = Tier(stage.tier - 1)
        here = plan.stage(source)
        if source is Tier.DEVICE or here is None or not passes_on(plan, source, here.codec):
            hops[source] = self._send(stage, way, count)
            return
        below, came = Tier(source - 1), hops[Tier(source - 1)]
        hops[below], hops[source] = replace(came, decode_seconds=0.0), replace(came, encode_seconds=0.0)

    def _send(self, stage: Stage, way: _Way, count: int) -> Hop:
        """Sends each traveller's activation by the stage's codec, alone, as a request of one sample does."""
        each = codec.at(stage.codec, stage.segment.start, self.model.manifest.input.preprocessing)
        payloads = [each.encode(way.tensor[i : i + 1]) for i in range(len(way.rows))]
        if payloads:
            way.tensor = np.concatenate([each.decode(payload) for payload in payloads])
        sizes = np.zeros(count, np.int64)
        sizes[way.rows] = [payload.nbytes for payload in payloads]
        cost = self.costs.at(stage.segment.start, stage.codec)
        return Hop(sizes.tolist(), cost.encode_seconds, cost.decode_seconds)

    def _run(self, stage: Stage, way: _Way, with_exits: bool, count: int) -> list[float]:
        """Runs the stage's pieces on who still travels; the seconds it takes for each of `count` samples."""
        spent = np.zeros(count)
        for piece in self.model.pieces(stage.segment):
            spent[way.rows] += self.costs.seconds(piece.start, piece.end) * self.slowdowns[stage.tier]
            self._advance(piece, way, with_exits)
        return [float(seconds) for seconds in spent]

    def _advance(self, piece: Segment, way: _Way, with_exits: bool) -> None:
        outputs = [self.model.run(piece, some) for some in batches(self.model.manifest, way.tensor)]
        if not outputs:
            return
        way.tensor = np.concatenate([tensor for tensor, _ in outputs])
        spec = self.model.exit_at(piece.end)
        if spec is None:
            return
        final = piece.end == self.model.last
        scores = exits.softmax(
            np.concatenate([logits for _, logits in outputs if logits is not None]), spec.temperature
        )
        if with_exits or final:
            way.labels[way.rows], way.exit[way.rows] = scores.argmax(axis=1), spec.index
            sure = exits.leaves(exits.confidence(scores, self.model.manifest.confidence), spec.threshold)
            stay = ~sure if not final else np.zeros(len(sure), bool)
            way.rows, way.tensor = way.rows[stay], way.tensor[stay]

    def _right(self, answers: Ints) -> list[bool | None]:
        truth = self.workload.labels
        if truth is None:
            return [None] * len(answers)
        return [None if answer < 0 else bool(answer == label) for answer, label in zip(answers, truth, strict=True)]
