"""Pieces behind an exit follow in the worker that ran the one before: the same answers, with fewer hand-overs."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from services.batch_queue import Batching
from services.domain import Deadline, DegradedReason, FloatArray, Predictions, Segment, SegmentTime, Tier
from services.errors import InvalidInput
from services.model import Model, SegmentOutput
from services.profile import Measured
from services.tier import TierRuntime
from tests.fakes import FakeClock, InlineWorkers
from tests.journeys import ALWAYS, NEVER, D, request, runtime, samples, stages, takes

WHOLE = stages((D, 0, 8))


@dataclass(slots=True)
class Counting(InlineWorkers):
    """Counts the jobs that it is given."""

    jobs: int = 0

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.jobs += 1
        return InlineWorkers.submit(self, job, *args, **kwargs)


@dataclass(slots=True)
class Held:
    """A model's run, which from the second on waits until it is let go. begun: those that began."""

    run: Callable[[Segment, FloatArray], SegmentOutput]
    begun: list[Segment] = field(default_factory=list)
    second: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, piece: Segment, tensor: FloatArray) -> SegmentOutput:
        self.begun.append(piece)
        if len(self.begun) > 1:
            self.second.set()
            assert self.let_go.wait(30)
        return self.run(piece, tensor)


def counting(model: Model, clock: FakeClock, batching: Batching | None = None) -> tuple[TierRuntime, Counting]:
    workers = Counting()
    return TierRuntime(Tier.DEVICE, model, workers, clock=clock, batching=batching), workers


def same(one: Predictions, other: Predictions) -> bool:
    columns = ("scores", "confidences", "exits", "tiers", "reasons")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in columns)


@pytest.mark.parametrize("thresholds", [None, NEVER, ALWAYS, (0.5, 0.5, 0.0)])
async def test_all_pieces_take_one_turn_of_a_worker_and_answer_as_one_by_one(
    model: Model, clock: FakeClock, thresholds: tuple[float, ...] | None
) -> None:
    asked = request(model, clock, plan=WHOLE, thresholds=thresholds)
    (at_once, workers), (one_by_one, others) = counting(model, clock), counting(model, clock)
    found = await at_once.infer(asked)
    expected = await one_by_one.infer(asked, early=lambda answers: None)  # each exit is told on the event loop
    assert same(found.predictions, expected.predictions)
    assert workers.jobs == 1
    assert others.jobs == 1 + (found.predictions.exits > 0).any() + (found.predictions.exits > 1).any()


