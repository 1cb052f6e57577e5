"""What a tier says of itself and of those above it, however they behave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from services.describing import Describer, Description
from services.domain import LinkEstimate, Request, Tier, TierProfile
from services.errors import UpstreamUnavailable
from services.journey import Forwarded
from services.model import Model
from services.tier import TierRuntime
from tests.fakes import FakeClock, FakeNext, InlineWorkers

LINK = LinkEstimate(Tier.EDGE, 0.04, 1e6)


@dataclass
class Above:
    """A next tier that describes itself, or fails to, or takes until it is let."""

    answer: Description | Exception
    asked: int = 0
    free: asyncio.Event | None = None
    timeouts: list[float] = field(default_factory=list)

    async def describe(self, timeout_seconds: float, model_hash: str) -> Description:
        self.asked += 1
        self.timeouts.append(timeout_seconds)
        if self.free is not None:
            await self.free.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def infer(self, request: Request, codec: str) -> Forwarded:
        raise NotImplementedError

    def link(self) -> LinkEstimate:
        return LINK


Make = Callable[[Above], Describer]


@pytest.fixture
def describer(model: Model, clock: FakeClock) -> Make:
    return lambda above: Describer(TierRuntime(Tier.EDGE, model, InlineWorkers(), above), clock)


@pytest.fixture
def cloud(model: Model) -> Description:
    return Description((TierProfile(Tier.CLOUD, 0.25),), (), model.manifest.model_hash)


async def test_a_tier_tells_of_itself_its_link_and_those_above(describer: Make, cloud: Description) -> None:
    found = await describer(Above(cloud)).describe()
    assert [profile.tier for profile in found.profiles] == [Tier.EDGE, Tier.CLOUD]
    assert found.profiles[1].queue_seconds == 0.25
    assert (found.links, found.model_hash) == ((LINK,), cloud.model_hash)


async def test_the_last_tier_and_one_that_cannot_be_asked_above_tell_of_themselves(model: Model) -> None:
    for above in (None, FakeNext(UpstreamUnavailable("gone"))):
        found = await Describer(TierRuntime(Tier.EDGE, model, InlineWorkers(), above)).describe(1.0)
        assert [profile.tier for profile in found.profiles] == [Tier.EDGE]


async def test_any_number_of_callers_makes_one_question(describer: Make, cloud: Description, clock: FakeClock) -> None:
    above = Above(cloud)
    asked = describer(above)
    answers = await asyncio.gather(*(asked.describe() for _ in range(50)))
    assert (above.asked, {len(answer.profiles) for answer in answers}) == (1, {2})
    clock.now += 1.0
    await asked.describe()
    assert above.asked == 1
    clock.now += 2.0
    await asked.describe()
    assert above.asked == 2


async def test_a_tier_that_fails_is_absent_and_not_asked_again_at_once(describer: Make, clock: FakeClock) -> None:
    above = Above(UpstreamUnavailable("gone"))
    asked = describer(above)
    for _ in range(3):
        assert len((await asked.describe()).profiles) == 1
    assert above.asked == 1


async def test_a_tier_that_hangs_is_absent_for_who_is_in_a_hurry_and_there_for_who_waits(
    describer: Make, cloud: Description
) -> None:
    above = Above(cloud, free=asyncio.Event())
    asked = describer(above)
    assert len((await asked.describe(0.001)).profiles) == 1
    waiting = asyncio.create_task(asked.describe(30.0))
    await asyncio.sleep(0)
    assert above.free is not None
    above.free.set()
    assert len((await waiting).profiles) == 2
    assert (above.asked, above.timeouts) == (1, [2.0])


async def test_another_model_and_tiers_out_of_order_are_not_passed_on(describer: Make, cloud: Description) -> None:
    odd = [
        Description(cloud.profiles, (), "f" * 64),
        Description((TierProfile(Tier.EDGE),), (), cloud.model_hash),
        Description((TierProfile(Tier.CLOUD), TierProfile(Tier.CLOUD)), (), cloud.model_hash),
        Description((TierProfile(Tier.DEVICE),), (), cloud.model_hash),
    ]
    for description in odd:
        found = await describer(Above(description)).describe()
        assert [profile.tier for profile in found.profiles] == [Tier.EDGE]
