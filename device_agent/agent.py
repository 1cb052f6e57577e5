"""One input in, one answer out: starts the deadline, attaches the plan, runs the first segment."""

from __future__ import annotations

import asyncio
import uuid

from device_agent.plans import Plans
from services.domain import Deadline, FloatArray, Policy, Predictions, Request, Response, Trace
from services.errors import OfframpError
from services.open_inference.front import Answer
from services.tier import TierRuntime

ANY = Policy()
"""Least latency, as accurate as the settings ask for."""


class Agent:
    """The device: gives a request its plan, sends it off, and lets the planner learn from the answer."""

    def __init__(self, runtime: TierRuntime, plans: Plans, policy: Policy = ANY):
        self.runtime = runtime
        self.plans = plans
        self.policy = policy

    async def infer(
        self,
        samples: FloatArray,
        deadline: Deadline,
        request_id: str = "",
        thresholds: tuple[float, ...] | None = None,
        arrived: float | None = None,
    ) -> Answer:
        """Answers float32 [N, *input shape]. `thresholds` overrides the bundle's, one per exit."""
        plan = self.plans.plan(self.policy, len(samples))
        request = Request(
            request_id or uuid.uuid4().hex,
            self.runtime.model.manifest.model_hash,
            plan,
            0,
            samples,
            deadline,
            thresholds,
        )
        try:
            response = await self.runtime.infer(request, arrived)
        except OfframpError:  # where every request fails, nothing else would tell the planner why
            self._learn(Response(Predictions.empty(0, 0), Trace(), (), self.runtime.links()), len(samples))
            raise
        self._learn(response, len(samples))
        return Answer(request.request_id, plan, response)

    def _learn(self, response: Response, batch_size: int) -> None:
        """When the event loop is next free, so that the answer does not wait for it."""
        asyncio.get_running_loop().call_soon(self.plans.learn, response, self.policy, batch_size)
