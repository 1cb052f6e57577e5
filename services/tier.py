"""THE request path: run to the next exit, answer who is sure, go on with the rest, then forward them.

One request reads top to bottom in `TierRuntime.infer`. The same code runs on the device, the edge and the
cloud; what differs is whether there is a next tier.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Protocol

import numpy as np

from services import codec, exits, trace_context
from services.backlog import Backlog
from services.batch_queue import Batching
from services.batcher import Batcher
from services.building import Builder, Urgency
from services.bundle import ExitSpec
from services.domain import Clock, Deadline, DegradedReason, FloatArray, LinkEstimate, Request, Segment, Stage, Tier
from services.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    ModelMismatch,
    NotHeld,
    OfframpError,
    QueueFull,
    UpstreamUnavailable,
)
from services.fallback import degraded_by, is_callers
from services.journey import Early, Forwarded, Journey, Stopwatch
from services.model import Model, SegmentOutput
from services.patience import Lag, Patience
from services.plan_rules import check_plan
from services.profile import Profiler
from services.response import HopTrace, Predictions, Response, Trace
from services.trace_context import HandOn

_AMPLE_SECONDS = 2.0
"""Whoever has so long left begins the next piece, however long that takes; its deadline ends it then."""


class NextTier(Protocol):
    """The tier above. `infer` raises the domain error that the far side raised, or Unavailable."""

    async def infer(self, request: Request, codec: str) -> Forwarded: ...

    def link(self) -> LinkEstimate: ...


class TierRuntime:
    """One tier: a model, workers to run it, and maybe a next tier."""

    def __init__(
        self,
        tier: Tier,
        model: Model,
        workers: Executor,
        next_tier: NextTier | None = None,
        holds: Segment | None = None,
        clock: Clock = time.monotonic,
        batching: Batching | None = None,
        backlog: Backlog | None = None,
    ):
        self.tier = tier
        self.model = model
        self.next_tier = next_tier
        self.profiler = Profiler(tier)
        self.hand_on: HandOn = trace_context.unchanged
        self.batcher = Batcher(model, self.profiler, workers, batching or Batching(), clock)
        self.builder = Builder(model)
        self.backlog = backlog or Backlog()
        self.patience, self.lag = Patience(), Lag(clock)
        self.holds = holds or Segment(0, model.last)
        self._clock = clock

    async def infer(self, request: Request, arrived: float | None = None, early: Early | None = None) -> Response:
        """Answers every sample of `request`.

        `arrived` is when the request reached this process; what passed since then was spent decoding it. `early`
        is given the answers so far at each exit that leaves somebody travelling.
        Raises CallerError for a request that no tier could answer, DeadlineExceeded or Unavailable where
        time or tiers ran out before the first exit.
        """
        segment = self.checked(request)
        journey = self._start(request, arrived)
        journey.early = early
        await self._run(journey, segment)
        following = request.plan.after(self.tier)
        if len(journey.travelling) and following is not None:
            await self._forward(journey, following)
        return self._finish(journey)

    def report(self, response: Response) -> Response:
        """`response` with the profile of this tier, for whoever plans by it."""
        profiles = self.profiler.profile(response.ran), *response.profiles
        return Response(response.predictions, response.trace, profiles, response.links)

    def links(self) -> tuple[LinkEstimate, ...]:
        """What is believed of the link above, if there is one."""
        return (self.next_tier.link(),) if self.next_tier is not None else ()

    def warm(self, *segments: Segment) -> None:
        """Builds and runs what is held of `segments`, so that the first request finds it ready. Blocks."""
        self.model.warm(piece for segment in segments for piece in self.model.pieces(segment) if self._held(piece))

    def prepare_rest(self, at: int) -> Future[None] | None:
        """Has built what this tier runs behind split point `at` if those above fail, where it holds that."""
        rest = Segment(at, self.model.last)
        return self.builder.prepare(Urgency.REST, rest) if self._held(rest) else None

    def close(self) -> None:
        """Lets go of what builds, and of the workers."""
        self.builder.close()
        self.batcher.close()

    def _start(self, request: Request, arrived: float | None) -> Journey:
        now = self._clock()
        watch = Stopwatch(self._clock, arrived := now if arrived is None else arrived)
        watch.lap("decode")
        count = len(request.activation)
        allowed = request.deadline.remaining()
        return Journey(request, watch, np.arange(count), request.activation, request.at, arrived, allowed)

    def check_model(self, model_hash: str) -> None:
        """Raises ModelMismatch naming both hashes. Comes first: another model makes everything else look wrong."""
        ours = self.model.manifest.model_hash
        if model_hash != ours:
            raise ModelMismatch(f"this {self.tier.label} holds model {ours}, the request names {model_hash[:64]}")

    def checked(self, request: Request) -> Segment:
        """What of the network `request` wants run here. Raises CallerError for what no tier could answer."""
        self.check_model(request.model_hash)
        segment = check_plan(request, self.tier, self.model.last).segment
        self.model.check(request.at, request.activation.shape)
        self.check_held(segment)
        expected = len(self.model.manifest.exits)
        if request.thresholds is not None and len(request.thresholds) != expected:
            raise InvalidInput(f"{len(request.thresholds)} thresholds were given, the model has {expected} exits")
        return segment

    async def _run(self, journey: Journey, segment: Segment) -> None:
        """Runs `segment` exit by exit, as long as somebody travels and time is left."""
        for piece in self.model.pieces(segment):
            if not len(journey.travelling):
                return
            until = self._until(journey)
            if self._too_late(journey, piece, until.remaining()):
                self._stop(journey, DegradedReason.DEADLINE, DeadlineExceeded("no time left to compute"))
                return
            try:
                journey.activation, logits = await self._compute(journey, piece, until)
            except (DeadlineExceeded, QueueFull) as error:  # it waited too long to run
                journey.watch.lap("queue")
                self._stop(journey, DegradedReason.DEADLINE, error)
                return
            journey.at = piece.end
            spec = self.model.exit_at(piece.end)
            if spec is not None and logits is not None:
                self._pass_exit(journey, spec, logits)
                journey.offer()
            journey.watch.lap("compute")

    def _until(self, journey: Journey) -> Deadline:
        """Until when to compute: who has an answer needs time for it to leave; who has none has nothing to lose."""
        deadline = journey.request.deadline
        if not journey.passed:
            return deadline
        return Deadline(deadline.at - self.lag.margin_seconds(journey.allowed_seconds), deadline.clock)

    def _too_late(self, journey: Journey, piece: Segment, left: float) -> bool:
        """Whether not to begin `piece` any more: who has an answer does not wait for a run that would end too late."""
        if left <= 0 or left > _AMPLE_SECONDS or not journey.passed:
            return left <= 0
        return left < (self.profiler.expected(piece, len(journey.travelling)) or 0.0)

    async def _compute(self, journey: Journey, piece: Segment, until: Deadline) -> SegmentOutput:
        samples = len(journey.activation)
        if not self.model.resident(piece):
            await self.builder.resident(piece, until)
        self.backlog.runs += 1
        try:
            ran = await self.batcher.run(piece, journey.activation, until, journey.arrived)
        finally:
            self.backlog.runs -= 1
        self.backlog.took((ran.finished - ran.started) * samples / ran.samples)
        journey.watch.lap("queue", until=ran.started)
        journey.watch.lap("compute", until=ran.finished)
        journey.watch.lap("queue")
        self.lag.took(journey.watch.last - ran.finished)
        journey.ran.append((piece, ran.samples))
        return ran.output

    def _pass_exit(self, journey: Journey, spec: ExitSpec, logits: FloatArray) -> None:
        """Writes down this exit's answers; those sure enough leave, the rest become a smaller batch."""
        scores = exits.softmax(logits, spec.temperature)
        confidences = exits.confidence(scores, self.model.manifest.confidence)
        if not all(map(math.isfinite, confidences.tolist())):  # where one share is not, none of its sample is
            raise InvalidInput("the input makes this network overflow; its scores are not finite")
        journey.passed, rows = True, journey.travelling
        journey.take(Predictions.of_exit(scores, confidences, spec.index, self.tier))
        final = spec.split_point == self.model.last
        chosen = journey.request.thresholds
        if final:
            journey.travelling, journey.activation = rows[:0], journey.activation[:0]
            return
        stay = ~exits.leaves(confidences, chosen[spec.index] if chosen else spec.threshold)
        journey.travelling = rows[stay]
        journey.activation = journey.activation[stay]

    async def _forward(self, journey: Journey, following: Stage) -> None:
        """Sends those still travelling to the next tier; answers without it where it cannot."""
        request = replace(
            journey.request,
            at=journey.at,
            activation=journey.activation,
            deadline=self._spared(journey),
            traceparent=self.hand_on(journey.request),
        )
        asked, count = self._clock(), len(journey.travelling)
        try:
            forwarded = await self._call(request, following)
        except OfframpError as error:
            if is_callers(error):
                raise  # no fallback may hide it
            journey.watch.lap("network")
            reason = degraded_by(error)
            if reason is DegradedReason.DEADLINE:
                self.patience.in_vain(request.plan, count, self._clock() - asked)
                if self._seconds_of_rest(journey) < journey.request.deadline.remaining():
                    reason = DegradedReason.UPSTREAM_UNAVAILABLE  # there is time left, but not for waiting
            await self._without_next(journey, reason, error)
            return
        self.patience.took(request.plan, count, self._clock() - asked)
        if forwarded.codec in codec.IMAGE:  # those of others follow from shapes
            self.profiler.sent(forwarded.codec, forwarded.bytes_up / max(request.activation.nbytes, 1))
        journey.take(forwarded.response.predictions)
        journey.forwarded = forwarded
        self._book(journey, forwarded)

    def _spared(self, journey: Journey) -> Deadline:
        """The deadline of those above: it leaves time to finish here, or to reach an exit that somebody still needs."""
        deadline = self._until(journey)
        remaining, rest = deadline.remaining(), self._seconds_of_rest(journey)
        patience = self.patience.seconds(journey.request.plan, len(journey.travelling), rest)
        if patience is not None and rest < remaining / 2:
            return replace(deadline, at=deadline.at - max(remaining - patience, rest))
        piece = self._to_exit(journey)
        if journey.answered or not self._held(piece):
            return deadline
        seconds = (self.profiler.at_most(piece, len(journey.travelling)) or 0.0) + self._queue_seconds()
        return deadline if seconds > remaining / 2 else replace(deadline, at=deadline.at - seconds)

    def _seconds_of_rest(self, journey: Journey) -> float:
        """What the rest of the network should take here, its wait included; infinite where it is not held or known."""
        rest = Segment(journey.at, self.model.last)
        seconds = self.profiler.at_most(rest, len(journey.travelling)) if self._held(rest) else None
        return math.inf if seconds is None else seconds + self._queue_seconds()

    def _queue_seconds(self) -> float:
        """How long a run should wait here: as long as lately, or behind what is here now."""
        return max(self.profiler.queue_seconds(), self.backlog.ahead_seconds())

    def _to_exit(self, journey: Journey) -> Segment:
        return self.model.pieces(Segment(journey.at, self.model.last))[0]

    async def _call(self, request: Request, following: Stage) -> Forwarded:
        if self.next_tier is None:
            raise UpstreamUnavailable(f"the plan goes on to the {following.tier.label}, this tier has no next one")
        if request.deadline.remaining() <= 0:
            raise DeadlineExceeded("no time left to go on")
        forwarded = await self.next_tier.infer(request, following.codec)
        passed = forwarded.response.predictions.exits
        if not ((passed >= 0) & (passed < len(self.model.manifest.exits))).all():
            raise InternalError("the next tier's answer names an exit that this model does not have")
        return forwarded

    async def _without_next(self, journey: Journey, reason: DegradedReason, error: OfframpError) -> None:
        """The rest of the network here, if it is held; for want of time, only an exit that everybody still needs."""
        travelling, late = journey.travelling, reason is DegradedReason.DEADLINE
        rest = self._to_exit(journey) if late else Segment(journey.at, self.model.last)
        if self._held(rest) and not (late and journey.answered):
            journey.unpack()
            await self._run(journey, rest)
        self._stop(journey, reason, error)
        reasons = journey.answers.reasons[travelling]
        journey.answers.reasons[travelling] = np.where(reasons == 0, int(reason), reasons)

    def check_held(self, segment: Segment) -> None:
        """Raises NotHeld where `segment` is not within what this tier holds."""
        if not self._held(segment):
            raise NotHeld(f"this {self.tier.label} holds {self.holds}, the plan gives it {segment}")

    def _held(self, segment: Segment) -> bool:
        return segment.empty or (self.holds.start <= segment.start and segment.end <= self.holds.end)

    def _stop(self, journey: Journey, reason: DegradedReason, error: OfframpError) -> None:
        """Ends the journey with the best answers so far; raises `error` where somebody has none."""
        if not journey.answered:
            raise error
        journey.answers.reasons[journey.travelling] = int(reason)
        journey.travelling = journey.travelling[:0]

    def _book(self, journey: Journey, forwarded: Forwarded) -> None:
        """Splits the time of the call into encoding, network, and what the tiers above account for."""
        watch = journey.watch
        call = self._clock() - watch.last
        watch.spent["encode"] += forwarded.encode_seconds
        outside = call - forwarded.encode_seconds - forwarded.response.trace.seconds
        watch.spent["network"] += max(outside, 0.0)  # a tier that overstates its time does not make ours negative
        watch.last += call

    def _finish(self, journey: Journey) -> Response:
        forwarded = journey.forwarded
        above = forwarded.response if forwarded else Response(journey.answers, Trace())
        journey.watch.lap("encode")
        spent = journey.watch.spent
        hop = HopTrace(
            self.tier,
            spent["queue"],
            spent["decode"],
            spent["compute"],
            spent["encode"],
            spent["network"],
            forwarded.bytes_up if forwarded else 0,
            forwarded.bytes_down if forwarded else 0,
        )
        return Response(
            journey.answers,
            Trace((hop, *above.trace.hops)),
            above.profiles,
            (*self.links(), *above.links),
            tuple(journey.ran),
        )
