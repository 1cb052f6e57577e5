"""Inputs that no image can show, where the plan would send an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from device_agent.agent import Agent
from device_agent.planner import Options
from device_agent.replan import Replanner
from services.domain import Deadline, FloatArray, LinkEstimate, Tier
from services.errors import InvalidInput
from services.fixed import fixed_plan
from services.model import Model
from tests.fakes import FakeClock, FakeNext
from tests.journeys import answering, runtime, samples
from tests.replans import Prepares, profile_of

SLOW = LinkEstimate(Tier.DEVICE, 0.001, 2000.0)
SHOWN, BEYOND = samples(1) * 0, samples(1) * 0 + 1000


@dataclass(slots=True)
class BehindSlowLink(FakeNext):
    def link(self) -> LinkEstimate:
        return SLOW


@pytest.fixture
def above() -> BehindSlowLink:
    return BehindSlowLink(answering)


@pytest.fixture
def agent(model: Model, clock: FakeClock, above: BehindSlowLink) -> Agent:
    """A device so slow that all is computed on the edge."""
    fallback = fixed_plan(model.manifest, (0, model.last), ("fp32", "fp32"))
    options = Options(codecs=(("fp32", "fp16"), ("fp32",)), image_codecs=("pixels",))
    plans = Replanner(model.manifest, fallback, Prepares(), options, clock=clock)
    plans.believe([profile_of(Tier.DEVICE, 9.0, model.last), profile_of(Tier.EDGE, 0.001, model.last)], [SLOW])
    return Agent(runtime(model, clock, above), plans)


async def _codec_in_the_end(agent: Agent, above: BehindSlowLink, clock: FakeClock, tensor: FloatArray) -> str:
    for _ in range(4):
        clock.now += 1.0
        await agent.infer(tensor, Deadline(1e6, clock))
        await agent.plans.settle()  # type: ignore[attr-defined]
    return above.asked[-1][1]


async def test_inputs_that_no_image_can_show_have_a_plan_without_images_and_others_keep_theirs(
    agent: Agent, above: BehindSlowLink, clock: FakeClock
) -> None:
    assert await _codec_in_the_end(agent, above, clock, SHOWN) == "pixels"
    assert await _codec_in_the_end(agent, above, clock, BEYOND) == "fp16"
    await agent.infer(SHOWN, Deadline(1e6, clock))
    assert above.asked[-1][1] == "pixels"


async def test_an_input_of_another_shape_is_refused_by_its_shape_though_the_plan_sends_images(
    agent: Agent, above: BehindSlowLink, clock: FakeClock
) -> None:
    await _codec_in_the_end(agent, above, clock, SHOWN)
    with pytest.raises(InvalidInput, match="split point 0 carries"):
        await agent.infer(np.zeros((1, 3), np.float32), Deadline(1e6, clock))
