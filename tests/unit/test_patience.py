"""How long a tier waits for those above without a plan that says so, and how near to a deadline it still computes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from services.domain import DegradedReason, Plan, Request, Segment, SegmentTime, Tier
from services.errors import DeadlineExceeded
from services.model import Model
from services.patience import MIN_PATIENCE_SECONDS, PATIENCE, SEEN_LEAST_SECONDS, SEEN_PATIENCE, Lag, Patience
from services.profile import Measured
from services.response import Response
from services.tier import TierRuntime
from tests.fakes import FakeClock, FakeNext, InlineWorkers
from tests.journeys import NEVER, D, answering, plan, request, runtime, stages

PLAN = plan()
REST = Measured((SegmentTime(Segment(0, 8), 24, 0.05),))
"""All of the network takes little here."""


class Slow:
    """A tier above that takes `seconds` for each answer."""

    def __init__(self, clock: FakeClock, seconds: float):
        self.clock, self.seconds = clock, seconds

    def __call__(self, request: Request) -> Response:
        self.clock.now += self.seconds
        return answering(request)


class Stuck(InlineWorkers):
    """Workers that do the first job, and never the others."""

    def __init__(self) -> None:
        self.done = 0

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.done += 1
        return super().submit(job, *args, **kwargs) if self.done == 1 else Future()


def test_nothing_is_expected_of_a_fixed_plan_before_a_few_answers() -> None:
    patience = Patience()
    for _ in range(2):
        patience.took(PLAN, 1, 0.5)
    assert patience.seconds(PLAN, 1) is None
    patience.took(PLAN, 1, 0.5)
    assert patience.seconds(PLAN, 1) == pytest.approx(SEEN_PATIENCE * 0.5)


def test_what_quick_answers_took_leaves_at_least_a_while() -> None:
    patience = Patience()
    for _ in range(10):
        patience.took(PLAN, 1, 0.001)
    assert patience.seconds(PLAN, 1) == SEEN_LEAST_SECONDS


def test_one_odd_answer_among_many_changes_nothing() -> None:
    patience = Patience()
    for seconds in [1.0] * 40 + [9.0]:
        patience.took(PLAN, 1, seconds)
    assert patience.seconds(PLAN, 1) == SEEN_PATIENCE


def test_where_all_has_become_slow_patience_grows() -> None:
    patience = Patience()
    for _ in range(64):
        patience.took(PLAN, 1, 1.0)
    for _ in range(5):
        before = patience.seconds(PLAN, 1)
        assert before is not None
        patience.in_vain(PLAN, 1, 0.95 * before)  # who asks above keeps a little for its own answer
    after = patience.seconds(PLAN, 1)
    assert after is not None
    assert after > SEEN_PATIENCE


def test_what_was_waited_for_in_vain_never_lowers_patience() -> None:
    patience = Patience()
    for _ in range(5):
        patience.took(PLAN, 1, 2.0)
    for seconds in [0.0, 0.3] * 64:
        patience.in_vain(PLAN, 1, seconds)
    assert patience.seconds(PLAN, 1) == SEEN_PATIENCE * 2.0


def test_who_gave_up_before_any_answer_tells_nothing_of_answers() -> None:
    patience = Patience()
    for _ in range(10):
        patience.in_vain(PLAN, 1, 0.3)
    assert patience.seconds(PLAN, 1) is None


def test_other_plans_and_larger_batches_have_answers_of_their_own() -> None:
    patience = Patience()
    for _ in range(10):
        patience.took(PLAN, 1, 1.0)
    assert patience.seconds(plan(first=0), 1) is None
    assert patience.seconds(PLAN, 64) is None


def test_what_is_remembered_is_bounded() -> None:
    patience = Patience()
    for samples in range(400):
        patience.took(Plan(PLAN.stages[:1]) if samples % 2 else PLAN, 1 << samples, 1.0)
    assert len(patience._seen) <= 64


def test_a_plan_that_says_what_it_expects_is_believed() -> None:
    patience = Patience()
    planned = Plan(PLAN.stages, 2.0)
    patience.took(planned, 1, 50.0)
    assert patience.seconds(planned, 1) == PATIENCE * 2.0


def test_nobody_gives_up_sooner_than_finishing_takes() -> None:
    quick = Plan(PLAN.stages, 0.001)
    assert Patience().seconds(quick, 1) == MIN_PATIENCE_SECONDS
    assert Patience().seconds(quick, 1, rest_seconds=0.7) == 0.7


async def test_a_tier_waits_for_those_above_as_long_as_the_rest_would_take_here(model: Model, clock: FakeClock) -> None:
    above = FakeNext(answering)
    device = runtime(model, clock, above)
    device.profiler.learn(Measured((SegmentTime(Segment(0, 8), 24, 0.7),)))
    planned = Plan(plan(first=0).stages, 0.05)
    await device.infer(request(model, clock, seconds=10, plan=planned, thresholds=NEVER))
    assert above.asked[0][0].deadline.remaining() == pytest.approx(0.7)


async def test_a_silent_tier_is_left_after_three_times_what_answers_took(model: Model, clock: FakeClock) -> None:
    above = FakeNext(Slow(clock, 0.4))
    device = runtime(model, clock, above)
    device.profiler.learn(REST)
    for _ in range(3):
        await device.infer(request(model, clock, seconds=10, plan=plan(first=0), thresholds=NEVER))
    await device.infer(request(model, clock, seconds=10, plan=plan(first=0), thresholds=NEVER))
    left = [asked.deadline.remaining() + 0.4 for asked, _ in above.asked[-2:]]
    assert left[-1] == pytest.approx(SEEN_PATIENCE * 0.4, abs=0.01)
    assert left[0] > 8


@pytest.mark.parametrize("hurried", [1e-6, 0.3])
async def test_requests_in_a_hurry_leave_the_others_their_patience(
    model: Model, clock: FakeClock, hurried: float
) -> None:
    def above(request: Request) -> Response:
        left = request.deadline.remaining()
        clock.now += min(left, 2.0)
        if left < 2.0:
            raise DeadlineExceeded("late")
        return answering(request)

    device = runtime(model, clock, FakeNext(above))
    device.profiler.learn(REST)
    for turn in range(200):
        patient = turn < 5 or turn % 50 == 0
        seconds = 10 if patient else hurried
        asked = request(model, clock, seconds=seconds, plan=plan(first=0), thresholds=NEVER)
        try:
            given = (await device.infer(asked)).predictions
        except DeadlineExceeded:
            assert not patient
        else:
            assert not patient or not given.reasons.any(), f"given up on in turn {turn}"


async def test_who_lost_patience_finishes_here_and_says_why(model: Model, clock: FakeClock) -> None:
    device = runtime(model, clock, FakeNext(DeadlineExceeded("silent")))
    device.profiler.learn(REST)
    asked = request(model, clock, seconds=10, plan=plan(first=0), thresholds=NEVER)
    given = (await device.infer(asked)).predictions
    assert set(given.exits.tolist()) == {2}
    assert set(given.reasons.tolist()) == {DegradedReason.UPSTREAM_UNAVAILABLE}


async def test_patience_leaves_time_for_the_wait_here_too(model: Model, clock: FakeClock) -> None:
    above = FakeNext(answering)
    device = runtime(model, clock, above)
    device.profiler.learn(REST)
    device.backlog.runs, device.backlog.seconds = 10, 0.3
    planned = Plan(plan(first=0).stages, 10.0)
    await device.infer(request(model, clock, seconds=10, plan=planned, thresholds=NEVER))
    assert above.asked[0][0].deadline.remaining() == pytest.approx(10 - 0.05 - 9.5 * 0.3)


def test_a_margin_follows_the_worst_lag_of_lately_down_again() -> None:
    lag = Lag(FakeClock())
    least = lag.margin_seconds(10)
    lag.took(0.2)
    busy = lag.margin_seconds(10)
    assert busy == pytest.approx(0.2)
    for _ in range(300):
        lag.took(0.0)
    assert lag.margin_seconds(10) == least < busy


def test_one_stall_is_forgotten_with_time_however_few_runs_follow(clock: FakeClock) -> None:
    lag = Lag(clock)
    least = lag.margin_seconds(10)
    lag.took(5.0)
    clock.now += 5
    assert lag.margin_seconds(10) == pytest.approx(2.5)
    for _ in range(3):
        clock.now += 10
        lag.took(0.0)
    assert lag.margin_seconds(10) < 0.1
    clock.now += 60
    assert lag.margin_seconds(10) == least


def test_a_margin_takes_no_more_than_a_share_of_what_a_request_is_allowed() -> None:
    lag = Lag(FakeClock())
    lag.took(5.0)
    assert lag.margin_seconds(1.0) == 0.8


async def test_an_answer_in_hand_leaves_earlier_on_a_busy_loop(model: Model, clock: FakeClock) -> None:
    above = FakeNext(answering)
    device = runtime(model, clock, above)
    device.lag.took(0.5)
    await device.infer(request(model, clock, seconds=10, thresholds=NEVER))
    assert 9.4 < above.asked[0][0].deadline.remaining() < 9.6


async def test_with_an_answer_in_hand_no_piece_is_begun_that_would_end_too_late(model: Model, clock: FakeClock) -> None:
    device = runtime(model, clock)
    device.profiler.learn(Measured((SegmentTime(Segment(2, 4), 24, 1.5),)))
    asked = request(model, clock, seconds=1.0, plan=stages((D, 0, 8)), thresholds=NEVER)
    given = (await device.infer(asked)).predictions
    assert set(given.exits.tolist()) == {0}
    assert set(given.reasons.tolist()) == {DegradedReason.DEADLINE}


async def test_with_an_answer_in_hand_nobody_waits_for_a_run_beyond_the_deadline(model: Model) -> None:
    device = TierRuntime(Tier.DEVICE, model, Stuck())
    asked = request(model, device._clock, seconds=0.2, plan=stages((D, 0, 8)), thresholds=NEVER)  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        given = (await device.infer(asked)).predictions
    assert asked.deadline.remaining() > 0, "there is time for the answer to get back"
    assert set(given.exits.tolist()) == {0}
    assert set(given.reasons.tolist()) == {DegradedReason.DEADLINE}