async def test_only_those_who_travel_on_are_run_any_further(
    model: Model, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = takes(monkeypatch, model, clock, 1.0)
    found = (await runtime(model, clock).infer(request(model, clock, plan=WHOLE))).predictions
    left = [int((found.exits >= index).sum()) for index in range(3)]
    assert [count for _, count in ran] == [count for count in left if count]
    assert len(set(left)) > 1, "samples that all leave together show nothing"


async def test_each_run_is_booked_as_computing_and_as_its_own(
    model: Model, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = takes(monkeypatch, model, clock, 2.0)
    device = runtime(model, clock)
    trace = (await device.infer(request(model, clock, plan=WHOLE, thresholds=NEVER))).trace
    assert trace.hops[0].compute_seconds == 6.0
    assert [device.profiler.seconds(piece, count) for piece, count in ran] == [2.0] * 3
    assert device.backlog.seconds == 6.0  # of a worker, which is what others wait for


async def test_what_followed_another_run_in_its_worker_did_not_wait(model: Model, clock: FakeClock) -> None:
    device = runtime(model, clock)
    for waited in (4.0, None, None):
        device.profiler.record(Segment(0, 2), 1, 1.0, waited)
    assert device.profiler.queue_seconds() == 4.0


async def test_where_there_is_no_time_for_the_next_piece_the_last_exit_answers(
    model: Model, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = takes(monkeypatch, model, clock, 1.0)
    device = runtime(model, clock)
    device.profiler.learn(Measured(tuple(SegmentTime(piece, 24, 1.0) for piece in model.pieces(Segment(0, 8)))))
    found = await device.infer(request(model, clock, seconds=1.5, plan=WHOLE, thresholds=NEVER))
    assert len(ran) == 1
    assert set(found.predictions.reasons.tolist()) == {DegradedReason.DEADLINE}


async def test_whoever_gives_up_waiting_has_the_exits_that_were_passed_by_then(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(model.run)
    monkeypatch.setattr(model, "run", held)
    with ThreadPoolExecutor(1) as workers:
        try:
            device = TierRuntime(Tier.DEVICE, model, workers)
            asked = request(model, FakeClock(), plan=WHOLE, thresholds=NEVER, deadline=Deadline.after(0.5))
            found = (await device.infer(asked)).predictions
            assert asked.deadline.remaining() > 0, "there is time for the answer to get back"
            assert device.lag.margin_seconds(1.0) == 0.05, "what still ran is no delay of the event loop"
            assert device.backlog.seconds > 0, "the piece that ran did keep a worker"
        finally:
            held.let_go.set()
    assert set(found.exits.tolist()) == {0}
    assert set(found.reasons.tolist()) == {DegradedReason.DEADLINE}
    assert len(held.begun) == 2, "nobody waits for the third"


async def test_of_a_request_that_is_cancelled_no_further_piece_is_run(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(model.run)
    monkeypatch.setattr(model, "run", held)
    with ThreadPoolExecutor(1) as workers:
        try:
            device = TierRuntime(Tier.DEVICE, model, workers)
            asked = request(model, FakeClock(), plan=WHOLE, thresholds=NEVER, deadline=Deadline.after(30))
            answering = asyncio.create_task(device.infer(asked))
            assert await asyncio.to_thread(held.second.wait, 30)
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
        finally:
            held.let_go.set()
    assert len(held.begun) == 2
    assert device.backlog.runs == 0


@pytest.mark.parametrize(("delay", "jobs"), [(0, 1), (1, 3)])
async def test_where_settings_have_runs_wait_for_company_they_do(
    model: Model, clock: FakeClock, delay: int, jobs: int
) -> None:
    device, workers = counting(model, clock, Batching(max_queue_delay_microseconds=delay))
    times = ((piece, size, 1.0) for piece in model.pieces(Segment(0, 8)) for size in (1, 8))
    device.profiler.learn(Measured(tuple(SegmentTime(*each) for each in times)))
    await device.infer(request(model, clock, samples(1), plan=WHOLE, thresholds=NEVER))
    assert workers.jobs == jobs


@dataclass(slots=True)
class Later(InlineWorkers):
    """Keeps the jobs that it is given, until it is told to work."""

    jobs: list[Callable[[], object]] = field(default_factory=list)

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.jobs.append(job)
        return Future()

    async def work(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()
            for _ in range(4):
                await asyncio.sleep(0)


async def test_while_others_wait_for_a_worker_everybody_gets_a_first_answer_before_anybody_a_second(
    model: Model, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, workers = takes(monkeypatch, model, clock, 0.0), Later()
    device = TierRuntime(Tier.DEVICE, model, workers, clock=clock, batching=Batching(max_batch_size=1))
    asked = request(model, clock, samples(1), plan=WHOLE, thresholds=NEVER)
    answering = [asyncio.create_task(device.infer(asked)) for _ in range(3)]
    await asyncio.sleep(0)
    await workers.work()
    await asyncio.gather(*answering)
    first, *_ = model.pieces(Segment(0, 8))
    assert [piece for piece, _ in ran[:3]] == [first] * 3
    assert len(ran) == 9


async def test_runs_of_another_model_that_wait_for_the_same_workers_count_as_well(
    model: Model, clock: FakeClock
) -> None:
    device, workers = counting(model, clock)
    device.backlog.runs = 1
    await device.infer(request(model, clock, plan=WHOLE, thresholds=NEVER))
    assert workers.jobs == 3


async def test_a_piece_that_fails_behind_an_exit_is_asked_for_again_and_fails_there(
    model: Model, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, begun = model.run, list[Segment]()

    def failing(piece: Segment, tensor: FloatArray) -> SegmentOutput:
        begun.append(piece)
        if piece.start:
            raise RuntimeError("the second one")
        return run(piece, tensor)

    monkeypatch.setattr(model, "run", failing)
    device = runtime(model, clock)
    with pytest.raises(RuntimeError, match="the second one"):
        await device.infer(request(model, clock, plan=WHOLE, thresholds=NEVER))
    first, second, _ = model.pieces(Segment(0, 8))
    assert begun == [first, second, second]
    assert device.profiler.seconds(first, 24) is not None


async def test_what_is_no_number_is_not_run_any_further(
    model: Model, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, begun = model.run, list[Segment]()

    def overflowing(piece: Segment, tensor: FloatArray) -> SegmentOutput:
        begun.append(piece)
        whole, logits = run(piece, tensor)
        return whole, None if logits is None else np.full_like(logits, np.nan)

    monkeypatch.setattr(model, "run", overflowing)
    with pytest.raises(InvalidInput, match="not finite"):
        await runtime(model, clock).infer(request(model, clock, plan=WHOLE, thresholds=NEVER))
    assert len(begun) == 1


async def test_while_a_piece_runs_nobody_keeps_what_came_before_it_in_memory(
    model: Model, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, outputs, kept = model.run, list[weakref.ref[FloatArray]](), list[bool]()

    def watched(piece: Segment, tensor: FloatArray) -> SegmentOutput:
        kept.extend(output() is not None for output in outputs)
        whole, logits = run(piece, tensor)
        outputs.append(weakref.ref(whole))
        return whole, logits

    monkeypatch.setattr(model, "run", watched)
    asked = request(model, clock, plan=WHOLE, thresholds=(0.5, 0.5, 0.0))
    workers = Later()
    device = TierRuntime(Tier.DEVICE, model, workers, clock=clock)
    answering = asyncio.create_task(device.infer(asked, early=lambda answers: None))
    await asyncio.sleep(0)
    await workers.work()
    await answering
    assert kept
    assert not any(kept)
