"""What the agent learns from its requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from device_agent.agent import Agent, within
from device_agent.plans import FixedPlan
from services.domain import Deadline, LinkEstimate, Objective, Plan, Policy, Segment, Tier
from services.errors import DeadlineExceeded
from services.fixed import fixed_plan
from services.front import Wishes
from services.model import Model
from services.response import Response
from tests.fakes import FakeClock, FakeNext
from tests.journeys import D, E, answering, runtime, samples, stages


@dataclass
class _Plans:
    """Always the same plan; keeps what came of it."""

    plan_: Plan
    learnt: list[tuple[Response, int]] = field(default_factory=list)
    asked: Callable[[], object] = bool

    def plan(self, policy: Policy, batch_size: int) -> Plan:
        self.asked()
        return self.plan_

    def learn(self, response: Response, policy: Policy, batch_size: int) -> None:
        self.learnt.append((response, batch_size))


async def test_an_answer_is_learnt_from(model: Model, clock: FakeClock) -> None:
    plans = _Plans(stages((D, 0, 0), (E, 0, 8)))
    answer = await Agent(runtime(model, clock, FakeNext(answering)), plans).infer(samples(3), Deadline(1e6, clock))
    await asyncio.sleep(0)
    assert plans.learnt == [(answer.response, 3)]


async def test_who_asks_again_at_once_is_planned_for_by_the_answer_before(model: Model, clock: FakeClock) -> None:
    plans = _Plans(stages((D, 0, 0), (E, 0, 8)))
    agent, known = Agent(runtime(model, clock, FakeNext(answering)), plans), []
    plans.asked = lambda: known.append(len(plans.learnt))
    for _ in range(3):
        await agent.infer(samples(1), Deadline(1e6, clock))
    assert known == [0, 1, 2]


async def test_a_mistake_in_planning_fails_no_request(model: Model, clock: FakeClock) -> None:
    class Mistaken(_Plans):
        def learn(self, response: Response, policy: Policy, batch_size: int) -> None:
            raise ZeroDivisionError

    agent = Agent(runtime(model, clock, FakeNext(answering)), Mistaken(stages((D, 0, 0), (E, 0, 8))))
    for _ in range(2):
        assert (await agent.infer(samples(1), Deadline(1e6, clock))).response


async def test_a_request_that_nobody_could_answer_still_tells_how_the_link_is(model: Model, clock: FakeClock) -> None:
    plans = _Plans(stages((D, 0, 0), (E, 0, 8)))
    device = runtime(model, clock, FakeNext(DeadlineExceeded("no answer")), holds=Segment(0, 0))
    agent = Agent(device, plans)
    with pytest.raises(DeadlineExceeded):
        await agent.infer(samples(3), Deadline(1e6, clock))
    await asyncio.sleep(0)
    assert [(response.links, size) for response, size in plans.learnt] == [((LinkEstimate(Tier.DEVICE),), 3)]


async def test_a_device_that_sends_images_still_answers_who_wants_the_input_kept(
    model: Model, clock: FakeClock
) -> None:
    codecs = ("jpeg90", "int8+zstd")
    images = FixedPlan(fixed_plan(model.manifest, (0, 4), codecs))
    agent = Agent(runtime(model, clock, FakeNext(answering)), images, codecs=codecs)
    answer = await agent.infer(samples(1), Deadline(1e6, clock), wishes=Wishes(privacy=True))
    assert str(answer.plan) == "device 0:2 > edge 2:4 int8+zstd > cloud 4:8 int8+zstd"
    assert len(answer.response.predictions.scores) == 1


def test_who_does_not_look_for_speed_is_planned_for_by_the_time_it_has() -> None:
    fast, lean = Policy(), Policy(objective=Objective.BYTES)
    assert within(fast, 0.05) == fast
    assert within(lean, 5.0) == lean
    assert [within(lean, seconds).deadline_seconds for seconds in (3.9, 0.07, 0.06, 0.0)] == [
        2.0,
        1 / 16,
        1 / 32,
        1 / 64,
    ]
    kept = Policy(objective=Objective.ENERGY, deadline_seconds=0.3)
    assert within(kept, 0.05) == kept
