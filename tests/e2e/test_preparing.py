from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from services.domain import Deadline, Plan, Segment, Stage, Tier
from services.errors import DeadlineExceeded, InvalidInput, NotHeld, OfframpError, UpstreamUnavailable
from services.preparing import Preparer
from services.uplink import Uplink
from tests.calls import until
from tests.fakes import FakeClock
from tests.tiers import device, three_tiers, upper

EDGE_PLAN = Plan((Stage(Tier.DEVICE, Segment(0, 3)), Stage(Tier.EDGE, Segment(3, 8), "fp32")))

Look = Callable[[], Awaitable[bool]]


def _plan(first: int, second: int, last: int) -> Plan:
    stages = (Segment(0, first), Segment(first, second), Segment(second, last))
    return Plan(tuple(Stage(tier, segment, "fp32") for tier, segment in zip(Tier, stages, strict=True)))


async def test_a_prepared_plan_is_resident_on_every_tier(tiny: Path) -> None:
    async with three_tiers(tiny) as tiers:
        device, edge, cloud = (tier.runtime for tier in (tiers.device, tiers.edge, tiers.cloud))
        preparer = Preparer(device, device.next_tier)
        assert not cloud.model.resident(Segment(5, 8))
        await preparer.prepare(_plan(3, 5, device.model.last), Deadline.after(10))
        assert device.model.resident(Segment(2, 3))
        assert edge.model.resident(Segment(3, 4))
        assert cloud.model.resident(Segment(5, 8))


async def test_what_a_tier_runs_when_those_above_fail_is_built_after_the_plan_is_ready(tiny: Path) -> None:
    async with three_tiers(tiny) as tiers:
        device = tiers.device.runtime
        preparer = Preparer(device, device.next_tier)
        await preparer.prepare(_plan(3, 5, device.model.last), Deadline.after(10))

        async def built() -> bool:
            return device.model.resident(Segment(3, 8)) and tiers.edge.runtime.model.resident(Segment(5, 8))

        await until(built)


async def _prepared_when_back(tiny: Path, stack: AsyncExitStack, address: str, left_alone: Look, back: Look) -> bool:
    """Whether an edge that starts where one was `left_alone` has the plan of that one, once it is `back`."""
    await until(left_alone)
    edge = await stack.enter_async_context(upper(Tier.EDGE, tiny, listen=address))
    await until(back)
    return edge.runtime.model.resident(Segment(3, 8))


async def test_a_tier_that_restarted_has_its_plans_prepared_before_it_is_asked(tiny: Path) -> None:
    async with AsyncExitStack() as stack:
        gone = await stack.enter_async_context(AsyncExitStack())
        edge = await gone.enter_async_context(upper(Tier.EDGE, tiny))
        front = await stack.enter_async_context(device(tiny, edge.address, splits="3,8"))
        above: Any = front.runtime.next_tier
        await Preparer(front.runtime, above).prepare(EDGE_PLAN, Deadline.after(10))
        await gone.aclose()
        (replica,) = above._uplink.replicas
        replica.fell_silent()

        async def left_alone() -> bool:
            return not replica.usable

        async def back() -> bool:
            return replica.usable

        assert await _prepared_when_back(tiny, stack, edge.address, left_alone, back)


async def test_a_tier_that_restarted_unnoticed_by_requests_has_its_plans_prepared_before_it_serves(tiny: Path) -> None:
    async with AsyncExitStack() as stack:
        gone = await stack.enter_async_context(AsyncExitStack())
        edge = await gone.enter_async_context(upper(Tier.EDGE, tiny))
        uplink = Uplink(Tier.DEVICE, edge.address)
        stack.push_async_callback(uplink.close)
        await uplink.prepare(edge.models.first.manifest.model_hash, EDGE_PLAN, 10)
        await gone.aclose()
        (replica,) = uplink.replicas

        async def left_alone() -> bool:
            with suppress(OfframpError):
                await uplink.probe(0, 1.0)
            return not replica.usable

        async def back() -> bool:
            with suppress(OfframpError):
                await uplink.probe(0, 1.0)  # answered before it serves, which says nothing of its plans
            return replica.usable

        assert await _prepared_when_back(tiny, stack, edge.address, left_alone, back)


async def test_a_replica_that_is_new_prepares_what_the_others_have_before_it_serves(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny) as first, upper(Tier.EDGE, tiny) as second:
        uplink = Uplink(Tier.DEVICE, first.address)
        await uplink.prepare(first.models.first.manifest.model_hash, EDGE_PLAN, 10)
        replica = uplink._replica(second.address, watched=True)

        async def serving() -> bool:
            return replica.serving

        await until(serving)
        assert second.runtime.model.resident(Segment(3, 8))
        await replica.close()
        await uplink.close()


async def test_how_many_requests_a_tier_holds_is_not_learned_from_what_it_prepares(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny, adaptive_limit=True) as edge:
        served, uplink = edge.models.first, Uplink(Tier.DEVICE, edge.address)
        await uplink.prepare(served.manifest.model_hash, EDGE_PLAN, 10)
        await uplink.close()
        assert served.limiter.adaptive is not None
        assert served.limiter.adaptive._unloaded_seconds == math.inf


async def test_what_a_tier_does_not_hold_it_does_not_build(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny, holds=Segment(0, 5)) as edge:
        assert edge.runtime.prepare_rest(5) is None
        assert not edge.runtime.model.resident(Segment(5, 8))


async def test_a_plan_that_no_tier_above_can_run_is_refused_with_its_own_reason(tiny: Path) -> None:
    async with upper(Tier.CLOUD, tiny) as cloud, upper(Tier.EDGE, tiny, cloud.address, holds=Segment(0, 4)) as edge:
        preparer = Preparer(edge.runtime, edge.runtime.next_tier)
        with pytest.raises(NotHeld, match="holds 0:4"):
            await preparer.prepare(_plan(2, 6, 8), Deadline.after(10))
        with pytest.raises(InvalidInput, match="does not join up"):
            await preparer.prepare(Plan((Stage(Tier.EDGE, Segment(3, 8)),)), Deadline.after(10))


async def test_without_a_next_tier_a_plan_that_goes_on_cannot_be_prepared(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny) as edge:
        preparer = Preparer(edge.runtime)
        with pytest.raises(UpstreamUnavailable, match="no next one"):
            await preparer.prepare(_plan(2, 4, 8), Deadline.after(10))


async def test_a_plan_with_images_inside_the_network_is_refused(tiny: Path) -> None:
    images = Plan((Stage(Tier.DEVICE, Segment(0, 2)), Stage(Tier.EDGE, Segment(2, 8), "png")))
    async with upper(Tier.EDGE, tiny) as edge:
        preparer = Preparer(edge.runtime)
        with pytest.raises(InvalidInput, match="split point 0"):
            await preparer.prepare(images, Deadline.after(10))


async def test_preparing_stops_waiting_at_its_deadline(tiny: Path) -> None:
    async with upper(Tier.CLOUD, tiny) as cloud:
        preparer = Preparer(cloud.runtime)
        with pytest.raises(DeadlineExceeded, match="not ready for the plan in time"):
            await preparer.prepare(Plan((Stage(Tier.CLOUD, Segment(0, 8)),)), Deadline(0.0, FakeClock(1.0)))
