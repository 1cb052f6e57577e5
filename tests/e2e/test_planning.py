"""The plan of a real device follows a real emulated link."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agent.agent import Agent
from device_agent.agents import Agents
from services import bundle, process
from services.domain import Deadline, DegradedReason, Segment, Tier
from services.front import Answer, Wishes
from services.model import Model
from services.sessions import SessionBuilder
from services.settings import DeviceSettings, TierSettings
from services.tier import TierRuntime
from testbed.links import EmulatedLink, parse_address, symmetric
from tests.tiers import Running, upper

FAST, SLOW = symmetric(12.5e6, 0.002), symmetric(600.0, 0.002)


@dataclass(slots=True)
class Planned:
    """A device a thousand times slower than its edge, whose plan is chosen, and the link above it."""

    agent: Agent
    model: Model
    link: EmulatedLink
    edge: Running

    async def ask(self) -> Answer:
        samples = np.zeros((1, 1, 8, 8), np.float32)
        answer = await self.agent.infer(samples, Deadline.after(10), wishes=Wishes((2, 2, 0)))
        await asyncio.sleep(0)  # learning comes after answering
        return answer

    def tiers(self) -> list[Tier]:
        return [stage.tier for stage in self.agent.plans.plan(self.agent.policy, 1).stages]


@asynccontextmanager
async def planned(tiny: Path) -> AsyncIterator[Planned]:
    async with AsyncExitStack() as stack:
        loaded = bundle.load(tiny)
        edge = await stack.enter_async_context(upper(Tier.EDGE, tiny))
        process.get_ready(edge.runtime, loaded, TierSettings(bundle=tiny), Segment(0, loaded.manifest.last))
        link = stack.enter_context(EmulatedLink(("127.0.0.1", 0), parse_address(edge.address), *FAST))
        settings = DeviceSettings(bundle=tiny, next="{}:{}".format(*link.address), compute_slowdown=1000)
        uplink = process.uplink(Tier.DEVICE, settings)
        models = process.models(Tier.DEVICE, settings, uplink)
        agents = Agents(models, uplink, settings)
        process.warm(models, settings)
        await agents.start()
        try:
            agent = models.first.front
            assert isinstance(agent, Agent)
            yield Planned(agent, models.first.runtime.model, link, edge)
        finally:
            await agents.stop()
            await process.close(models, uplink)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def test_the_first_plan_is_chosen_before_the_first_request(tiny: Path) -> None:
    async with planned(tiny) as device:
        assert device.tiers() == [Tier.DEVICE, Tier.EDGE]
        assert (await device.ask()).plan.expected_seconds is not None


async def test_when_the_link_collapses_the_plan_changes_within_three_requests_and_none_fails(tiny: Path) -> None:
    async with planned(tiny) as device:
        for _ in range(5):
            await device.ask()
        device.link.reshape(*SLOW)
        for _ in range(3):
            await device.ask()
        await until(lambda: device.tiers() == [Tier.DEVICE])
        answer = await device.ask()
        assert (answer.response.predictions.tiers == Tier.DEVICE).all()
        assert not answer.response.predictions.reasons.any()


async def test_no_request_builds_what_a_new_plan_needs(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builders: list[str] = []
    build = SessionBuilder.build

    def noted(self: SessionBuilder, *given: Any) -> Any:
        builders.append(threading.current_thread().name.rsplit("_", 1)[0])
        return build(self, *given)

    monkeypatch.setattr(TierRuntime, "prepare_rest", lambda *_: None)  # which would build it as well
    async with planned(tiny) as device:
        device.model._sessions.clear()  # as if other plans had long been chosen
        monkeypatch.setattr(SessionBuilder, "build", noted)
        device.link.cut()
        await until(lambda: device.tiers() == [Tier.DEVICE])
        await device.ask()
    assert set(builders) == {"builder"}


async def test_when_the_link_recovers_probes_notice_and_the_plan_comes_back(tiny: Path) -> None:
    async with planned(tiny) as device:
        device.link.reshape(*SLOW)
        for _ in range(3):
            await device.ask()
        await until(lambda: device.tiers() == [Tier.DEVICE])
        device.link.reshape(*FAST)
        await until(lambda: device.tiers() == [Tier.DEVICE, Tier.EDGE])


async def test_a_dead_edge_is_planned_around_and_found_again(tiny: Path) -> None:
    async with planned(tiny) as device:
        device.link.cut()
        await until(lambda: device.tiers() == [Tier.DEVICE])
        device.link.restore()
        await until(lambda: device.tiers() == [Tier.DEVICE, Tier.EDGE])


async def test_a_request_caught_by_a_link_that_died_is_finished_here_long_before_its_deadline(tiny: Path) -> None:
    async with planned(tiny) as device:
        device.link.cut()
        answer = await device.ask()
        assert answer.response.trace.seconds < 5
        assert (answer.response.predictions.exits == 2).all()
        assert (answer.response.predictions.reasons == DegradedReason.UPSTREAM_UNAVAILABLE).all()
