"""How many plans wait to be prepared, whatever becomes of those who asked."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest

from services.building import Urgency
from services.domain import Deadline, Plan, Segment, Stage, Tier
from services.errors import BundleError, DeadlineExceeded, QueueFull, UpstreamUnavailable
from services.model import Model
from services.preparing import Preparer
from tests.fakes import FakeClock
from tests.journeys import runtime, stages

PLAN = Plan((Stage(Tier.EDGE, Segment(0, 4)), Stage(Tier.CLOUD, Segment(4, 8))))
PATIENCE = 10.0


@dataclass
class Builds:
    """Which were begun; each ends when `free`."""

    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    free: threading.Event = field(default_factory=threading.Event)
    built: list[Segment] = field(default_factory=list)

    def build(self, segments: list[Segment]) -> None:
        self.built += segments
        self.begun.release()
        assert self.free.wait(PATIENCE)


class Away:
    async def prepare(self, model_hash: str, plan: Plan, seconds: float) -> None:
        raise UpstreamUnavailable("away")


class There:
    async def prepare(self, model_hash: str, plan: Plan, seconds: float) -> None:
        pass


@pytest.fixture
def builds(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Builds]:
    found = Builds()
    monkeypatch.setattr(model, "prepare", found.build)
    yield found
    found.free.set()


@pytest.fixture
async def preparer(model: Model, clock: FakeClock, builds: Builds) -> AsyncIterator[Preparer]:
    found = Preparer(runtime(model, clock, tier=Tier.EDGE), Away())
    yield found
    builds.free.set()
    found._runtime.close()


def test_only_what_this_tier_runs_alone_and_has_built_needs_no_preparing(model: Model, clock: FakeClock) -> None:
    made = Preparer(runtime(model, clock, tier=Tier.EDGE), Away())
    alone, beyond = Plan((Stage(Tier.EDGE, Segment(3, 8)),)), PLAN
    assert not made.ready(alone)
    model.warm([Segment(3, 8), Segment(0, 4)])
    assert made.ready(alone)
    assert not made.ready(beyond)


async def refused(preparer: Preparer) -> None:
    with pytest.raises(UpstreamUnavailable):
        await preparer.prepare(PLAN, Deadline.after(PATIENCE))


async def quiet(preparer: Preparer) -> None:
    async with asyncio.timeout(PATIENCE):
        while preparer._waiting:
            await asyncio.sleep(0.001)


async def test_a_build_that_has_not_begun_is_dropped_when_the_tiers_above_refuse(
    preparer: Preparer, builds: Builds
) -> None:
    await refused(preparer)
    await asyncio.to_thread(builds.begun.acquire, timeout=PATIENCE)
    for _ in range(50):
        await refused(preparer)
    assert preparer._waiting == 1
    builds.free.set()
    await quiet(preparer)
    await asyncio.to_thread(preparer._runtime.builder._thread.shutdown)
    assert builds.built == [Segment(0, 2), Segment(2, 4)]


async def test_a_build_under_way_counts_until_it_ends_though_nobody_waits_for_it(
    preparer: Preparer, builds: Builds
) -> None:
    await refused(preparer)
    await asyncio.to_thread(builds.begun.acquire, timeout=PATIENCE)
    assert preparer._waiting == 1
    builds.free.set()
    await quiet(preparer)


async def test_who_runs_out_of_time_leaves_no_build_behind(preparer: Preparer, builds: Builds) -> None:
    local = Plan((Stage(Tier.EDGE, Segment(0, 8)),))
    calls = [asyncio.create_task(preparer.prepare(local, Deadline.after(0.05))) for _ in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull, match="8 plans"):
        await preparer.prepare(local, Deadline.after(PATIENCE))
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in ended} == {DeadlineExceeded}
    assert preparer._waiting == 1
    builds.free.set()
    await quiet(preparer)
    await asyncio.to_thread(preparer._runtime.builder._thread.shutdown)
    assert builds.built == [Segment(0, 2), Segment(2, 4), Segment(4, 8)]


async def test_a_plan_does_not_wait_for_what_may_never_be_run(model: Model, clock: FakeClock, builds: Builds) -> None:
    edge, busy = runtime(model, clock, tier=Tier.EDGE), threading.Event()
    preparer = Preparer(edge, There())
    one, other = (stages((Tier.EDGE, 0, at), (Tier.CLOUD, at, 8)) for at in (4, 3))
    first = asyncio.create_task(preparer.prepare(one, Deadline.after(PATIENCE)))
    await asyncio.to_thread(builds.begun.acquire, timeout=PATIENCE)
    edge.builder.submit(Urgency.PLAN, partial(busy.wait, PATIENCE))
    builds.free.set()
    await first
    second = asyncio.create_task(preparer.prepare(other, Deadline.after(PATIENCE)))
    await asyncio.sleep(0)
    busy.set()
    await second
    await asyncio.wrap_future(edge.builder.submit(Urgency.REST, list))
    plans = [Segment(0, 2), Segment(2, 4), Segment(0, 2), Segment(2, 3)]
    assert builds.built == [*plans, Segment(4, 8), Segment(3, 4), Segment(4, 8)]
    edge.close()


async def test_what_is_behind_a_plan_and_cannot_be_built_is_told_in_the_log(
    model: Model,
    clock: FakeClock,
    builds: Builds,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(segments: list[Segment]) -> None:
        if segments[0].start >= 4:
            raise BundleError(f"nothing behind {segments[0].start}")

    edge = runtime(model, clock, tier=Tier.EDGE)
    monkeypatch.setattr(model, "prepare", fails)
    builds.free.set()
    with caplog.at_level(logging.WARNING, "offramp"):
        await Preparer(edge, There()).prepare(PLAN, Deadline.after(PATIENCE))
        await asyncio.wrap_future(edge.builder.submit(Urgency.REST, list))
    (record,) = caplog.records
    assert (record.message, record.exc_info and str(record.exc_info[1])) == ("rest not prepared", "nothing behind 4")
    edge.close()
