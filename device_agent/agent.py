"""One input in, one answer out: starts the deadline, attaches the plan, runs the first segment."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from services.domain import Deadline, FloatArray, Plan, Request, Response
from services.tier import TierRuntime


@dataclass(frozen=True, slots=True)
class Answer:
    """What the public door returns: the request's id, the plan it travelled by, and the response."""

    request_id: str
    plan: Plan
    response: Response


class Agent:
    """The device: plans a request and sends it off."""

    def __init__(self, runtime: TierRuntime, plan: Plan):
        self.runtime = runtime
        self.plan = plan

    async def infer(
        self,
        samples: FloatArray,
        deadline: Deadline,
        request_id: str = "",
        thresholds: tuple[float, ...] | None = None,
        arrived: float | None = None,
    ) -> Answer:
        """Answers float32 [N, *input shape]. `thresholds` overrides the bundle's, one per exit."""
        request = Request(
            request_id or uuid.uuid4().hex,
            self.runtime.model.manifest.model_hash,
            self.plan,
            0,
            samples,
            deadline,
            thresholds,
        )
        return Answer(request.request_id, self.plan, await self.runtime.infer(request, arrived))
