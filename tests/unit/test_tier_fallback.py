"""What a tier does when the next one cannot answer, or time is short."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from services.domain import (
    DegradedReason,
    Segment,
    SegmentTime,
    Tier,
)
from services.errors import (
    CallerError,
    CorruptPayload,
    DeadlineExceeded,
    Draining,
    InternalError,
    InvalidInput,
    ModelMismatch,
    ModelNotReady,
    NotCarried,
    NotHeld,
    NotImplementedHere,
    OfframpError,
    QueueFull,
    TooLarge,
    Unavailable,
    UnknownModel,
    UpstreamUnavailable,
)
from services.fallback import degraded_by
from services.model import Model
from services.profile import Measured
from services.tier import TierRuntime
from tests.fakes import FakeClock, FakeNext
from tests.journeys import (
    NEVER,
    Busy,
    D,
    answering,
    plan,
    request,
    runtime,
    stages,
    three,
)

UPSTREAM: list[tuple[OfframpError, DegradedReason]] = [
    (DeadlineExceeded(""), DegradedReason.DEADLINE),
    (QueueFull(""), DegradedReason.UPSTREAM_OVERLOADED),
    (Draining(""), DegradedReason.UPSTREAM_DRAINING),
    (UpstreamUnavailable(""), DegradedReason.UPSTREAM_UNAVAILABLE),
    (ModelNotReady(""), DegradedReason.UPSTREAM_UNAVAILABLE),
    (Unavailable(""), DegradedReason.UPSTREAM_UNAVAILABLE),
    (ModelMismatch(""), DegradedReason.UPSTREAM_MISMATCH),
    (UnknownModel(""), DegradedReason.UPSTREAM_MISMATCH),
    (NotHeld(""), DegradedReason.UPSTREAM_MISMATCH),
    (CorruptPayload(""), DegradedReason.UPSTREAM_ERROR),
    (NotCarried(""), DegradedReason.UPSTREAM_ERROR),
    (NotImplementedHere(""), DegradedReason.UPSTREAM_ERROR),
    (InternalError(""), DegradedReason.UPSTREAM_ERROR),
]


@pytest.mark.parametrize(("error", "reason"), UPSTREAM, ids=[type(e).__name__ for e, _ in UPSTREAM])
async def test_each_error_from_above_has_its_reason(
    model: Model, clock: FakeClock, error: OfframpError, reason: DegradedReason
) -> None:
    assert degraded_by(error) is reason
    given = (await runtime(model, clock, FakeNext(error)).infer(request(model, clock))).predictions
    stayed = given.reasons != 0
    assert stayed.any()
    assert not stayed.all()
    assert set(given.reasons[stayed].tolist()) == {int(reason)}
    assert set(given.tiers.tolist()) == {Tier.DEVICE}


async def test_the_rest_is_run_here_when_it_is_held(model: Model, clock: FakeClock) -> None:
    alone = (await runtime(model, clock, FakeNext(UpstreamUnavailable(""))).infer(request(model, clock))).predictions
    whole = (await three(model, clock).infer(request(model, clock))).predictions
    assert np.array_equal(alone.exits, whole.exits)
    assert np.array_equal(alone.scores, whole.scores)
    assert np.array_equal(alone.reasons != 0, whole.tiers != Tier.DEVICE)


async def test_where_the_rest_is_not_held_the_best_exit_so_far_answers(model: Model, clock: FakeClock) -> None:
    device = runtime(model, clock, FakeNext(UpstreamUnavailable("")), holds=Segment(0, 2))
    given = (await device.infer(request(model, clock))).predictions
    assert set(given.exits.tolist()) == {0}
    assert set(given.reasons.tolist()) == {0, DegradedReason.UPSTREAM_UNAVAILABLE}
    assert np.array_equal(given.reasons != 0, given.confidences < np.float32(0.6))


async def test_a_deadline_missed_above_leaves_no_time_to_run_the_rest_here(model: Model, clock: FakeClock) -> None:
    given = (await runtime(model, clock, FakeNext(DeadlineExceeded(""))).infer(request(model, clock))).predictions
    assert set(given.exits.tolist()) == {0}


@pytest.mark.parametrize("error", [UpstreamUnavailable("gone"), ModelMismatch("other"), DeadlineExceeded("late")])
async def test_without_an_exit_or_the_rest_the_error_is_the_answer(
    model: Model, clock: FakeClock, error: OfframpError
) -> None:
    device = runtime(model, clock, FakeNext(error), holds=Segment(0, 1))
    with pytest.raises(type(error), match=str(error)):
        await device.infer(request(model, clock, plan=plan(first=1)))


async def test_without_a_next_tier_the_rest_runs_here(model: Model, clock: FakeClock) -> None:
    given = await runtime(model, clock).infer(request(model, clock, thresholds=NEVER))
    assert set(given.predictions.exits.tolist()) == {2}
    assert set(given.predictions.reasons.tolist()) == {DegradedReason.UPSTREAM_UNAVAILABLE}


@pytest.mark.parametrize("error", [InvalidInput("bad"), TooLarge("big")])
async def test_the_callers_own_error_is_never_hidden_by_a_fallback(
    model: Model, clock: FakeClock, error: CallerError
) -> None:
    with pytest.raises(type(error), match=str(error)):
        await runtime(model, clock, FakeNext(error)).infer(request(model, clock))


async def test_what_is_no_error_of_ours_is_not_swallowed(model: Model, clock: FakeClock) -> None:
    with pytest.raises(ZeroDivisionError):
        await runtime(model, clock, FakeNext(ZeroDivisionError())).infer(request(model, clock))


async def test_a_deadline_over_before_the_first_exit_is_exceeded(model: Model, clock: FakeClock) -> None:
    with pytest.raises(DeadlineExceeded):
        await three(model, clock).infer(request(model, clock, seconds=0))


async def test_a_deadline_over_after_an_exit_gives_its_answer(model: Model, clock: FakeClock) -> None:
    above = FakeNext(answering)
    late = TierRuntime(Tier.DEVICE, model, Busy(clock, 0, after=10), above, clock=clock)
    given = (await late.infer(request(model, clock, seconds=5))).predictions
    assert not above.asked
    assert set(given.exits.tolist()) == {0}
    assert set(given.reasons.tolist()) == {0, DegradedReason.DEADLINE}


async def test_of_several_exits_that_there_was_time_for_the_last_one_answers(model: Model, clock: FakeClock) -> None:
    alone = TierRuntime(Tier.DEVICE, model, Busy(clock, 10), clock=clock)
    asked = request(model, clock, seconds=25, plan=stages((D, 0, 8)), thresholds=NEVER)
    given = (await alone.infer(asked)).predictions
    assert set(given.exits.tolist()) == {1}
    assert set(given.reasons.tolist()) == {DegradedReason.DEADLINE}


async def test_what_waited_for_a_worker_until_too_late_does_not_run(
    model: Model, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "run", lambda *_: pytest.fail("it ran"))
    device = TierRuntime(Tier.DEVICE, model, Busy(clock, 10), clock=clock)
    with pytest.raises(DeadlineExceeded):
        await device.infer(request(model, clock, seconds=5))


async def test_a_deadline_missed_above_before_any_exit_is_answered_by_the_next_exit_here(
    model: Model, clock: FakeClock
) -> None:
    device = runtime(model, clock, FakeNext(DeadlineExceeded("")), holds=Segment(0, 2))
    given = (await device.infer(request(model, clock, plan=plan(first=1)))).predictions
    assert set(given.exits.tolist()) == {0}
    assert set(given.reasons.tolist()) == {DegradedReason.DEADLINE}


@pytest.mark.parametrize(("seconds", "first", "left"), [(10, 0, 7), (5, 0, 5), (10, 2, 9.95)])
async def test_a_hop_without_an_answer_leaves_time_for_one_where_that_is_less_than_half(
    model: Model, clock: FakeClock, seconds: float, first: int, left: float
) -> None:
    above = FakeNext(answering)
    device = runtime(model, clock, above)
    device.profiler.learn(Measured((SegmentTime(Segment(0, 2), 24, 3.0),)))
    await device.infer(request(model, clock, seconds=seconds, plan=plan(first), thresholds=NEVER))
    assert above.asked[0][0].deadline.remaining() == pytest.approx(left)


async def test_patience_with_the_tiers_above_holds_for_a_batch_larger_than_any_measured(
    model: Model, clock: FakeClock
) -> None:
    """A hop that fell silent would otherwise have it until just before its deadline."""
    above = FakeNext(answering)
    device = runtime(model, clock, above)
    device.profiler.learn(Measured((SegmentTime(Segment(0, model.last), 1, 0.05),)))
    planned = replace(plan(first=0), expected_seconds=0.02)
    asked = request(model, clock, seconds=10, plan=planned, thresholds=NEVER)
    await device.infer(asked)
    one_by_one = 0.05 * len(asked.activation)  # what finishing here takes at most
    assert above.asked[0][0].deadline.remaining() == pytest.approx(one_by_one)


async def test_time_left_for_an_exit_here_counts_how_long_work_waits_here(model: Model, clock: FakeClock) -> None:
    above = FakeNext(answering)
    device = runtime(model, clock, above)
    device.profiler.learn(Measured((SegmentTime(Segment(0, 2), 24, 3.0),)))
    device.profiler.record(Segment(2, 4), 1, 0.1, queue_seconds=1.0)
    await device.infer(request(model, clock, seconds=10, plan=plan(first=0), thresholds=NEVER))
    assert above.asked[0][0].deadline.remaining() == pytest.approx(6.0)
