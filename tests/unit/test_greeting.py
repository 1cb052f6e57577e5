"""What a replica that comes back is told to prepare."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.connection import Silence
from services.domain import Plan, Tier
from services.errors import NotHeld, QueueFull, UpstreamUnavailable
from services.greeting import GREET_SECONDS, Prepared
from tests.fakes import FakeClock
from tests.journeys import stages

PLANS = [stages((Tier.EDGE, at, 40)) for at in range(40)]


@dataclass
class Back:
    """Takes `seconds` of `clock` for each plan, and raises `error` where there is one."""

    clock: FakeClock
    seconds: float = 0.0
    error: Exception | None = None
    asked: list[Plan] = field(default_factory=list)

    async def prepare(self, model_hash: str, plan: Plan, seconds: float) -> None:
        assert 0 < seconds <= GREET_SECONDS
        self.asked.append(plan)
        self.clock.now += self.seconds
        if self.error is not None:
            raise self.error


async def asked(prepared: Prepared, back: Back) -> list[Plan]:
    await prepared.greet(back)
    return back.asked


def noted(clock: FakeClock, *plans: Plan) -> Prepared:
    prepared = Prepared(clock)
    for plan in plans:
        prepared.note("hash", plan)
    return prepared


async def test_who_comes_back_prepares_the_last_plans_the_newest_first(clock: FakeClock) -> None:
    assert await asked(noted(clock, *PLANS), Back(clock)) == PLANS[:-17:-1]


async def test_a_plan_that_is_prepared_again_is_the_newest(clock: FakeClock) -> None:
    assert await asked(noted(clock, *PLANS[:3], PLANS[0]), Back(clock)) == [PLANS[0], PLANS[2], PLANS[1]]


async def test_a_plan_that_cannot_be_prepared_keeps_nobody_from_the_others(clock: FakeClock) -> None:
    for error in (NotHeld("not this one"), Silence(UpstreamUnavailable("away"))):
        assert len(await asked(noted(clock, *PLANS[:9]), Back(clock, error=error))) == 9


async def test_who_takes_long_to_prepare_is_not_kept_from_serving(clock: FakeClock) -> None:
    assert len(await asked(noted(clock, *PLANS), Back(clock, seconds=0.75 * GREET_SECONDS))) == 2


async def test_who_is_asked_by_too_many_at_once_is_asked_again(clock: FakeClock) -> None:
    class Crowded(Back):
        async def prepare(self, model_hash: str, plan: Plan, seconds: float) -> None:
            first = plan not in self.asked
            await super().prepare(model_hash, plan, seconds)
            if first:
                raise QueueFull("8 plans wait to be prepared", 0.001)

    found = await asked(noted(clock, *PLANS[:3]), Crowded(clock))
    assert all(found.count(plan) == 2 for plan in PLANS[:3])


async def test_what_is_prepared_elsewhere_meanwhile_is_prepared_here_too(clock: FakeClock) -> None:
    prepared = noted(clock, PLANS[0])

    class Meanwhile(Back):
        async def prepare(self, model_hash: str, plan: Plan, seconds: float) -> None:
            prepared.note(model_hash, PLANS[1])
            await super().prepare(model_hash, plan, seconds)

    assert await asked(prepared, Meanwhile(clock)) == PLANS[:2]
