"""What stands behind the public door: something that answers samples, on whichever tier it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from services.bundle import Manifest
from services.domain import Deadline, FloatArray, Objective, Plan, Request, Segment, Stage
from services.errors import InvalidInput, SettingsError
from services.fixed import DEFAULT_CODECS, fixed_plan, held_plan
from services.response import Predictions, Response, Trace
from services.tier import TierRuntime


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request asks for besides an answer; what it leaves open is the front's to decide.

    thresholds: in place of the bundle's, one per exit. splits: where the plan cuts the network, in place of what a
    planner would choose by the others. traceparent: where the request belongs in its caller's trace. priority: of
    more than 1, it is refused first where the queue of a tier fills; 0 is none given.
    """

    thresholds: tuple[float, ...] | None = None
    objective: Objective | None = None
    min_accuracy: float | None = None
    privacy: bool = False
    splits: tuple[int, int] | None = None
    traceparent: str = ""
    priority: int = 0


NO_WISHES = Wishes()


class Answer(NamedTuple):
    """What the public door returns: the request's id, the plan it travelled by, and the response."""

    request_id: str
    plan: Plan
    response: Response


Early = Callable[[Answer], None]
"""Takes the answers so far, each time everybody has passed an exit here while somebody still travels."""


class Front(Protocol):
    """Answers float32 [N, *input shape]. `arrived`: when the request reached this process."""

    runtime: TierRuntime

    async def infer(
        self,
        samples: FloatArray,
        deadline: Deadline,
        request_id: str = "",
        wishes: Wishes = NO_WISHES,
        arrived: float | None = None,
        early: Early | None = None,
    ) -> Answer: ...


class FixedFront:
    """A front without a planner: this tier runs its part of the network, and goes on above for the rest."""

    def __init__(self, runtime: TierRuntime, codecs: tuple[str, str] = DEFAULT_CODECS):
        self.runtime = runtime
        self._codecs = codecs
        manifest = runtime.model.manifest
        if runtime.next_tier is None:
            self.plan = Plan((Stage(runtime.tier, Segment(0, manifest.last)),))
        else:
            self.plan = held_plan(manifest, codecs, runtime.tier, runtime.holds)

    async def infer(
        self,
        samples: FloatArray,
        deadline: Deadline,
        request_id: str = "",
        wishes: Wishes = NO_WISHES,
        arrived: float | None = None,
        early: Early | None = None,
    ) -> Answer:
        """Answers by the plan, or by the splits wished for; objective and accuracy have nothing to choose from."""
        plan = self.plan if wishes.splits is None else wished_plan(self.runtime, wishes.splits, self._codecs)
        if wishes.privacy and sends_input(plan, self.runtime.model.manifest):
            raise InvalidInput(f"privacy: the raw input would leave the {self.runtime.tier.label}; let it run a part")
        request = first_request(self.runtime, plan, samples, deadline, request_id, wishes)
        return Answer(request.request_id, plan, await self.runtime.infer(request, arrived, so_far(request, early)))


def wished_plan(runtime: TierRuntime, splits: tuple[int, int], codecs: tuple[str, str]) -> Plan:
    """The plan that cuts at `splits`, from this tier on. Raises InvalidInput where they do not fit the network."""
    manifest = runtime.model.manifest
    try:
        return fixed_plan(manifest, splits, codecs, runtime.tier)
    except SettingsError as error:
        raise InvalidInput(f"split: {error}") from None


def sends_input(plan: Plan, manifest: Manifest) -> bool:
    """Whether the raw input leaves the tier where the plan begins, be it in another form (`still_input`)."""
    return plan.stages[0].segment.end < manifest.first_activation


def first_request(
    runtime: TierRuntime, plan: Plan, samples: FloatArray, deadline: Deadline, request_id: str, wishes: Wishes
) -> Request:
    """The request that `samples` begin their journey as; with an id of its own where it has none."""
    name, model_hash = request_id or os.urandom(16).hex(), runtime.model.manifest.model_hash
    thresholds, priority = wishes.thresholds, wishes.priority
    return Request(name, model_hash, plan, 0, samples, deadline, thresholds, wishes.traceparent, priority=priority)


def so_far(request: Request, early: Early | None) -> Callable[[Predictions], None] | None:
    """What the request path calls with the answers so far."""
    if early is None:
        return None
    return lambda answers: early(Answer(request.request_id, request.plan, Response(answers, Trace())))
