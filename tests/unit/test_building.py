"""What is not built yet is built apart from what serves: only who needs it waits, until its own deadline."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services import bundle, eager
from services.building import Builder, Urgency
from services.domain import Deadline, Request, Segment, SegmentTime, Tier
from services.errors import MOST_RETRY_SECONDS, BundleError, DeadlineExceeded, QueueFull
from services.model import Model
from services.profile import Measured
from services.response import Response
from services.tier import TierRuntime
from tests.fakes import FakeClock
from tests.journeys import D, E, runtime, stages

PATIENCE = 10.0


@dataclass
class Builds:
    """Of one model: each waits until `free`, takes `seconds` of `clock`, and raises `error` where there is one."""

    model: Model
    clock: FakeClock
    seconds: float = 0.0
    error: BundleError | None = None
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    free: threading.Event = field(default_factory=threading.Event)
    built: list[Segment] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._build = self.model._built

    def build(self, piece: Segment) -> Any:
        self.built.append(piece)
        self.begun.release()
        assert self.free.wait(PATIENCE)
        self.clock.now += self.seconds
        if self.error is not None:
            raise self.error
        return self._build(piece)


@pytest.fixture
def cold(tiny: Path) -> Model:
    """Only what the edge runs of the network from split point 4 on is resident."""
    found = Model(bundle.load(tiny))
    found.warm([Segment(4, 8)])
    return found


@pytest.fixture
def builds(cold: Model, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Builds]:
    found = Builds(cold, clock)
    monkeypatch.setattr(cold, "_built", found.build)
    yield found
    found.free.set()


@pytest.fixture
def edge(cold: Model, builds: Builds) -> Iterator[TierRuntime]:
    """With one worker."""
    found = TierRuntime(E, cold, ThreadPoolExecutor(1))
    yield found
    builds.free.set()
    found.close()


def from_split(model: Model, at: int, deadline: Deadline) -> Request:
    return Request("r", model.manifest.model_hash, stages((D, 0, at), (E, at, 8)), at, model.zeros(at, 1), deadline)


async def ask(edge: TierRuntime, at: int, seconds: float = PATIENCE) -> Response:
    return await edge.infer(from_split(edge.model, at, Deadline.after(seconds)))


async def test_who_waits_for_a_build_keeps_no_worker_from_those_who_do_not(edge: TierRuntime, builds: Builds) -> None:
    late = asyncio.create_task(ask(edge, 3, seconds=0.3))
    assert await asyncio.to_thread(builds.begun.acquire, timeout=PATIENCE)
    answer = await ask(edge, 4)
    assert answer.predictions.exits.tolist() == [2]
    with pytest.raises(DeadlineExceeded, match="3:4"):
        await late
    assert not builds.free.is_set()
    assert edge.backlog.runs == 0


async def test_requests_for_the_same_piece_wait_for_one_build(edge: TierRuntime, builds: Builds) -> None:
    both = [eager.start(ask(edge, 3)) for _ in range(2)]
    assert await asyncio.to_thread(builds.begun.acquire, timeout=PATIENCE)
    builds.free.set()
    assert [each.predictions.exits.tolist() for each in await asyncio.gather(*both)] == [[2], [2]]
    assert builds.built == [Segment(3, 4)]
    assert not edge.builder._pieces


async def test_a_build_that_fails_fails_all_who_wait_for_it_and_is_tried_again(
    edge: TierRuntime, builds: Builds
) -> None:
    builds.error = BundleError("cannot be run")
    builds.free.set()
    ended = await asyncio.gather(ask(edge, 3), ask(edge, 3), return_exceptions=True)
    assert ended == [builds.error] * 2
    builds.error = None
    assert (await ask(edge, 3)).predictions.exits.tolist() == [2]


ODD = [Segment(a, b) for a in range(4) for b in range(a + 1, 6)][:10]


async def test_many_pieces_are_waited_for_each_until_its_own_deadline(cold: Model, builds: Builds) -> None:
    builder = Builder(cold)
    waiting = [asyncio.create_task(builder.resident(ODD[0], Deadline.after(PATIENCE)))]
    assert await asyncio.to_thread(builds.begun.acquire, timeout=PATIENCE)
    waiting += [asyncio.create_task(builder.resident(piece, Deadline.after(PATIENCE))) for piece in ODD[1:]]
    await asyncio.sleep(0)
    cold.max_sessions = 9
    with pytest.raises(QueueFull, match="9 pieces") as refused:
        await builder.resident(Segment(6, 7), Deadline.after(PATIENCE))
    assert refused.value.retry_seconds == MOST_RETRY_SECONDS
    builds.free.set()
    await asyncio.gather(*waiting)
    builder.close()


async def test_what_nobody_waits_for_any_more_is_not_built(cold: Model, builds: Builds) -> None:
    builder, first, second = Builder(cold), Segment(0, 1), Segment(2, 3)
    begun = asyncio.create_task(builder.resident(first, Deadline.after(PATIENCE)))
    assert await asyncio.to_thread(builds.begun.acquire, timeout=PATIENCE)
    for piece in (first, second):
        with pytest.raises(DeadlineExceeded):
            await builder.resident(piece, Deadline.after(0))
    assert list(builder._pieces) == [first]
    again = asyncio.create_task(builder.resident(second, Deadline.after(PATIENCE)))
    with pytest.raises(DeadlineExceeded):
        await builder.resident(Segment(3, 4), Deadline.after(0))
    builds.free.set()
    await asyncio.gather(begun, again)
    await asyncio.wrap_future(builder.submit(Urgency.REST))
    assert builds.built == [first, second]
    assert not builder._pieces
    builder.close()


async def test_those_who_gave_up_leave_no_place_taken_while_a_build_goes_on(cold: Model, builds: Builds) -> None:
    builder, first, second = Builder(cold), Segment(0, 1), Segment(2, 3)
    begun = asyncio.create_task(builder.resident(first, Deadline.after(PATIENCE)))
    assert await asyncio.to_thread(builds.begun.acquire, timeout=PATIENCE)
    for _ in range(cold.max_sessions):
        with pytest.raises(DeadlineExceeded):
            await builder.resident(second, Deadline.after(0))
    assert not any(builder._jobs)
    assert builder._thread._work_queue.qsize() == 1
    waiting = asyncio.create_task(builder.resident(second, Deadline.after(PATIENCE)))
    await asyncio.sleep(0)
    builds.free.set()
    await asyncio.gather(begun, waiting)
    assert builds.built == [first, second]
    builder.close()


@pytest.mark.parametrize("urgency", Urgency)
async def test_what_is_dropped_does_not_wait_for_its_turn(cold: Model, builds: Builds, urgency: Urgency) -> None:
    builder = Builder(cold)
    begun = asyncio.wrap_future(builder.prepare(Urgency.REQUEST, Segment(0, 1)))
    assert await asyncio.to_thread(builds.begun.acquire, timeout=PATIENCE)
    dropped, kept = builder.prepare(urgency, Segment(2, 3)), builder.prepare(urgency, Segment(3, 4))
    assert dropped.cancel()
    assert [job for _, job in builder._jobs[urgency]] == [kept]
    builds.free.set()
    await asyncio.gather(begun, asyncio.wrap_future(kept))
    assert builds.built == [Segment(0, 1), Segment(3, 4)]
    builder.close()


async def test_what_requests_wait_for_is_built_before_plans_and_those_before_what_may_never_run(cold: Model) -> None:
    builder, free, order = Builder(cold), threading.Event(), list[Urgency]()
    builder.submit(Urgency.PLAN, partial(free.wait, PATIENCE))
    jobs = [builder.submit(urgency, partial(order.append, urgency)) for urgency in reversed(Urgency)]
    free.set()
    await asyncio.gather(*map(asyncio.wrap_future, jobs))
    assert order == sorted(Urgency)
    builder.close()


@pytest.mark.parametrize("urgency", [Urgency.PLAN, Urgency.REST])
async def test_a_piece_that_a_request_waits_for_is_built_between_those_of_a_plan_and_of_what_may_never_run(
    cold: Model, builds: Builds, urgency: Urgency
) -> None:
    builder, missing, needed = Builder(cold), [Segment(0, 2), Segment(2, 4)], Segment(4, 5)
    under_way = asyncio.wrap_future(builder.prepare(urgency, Segment(0, 8)))
    assert await asyncio.to_thread(builds.begun.acquire, timeout=PATIENCE)
    waiting = asyncio.create_task(builder.resident(needed, Deadline.after(PATIENCE)))
    await asyncio.sleep(0)
    builds.free.set()
    await asyncio.gather(waiting, under_way)
    assert builds.built == [missing[0], needed, missing[1]]
    builder.close()


async def test_a_builder_that_is_closed_leaves_nobody_waiting(cold: Model, builds: Builds) -> None:
    builder = Builder(cold)
    waiting = [asyncio.create_task(builder.resident(Segment(0, end), Deadline.after(PATIENCE))) for end in (1, 3)]
    assert await asyncio.to_thread(builds.begun.acquire, timeout=PATIENCE)
    builder.close()
    builds.free.set()
    first, second = await asyncio.gather(*waiting, return_exceptions=True)
    assert first is None
    assert isinstance(second, asyncio.CancelledError)


async def test_the_time_of_a_build_is_not_that_of_a_run(cold: Model, builds: Builds, clock: FakeClock) -> None:
    edge, pieces = runtime(cold, clock, tier=Tier.EDGE), [Segment(at, 8) for at in (5, 6, 7)]
    edge.profiler.learn(Measured(tuple(SegmentTime(piece, 1, 0.001) for piece in pieces)))
    builds.seconds = 1.0
    builds.free.set()
    for piece in pieces:
        response = await edge.infer(from_split(cold, piece.start, Deadline.after(PATIENCE, clock)))
        assert response.trace.hops[0].queue_seconds == 1.0
    assert builds.built == pieces
    assert edge.profiler.profile(response.ran).slowdown <= 1.0
    assert max(edge.profiler.seconds(piece, 1) or 0.0 for piece in pieces) < 0.5
    assert edge.backlog.seconds < 0.5


async def test_what_is_dropped_just_when_its_turn_comes_holds_up_nobody(cold: Model) -> None:
    class Dropped(deque[Any]):
        def popleft(self) -> Any:
            self.clear()  # by whoever asked for it, in another thread
            return super().popleft()

    builder, built = Builder(cold), list[str]()
    builder._jobs = (Dropped(), *builder._jobs[1:])
    begin = partial(builder.submit, Urgency.REQUEST, partial(built.append, "dropped"))
    plan = builder.submit(Urgency.PLAN, begin, partial(built.append, "plan"))
    await asyncio.wait_for(asyncio.wrap_future(plan), PATIENCE)
    assert built == ["plan"]
    builder.close()
