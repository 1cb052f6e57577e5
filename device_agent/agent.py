"""One input in, one answer out: takes the deadline, attaches the plan, runs the first segment."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import replace

from device_agent.costs import expected_leaving
from device_agent.plans import Plans
from services import codec, log
from services.bundle import Manifest
from services.domain import Deadline, FloatArray, Objective, Plan, Policy, Segment
from services.errors import InvalidInput, OfframpError
from services.fixed import DEFAULT_CODECS, held_plan, interior
from services.front import NO_WISHES, Answer, Early, Wishes, first_request, sends_input, so_far, wished_plan
from services.response import Predictions, Response, Trace
from services.tier import TierRuntime

ANY = Policy()
"""Least latency, as accurate as the settings ask for."""
_LEAST_SECONDS, _AMPLE_SECONDS = 1 / 64, 4.0
"""Any plan of a sensible policy takes less than the second."""


class Agent:
    """The device: gives a request its plan, sends it off, and lets the planner learn from the answer."""

    def __init__(
        self, runtime: TierRuntime, plans: Plans, policy: Policy = ANY, codecs: tuple[str, str] = DEFAULT_CODECS
    ):
        self.runtime = runtime
        self.plans = plans
        self.policy = policy
        self._codecs = codecs
        self._news: list[tuple[Response, Policy, int]] = []

    async def infer(
        self,
        samples: FloatArray,
        deadline: Deadline,
        request_id: str = "",
        wishes: Wishes = NO_WISHES,
        arrived: float | None = None,
        early: Early | None = None,
    ) -> Answer:
        """Answers float32 [N, *input shape] by the plan that suits the policy and `wishes` best."""
        self._catch_up()
        policy = within(merged(self.policy, wishes, self.runtime.model.manifest), deadline.remaining())
        plan, policy = self._plan(policy, wishes, samples)
        request = first_request(self.runtime, plan, samples, deadline, request_id, wishes)
        try:
            response = self.runtime.report(await self.runtime.infer(request, arrived, so_far(request, early)))
        except OfframpError:  # where every request fails, nothing else would tell the planner why
            self._learn(Response(Predictions.empty(0, 0), Trace(), (), self.runtime.links()), policy, len(samples))
            raise
        self._learn(response, policy, len(samples))
        return Answer(request.request_id, plan, response)

    def _plan(self, policy: Policy, wishes: Wishes, samples: FloatArray) -> tuple[Plan, Policy]:
        """The plan and the policy that it is for.

        Raises InvalidInput for splits that do not fit, or a raw input that would have to leave and may not.
        """
        manifest = self.runtime.model.manifest
        if wishes.splits is not None:
            plan = wished_plan(self.runtime, wishes.splits, self._codecs)
        else:
            plan = self.plans.plan(policy, len(samples))
            if not self._shown(plan, samples):
                policy = replace(policy, images=False)
                plan = self.plans.plan(policy, len(samples))
            if policy.privacy and sends_input(plan, manifest):  # fixed, or not chosen for this policy yet
                plan = held_plan(manifest, interior(self._codecs), holds=self.runtime.holds, privacy=True)
        if policy.privacy and sends_input(plan, manifest):
            least = Segment(0, manifest.first_activation)
            raise InvalidInput(
                f"privacy: the raw input would leave the device; have it run at least {least} (split, holds)"
            )
        return plan, policy

    def _shown(self, plan: Plan, samples: FloatArray) -> bool:
        """Whether `samples` can be shown as the image that `plan` may send: as numbers they take much longer."""
        name = next((stage.codec for stage in plan.stages if stage.codec in codec.IMAGE), None)
        if name is None or not len(samples):
            return True
        model = self.runtime.model
        model.check(0, samples.shape)
        return codec.shows(codec.at(name, 0, model.manifest.input.preprocessing), samples)

    def _learn(self, response: Response, policy: Policy, batch_size: int) -> None:
        """When the event loop is next free, so that the answer does not wait for it, or with the next request."""
        if not self._news:
            asyncio.get_running_loop().call_soon(self._catch_up)
        self._news.append((response, policy, batch_size))

    def _catch_up(self) -> None:
        """Who asks again at once goes by what the last answer told: a dead link holds up one request, not two."""
        news, self._news = self._news, []
        for response, policy, batch_size in news:
            try:
                self.plans.learn(response, policy, batch_size)
            except Exception:  # a mistake in planning is no reason to fail the next request
                log.event("failed", logging.ERROR, exc_info=True, task="planning")


def within(policy: Policy, seconds: float) -> Policy:
    """`policy` for a request that has so many seconds: what is not chosen for speed is to keep to them, if it can.

    In steps, so that plans stay few.
    """
    if policy.objective is Objective.LATENCY or policy.deadline_seconds is not None or seconds >= _AMPLE_SECONDS:
        return policy
    step = 2.0 ** math.floor(math.log2(max(seconds, _LEAST_SECONDS)))
    return replace(policy, deadline_seconds=step)


def merged(policy: Policy, wishes: Wishes, manifest: Manifest) -> Policy:
    """The policy of one request. A wish takes the place of a setting, except that it lifts no promise.

    What must stay on the device stays, and an accuracy that the settings ask for is only ever raised. Who leaves
    earlier or later than calibrated wants another plan, too. Raises InvalidInput for who would leave too early for it.
    """
    if wishes == NO_WISHES:
        return policy
    floors = [floor for floor in (policy.min_accuracy, wishes.min_accuracy) if floor is not None]
    floor = max(floors, default=None)
    if floor and wishes.thresholds is not None:
        _check_no_earlier(wishes.thresholds, manifest, floor)
    return Policy(
        wishes.objective or policy.objective,
        floor,
        policy.deadline_seconds,
        policy.privacy or wishes.privacy,
        policy.leaving if wishes.thresholds is None else expected_leaving(manifest, wishes.thresholds),
    )


def _check_no_earlier(thresholds: Sequence[float], manifest: Manifest, floor: float) -> None:
    """Only the thresholds that were calibrated, or stricter ones, are known to keep an accuracy."""
    own = [spec.threshold for spec in manifest.exits[:-1]]
    earlier = any(asked < calibrated and asked <= 1 for asked, calibrated in zip(thresholds, own, strict=False))
    if earlier and manifest.calibration is not None:
        raise InvalidInput(
            f"exit_threshold, max_exit: who leaves earlier than calibrated ({', '.join(map(repr, own))}) "
            f"may miss the accuracy of at least {floor:g} that is asked for"
        )
