"""Batching across requests: nothing is lost, mixed up or answered twice, and a lone request waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.batch_queue import Batching
from services.batcher import CROWD, Batcher, Ran, Tally
from services.domain import Deadline, FloatArray, Segment, SegmentTime, Tier
from services.errors import DeadlineExceeded, InvalidInput, QueueFull
from services.model import Model, SegmentOutput
from services.profile import Measured, Profiler
from tests.fakes import FakeClock
from tests.journeys import samples

PIECE, OTHER = Segment(0, 2), Segment(2, 4)


@dataclass(slots=True)
class Doubling:
    """A network that doubles its input, and whose exit gives the sum of each row; refuses what has a NaN in it."""

    batches: list[tuple[Segment, int]] = field(default_factory=list)

    def run(self, piece: Segment, tensor: FloatArray) -> SegmentOutput:
        self.batches.append((piece, len(tensor)))
        if np.isnan(tensor).any():
            raise InvalidInput("not a number")
        return 2 * tensor, tensor.sum(axis=1)

    def resident(self, segment: Segment) -> bool:
        return True


@dataclass(slots=True)
class Patient(Executor):
    """Workers that do nothing until they are told to."""

    jobs: list[Callable[[], object]] = field(default_factory=list)

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.jobs.append(job)
        return Future()

    def work(self, most: int = 1000) -> None:
        for job in self.jobs[:most]:
            job()
        del self.jobs[:most]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.jobs.clear()


def batcher(seconds: float, gain: float = 4.0, batching: Batching | None = None) -> tuple[Batcher, Doubling, Patient]:
    """One whose profile says that a sample takes `seconds`, and one of eight run together that over `gain`."""
    profiler = Profiler(Tier.EDGE)
    times = ((piece, size, seconds * (size / gain if size > 1 else 1)) for piece in (PIECE, OTHER) for size in (1, 8))
    profiler.learn(Measured(tuple(SegmentTime(*each) for each in times)))
    model, workers = Doubling(), Patient()
    return Batcher(model, profiler, workers, batching or Batching(), FakeClock()), model, workers


def ask(made: Batcher, value: float, count: int = 1, piece: Segment = PIECE, at: float = 1e9) -> asyncio.Task[Ran]:
    tensor = np.full((count, 3), value, np.float32)
    return asyncio.create_task(made.run(piece, tensor, Deadline(at, made.clock)))


def values(ran: Ran) -> list[float]:
    output, logits = ran.output
    assert logits is not None
    assert np.array_equal(output[:, 0] * 1.5, logits)
    return list(output[:, 0] / 2)


async def turns(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_waits_when_a_worker_becomes_free_is_one_batch_and_each_gets_its_rows() -> None:
    made, model, workers = batcher(1.0)
    asked = [ask(made, 1.0), ask(made, 2.0, count=3), ask(made, 3.0)]
    await turns()
    assert made.waiting == 3
    workers.work()
    assert [values(ran) for ran in await asyncio.gather(*asked)] == [[1], [2, 2, 2], [3]]
    assert model.batches == [(PIECE, 5)]
    assert made.tallies == {PIECE: Tally(batches=1, runs=3)}
    assert made.profiler.seconds(PIECE, 5) is not None


async def test_where_the_profile_says_that_a_batch_saves_nothing_each_runs_alone() -> None:
    for made, model, workers in (batcher(1.0, gain=1.1), batcher(1.0, batching=Batching(max_batch_size=1))):
        asked = [ask(made, float(value)) for value in range(3)]
        await turns()
        workers.work()
        assert [values(ran) for ran in await asyncio.gather(*asked)] == [[0], [1], [2]]
        assert model.batches == [(PIECE, 1)] * 3
        assert made.tallies == {PIECE: Tally()}


async def test_where_nothing_was_measured_each_runs_alone() -> None:
    made, model, workers = batcher(1.0)
    made.profiler.learn(Measured())
    asked = [ask(made, 1.0), ask(made, 2.0)]
    await turns()
    workers.work()
    await asyncio.gather(*asked)
    assert model.batches == [(PIECE, 1)] * 2


async def test_short_runs_are_gathered_while_turns_of_the_loop_bring_many() -> None:
    made, model, _ = batcher(1e-5)
    for expected in ([1] * 10, [8, 2], [8, 2]):
        asked = [ask(made, float(value)) for value in range(10)]
        assert [values(ran) for ran in await asyncio.gather(*asked)] == [[value] for value in range(10)]
        assert [size for _, size in model.batches] == expected
        model.batches.clear()


async def test_a_few_short_runs_cost_less_one_by_one() -> None:
    made, model, _ = batcher(1e-5)
    for _ in range(3):
        await asyncio.gather(*(ask(made, 0.0) for _ in range(CROWD - 1)))
    assert {size for _, size in model.batches} == {1}


async def test_short_runs_stay_on_the_loop_after_a_busy_moment_made_them_look_long() -> None:
    made, _, workers = batcher(1e-5)
    for _ in range(100):
        made.profiler.record(PIECE, 1, 0.05, 0.0)
    assert values(await ask(made, 1.0)) == [1]
    assert not workers.jobs


async def test_a_lone_short_run_waits_for_no_turn_of_the_loop() -> None:
    made, _, _ = batcher(1e-5)
    for _ in range(3):
        alone = ask(made, 1.0)
        await asyncio.sleep(0)
        assert alone.done()
        await turns()


async def test_who_leaves_is_not_run() -> None:
    made, model, workers = batcher(1.0)
    asked = [ask(made, 1.0), ask(made, 2.0)]
    await turns()
    asked[0].cancel()
    await turns()
    assert made.waiting == 1
    workers.work()
    assert values(await asked[1]) == [2]
    assert model.batches == [(PIECE, 1)]


async def test_who_leaves_during_the_run_disturbs_nobody() -> None:
    made, _, workers = batcher(1.0)
    asked = [ask(made, 1.0), ask(made, 2.0)]
    await turns()
    workers.work()
    asked[0].cancel()
    assert values(await asked[1]) == [2]


async def test_what_expired_while_it_waited_is_told_so_and_not_run() -> None:
    made, model, workers = batcher(1.0)
    asked = [ask(made, 1.0, at=5.0), ask(made, 2.0)]
    await turns()
    made.clock.now = 6.0  # type: ignore[attr-defined]
    workers.work()
    with pytest.raises(DeadlineExceeded):
        await asked[0]
    assert values(await asked[1]) == [2]
    assert model.batches == [(PIECE, 1)]


async def test_what_waited_longer_than_settings_allow_is_refused() -> None:
    made, _, workers = batcher(1.0, batching=Batching(default_timeout_microseconds=1000))
    asked = ask(made, 1.0)
    await turns()
    made.clock.now = 6.0  # type: ignore[attr-defined]
    workers.work()
    with pytest.raises(QueueFull):
        await asked


async def test_nobody_fails_for_whom_it_was_batched_with() -> None:
    made, model, workers = batcher(1.0)
    asked = [ask(made, 1.0), ask(made, float("nan")), ask(made, 3.0)]
    await turns()
    workers.work()
    first, second, third = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(first, Ran)
    assert isinstance(third, Ran)
    assert (values(first), values(third)) == ([1], [3])
    assert isinstance(second, InvalidInput)
    assert [size for _, size in model.batches] == [3, 1, 1, 1]


@pytest.mark.parametrize("seconds", [1.0, 1e-5])
async def test_a_full_batch_does_not_wait_for_the_delay_that_others_would(seconds: float) -> None:
    made, model, workers = batcher(seconds, batching=Batching(max_queue_delay_microseconds=3_600_000_000))
    asked = [ask(made, 0.0) for _ in range(7)]
    await turns()
    workers.work()
    assert not model.batches
    await asyncio.gather(*asked, ask(made, 1.0), turns_of(workers))
    assert model.batches == [(PIECE, 8)]


async def turns_of(workers: Patient) -> None:
    await turns()
    workers.work()


async def test_with_a_delay_what_comes_within_it_is_one_batch() -> None:
    made, model, _ = batcher(1e-5, batching=Batching(max_queue_delay_microseconds=1000))
    asked = [ask(made, 0.0)]
    await turns()
    asked.append(ask(made, 1.0))
    await asyncio.gather(*asked)
    assert model.batches == [(PIECE, 2)]


async def test_who_need_not_wait_does_not_send_who_does_on_its_way() -> None:
    made, model, workers = batcher(1.0, batching=Batching(max_queue_delay_microseconds=3_600_000_000))
    made.profiler.learn(Measured((SegmentTime(PIECE, 1, 1.0), SegmentTime(PIECE, 8, 1.0), SegmentTime(OTHER, 1, 1.0))))
    waits = ask(made, 1.0)
    await turns()
    alone = ask(made, 2.0, piece=OTHER)
    await turns()
    workers.work()
    assert values(await alone) == [2]
    assert model.batches == [(OTHER, 1)]
    waits.cancel()


async def test_a_short_run_that_waits_for_company_waits_no_longer_than_it_has() -> None:
    made, model, _ = batcher(1e-5, batching=Batching(max_queue_delay_microseconds=3_600_000_000))
    with pytest.raises(DeadlineExceeded):
        await made.run(PIECE, np.ones((1, 3), np.float32), Deadline.after(0.01))
    assert not model.batches


async def test_a_batch_of_short_runs_keeps_the_loop_no_longer_than_a_millisecond() -> None:
    made, model, _ = batcher(0.00015)
    made.clock = FakeClock(step=0.00015)
    for _ in range(3):
        await asyncio.gather(*(ask(made, float(number)) for number in range(3 * CROWD)))
    assert {size for _, size in model.batches} == {1, 6}


async def test_closing_lets_go_of_who_waits() -> None:
    made, _, _ = batcher(1.0)
    asked = ask(made, 1.0)
    await turns()
    made.close()
    with pytest.raises(asyncio.CancelledError):
        await asked


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from((PIECE, OTHER)), st.integers(1, 10), st.booleans()),
        st.tuples(st.just("work"), st.integers(1, 3)),
        st.tuples(st.just("leave"), st.integers(0, 30)),
        st.tuples(st.just("turn")),
    ),
    max_size=40,
)


@given(STEPS, st.sampled_from((1.0, 1e-5)), st.sampled_from((1.0, 4.0)))
def test_nothing_is_lost_or_mixed_up_whatever_comes_in_whatever_order(
    steps: list[tuple[Any, ...]], seconds: float, gain: float
) -> None:
    async def go() -> None:
        made, model, workers = batcher(seconds, gain)
        asked: list[tuple[asyncio.Task[Ran], int, bool]] = []
        for kind, *rest in steps:
            if kind == "ask":
                piece, count, expires = rest
                asked.append((ask(made, float(len(asked)), count, piece, at=1 if expires else 1e9), count, expires))
            elif kind == "work":
                workers.work(*rest)
            elif kind == "leave" and rest[0] < len(asked):
                asked[rest[0]][0].cancel()
            else:
                await turns(1)
        made.clock.now = 2.0  # type: ignore[attr-defined]
        for _ in range(3):
            await turns()
            workers.work()
        await turns()
        for index, (task, count, expires) in enumerate(asked):
            assert task.done()
            if task.cancelled():
                continue
            if isinstance(task.exception(), DeadlineExceeded):
                assert expires
            else:
                assert values(task.result()) == [index] * count
        assert made.waiting == 0
        most = 8 if gain > 1 else 1
        assert all(size <= max(most, *(count for _, count, _ in asked)) for _, size in model.batches)

    asyncio.run(go())


async def test_a_batch_of_several_requests_gets_to_the_last_bit_the_answers_of_each_alone(model: Model) -> None:
    inputs = samples(24)
    alone = [model.run(PIECE, row[None]) for row in inputs]
    profiler = Profiler(Tier.EDGE)
    profiler.learn(Measured((SegmentTime(PIECE, 1, 1.0), SegmentTime(PIECE, 8, 2.0))))
    with ThreadPoolExecutor(1) as workers:
        made = Batcher(model, profiler, workers)
        together = await asyncio.gather(*(made.run(PIECE, row[None], Deadline.after(60)) for row in inputs))
    for (activation, logits), ran in zip(alone, together, strict=True):
        assert np.array_equal(ran.output[0], activation)
        assert ran.output[1] is not None
        assert np.array_equal(ran.output[1], logits)
