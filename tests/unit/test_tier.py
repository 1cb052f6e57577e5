"""The request path, with a small real network and fakes of one method around it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services import bundle
from services.domain import (
    Deadline,
    DegradedReason,
    FloatArray,
    LinkEstimate,
    Plan,
    Predictions,
    Request,
    Response,
    Segment,
    Stage,
    Tier,
    Trace,
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
from services.model import Model, SegmentOutput
from services.tier import NextTier, TierRuntime
from tests.fakes import Above, FakeClock, FakeNext, InlineWorkers
from tests.networks import CLASSES, SHAPE

NEVER = (2.0, 2.0, 0.0)
ALWAYS = (0.0, 0.0, 0.0)
D, E, C = Tier


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return Model(bundle.load(tiny))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def plan(first: int = 2, second: int = 4, last: int = 8) -> Plan:
    return Plan(
        (
            Stage(Tier.DEVICE, Segment(0, first)),
            Stage(Tier.EDGE, Segment(first, second), "int8"),
            Stage(Tier.CLOUD, Segment(second, last), "fp16"),
        )
    )


def stages(*parts: tuple[Tier, int, int]) -> Plan:
    return Plan(tuple(Stage(tier, Segment(start, end)) for tier, start, end in parts))


def samples(count: int = 24, seed: int = 3) -> FloatArray:
    return np.random.default_rng(seed).uniform(-2, 2, (count, *SHAPE)).astype(np.float32)


def request(
    model: Model, clock: FakeClock, tensor: FloatArray | None = None, seconds: float = 1e6, **changes: object
) -> Request:
    tensor = samples() if tensor is None else tensor
    made = Request("r", model.manifest.model_hash, plan(), 0, tensor, Deadline.after(seconds, clock))
    return replace(made, **changes)


def runtime(
    model: Model,
    clock: FakeClock,
    next_tier: NextTier | None = None,
    tier: Tier = Tier.DEVICE,
    holds: Segment | None = None,
) -> TierRuntime:
    return TierRuntime(tier, model, InlineWorkers(), next_tier, holds, clock)


def three(model: Model, clock: FakeClock) -> TierRuntime:
    cloud = runtime(model, clock, tier=Tier.CLOUD)
    edge = runtime(model, clock, Above(cloud, clock), Tier.EDGE)
    return runtime(model, clock, Above(edge, clock))


class Busy(InlineWorkers):
    """Workers that take a job only after `seconds`."""

    def __init__(self, clock: FakeClock, seconds: float):
        self._clock, self._seconds = clock, seconds

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._clock.now += self._seconds
        return super().submit(job, *args, **kwargs)


def answers(count: int, exit_index: int = 2, tier: Tier = Tier.EDGE) -> Predictions:
    """Answers whose label tells the row they were given for."""
    given = Predictions.empty(count, CLASSES)
    given.scores[np.arange(count), np.arange(count) % CLASSES] = 1
    given.confidences[:] = np.arange(count) / 100
    given.exits[:], given.tiers[:] = exit_index, tier
    return given


def answering(request: Request) -> Response:
    return Response(answers(len(request.activation)), Trace())


async def test_each_sample_leaves_at_its_own_exit(model: Model, clock: FakeClock) -> None:
    given = (await three(model, clock).infer(request(model, clock))).predictions
    assert set(given.exits.tolist()) == {0, 1, 2}
    assert np.array_equal(given.tiers, given.exits)
    assert not given.reasons.any()
    thresholds = np.array([spec.threshold for spec in model.manifest.exits])
    assert (given.confidences >= thresholds[given.exits].astype(np.float32)).all()


async def test_a_batch_gets_the_answers_of_its_samples_alone(model: Model, clock: FakeClock) -> None:
    tiers = three(model, clock)
    together = (await tiers.infer(request(model, clock))).predictions
    for row, sample in enumerate(samples()):
        alone = (await tiers.infer(request(model, clock, sample[None]))).predictions
        assert alone.exits[0] == together.exits[row]
        assert np.array_equal(alone.scores[0], together.scores[row])


async def test_only_those_who_stay_travel_on_and_return_to_their_rows(model: Model, clock: FakeClock) -> None:
    above = FakeNext(answering)
    given = (await runtime(model, clock, above).infer(request(model, clock))).predictions
    stayed = np.flatnonzero(given.tiers == Tier.EDGE)
    assert 0 < len(stayed) < len(given)
    ((forwarded, codec),) = above.asked
    assert codec == "int8"
    assert forwarded.at == 2
    activation, _ = model.run(Segment(0, 2), samples())
    assert np.array_equal(forwarded.activation, activation[stayed])
    assert given.labels[stayed].tolist() == [row % CLASSES for row in range(len(stayed))]
    assert given.confidences[stayed].tolist() == pytest.approx([row / 100 for row in range(len(stayed))])


async def test_when_all_are_sure_nothing_is_forwarded(model: Model, clock: FakeClock) -> None:
    above = FakeNext(AssertionError("asked"))
    given = await runtime(model, clock, above).infer(request(model, clock, thresholds=ALWAYS))
    assert set(given.predictions.exits.tolist()) == {0}
    assert not above.asked


async def test_thresholds_of_a_request_override_those_of_the_bundle(model: Model, clock: FakeClock) -> None:
    given = await three(model, clock).infer(request(model, clock, thresholds=NEVER))
    assert set(given.predictions.exits.tolist()) == {2}
    middle = await three(model, clock).infer(request(model, clock, thresholds=(2.0, 0.0, 0.0)))
    assert set(middle.predictions.exits.tolist()) == {1}


async def test_a_segment_without_anything_in_it_is_passed_through(model: Model, clock: FakeClock) -> None:
    for chosen in (plan(0, 0), plan(0, 8), plan(4, 4), plan(8, 8)):
        given = await three(model, clock).infer(request(model, clock, thresholds=NEVER, plan=chosen))
        assert set(given.predictions.exits.tolist()) == {2}


async def test_a_plan_may_leave_out_the_edge(model: Model, clock: FakeClock) -> None:
    chosen = Plan((Stage(Tier.DEVICE, Segment(0, 2)), Stage(Tier.CLOUD, Segment(2, 8), "fp16")))
    above = FakeNext(answering)
    await runtime(model, clock, above).infer(request(model, clock, thresholds=NEVER, plan=chosen))
    assert above.asked[0][1] == "fp16"


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
    def slow(next_tier: NextTier | None) -> TierRuntime:
        return TierRuntime(Tier.DEVICE, model, Busy(clock, 10), next_tier, clock=clock)

    above = FakeNext(answering)
    given = (await slow(above).infer(request(model, clock, seconds=5))).predictions
    assert not above.asked
    assert set(given.exits.tolist()) == {0}
    assert set(given.reasons.tolist()) == {0, DegradedReason.DEADLINE}
    alone = request(model, clock, seconds=15, plan=stages((D, 0, 8)), thresholds=NEVER)
    given = (await slow(None).infer(alone)).predictions
    assert set(given.exits.tolist()) == {1}
    assert set(given.reasons.tolist()) == {DegradedReason.DEADLINE}


async def test_a_part_that_is_not_held_is_refused(model: Model, clock: FakeClock) -> None:
    edge = runtime(model, clock, tier=Tier.EDGE, holds=Segment(2, 4))
    inside = request(model, clock, model.zeros(2, 1), at=2)
    await edge.infer(inside)
    with pytest.raises(NotHeld, match="holds 2:4, the plan gives it 2:5"):
        await edge.infer(replace(inside, plan=plan(2, 5)))


async def test_warming_leaves_out_what_is_not_held(tiny: Path, clock: FakeClock) -> None:
    model = Model(bundle.load(tiny))
    runtime(model, clock, holds=Segment(0, 4)).warm(Segment(0, 8))
    assert model.resident(Segment(2, 4))
    assert not model.resident(Segment(4, 8))


async def test_another_model_is_refused_with_both_hashes(model: Model, clock: FakeClock) -> None:
    with pytest.raises(ModelMismatch) as refused:
        await runtime(model, clock).infer(request(model, clock, model_hash="f" * 64))
    assert "f" * 64 in str(refused.value)
    assert model.manifest.model_hash in str(refused.value)


@pytest.mark.parametrize(
    ("chosen", "complaint"),
    [
        (stages((D, 0, 2), (E, 3, 4), (C, 4, 8)), "does not join up"),
        (stages((D, 1, 2), (E, 2, 4), (C, 4, 8)), "does not join up"),
        (stages((D, 0, 2), (E, 2, 1), (C, 1, 8)), "does not join up"),
        (stages((D, 0, 4), (E, 2, 8)), "does not join up"),
        (stages((D, 0, 2), (E, 2, 4)), "ends at split point 4"),
        (stages((D, 0, 2), (E, 2, 4), (C, 4, 9)), "ends at split point 9"),
        (stages(), "ends at split point 0"),
        (stages((E, 0, 2), (D, 2, 4), (C, 4, 8)), "out of order"),
        (stages((D, 0, 2), (D, 2, 4), (C, 4, 8)), "out of order"),
        (stages((E, 0, 4), (C, 4, 8)), "no part for the device"),
    ],
)
async def test_a_plan_that_cannot_be_followed_is_refused(
    model: Model, clock: FakeClock, chosen: Plan, complaint: str
) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        await runtime(model, clock).infer(request(model, clock, plan=chosen))


async def test_an_activation_from_another_split_point_than_planned_is_refused(model: Model, clock: FakeClock) -> None:
    with pytest.raises(InvalidInput, match="does not give split point 3 to the edge"):
        await runtime(model, clock, tier=Tier.EDGE).infer(request(model, clock, model.zeros(3, 1), at=3))


async def test_a_request_with_nothing_left_to_run_is_refused(model: Model, clock: FakeClock) -> None:
    done = request(model, clock, model.zeros(8, 1), at=8, plan=plan(8, 8))
    with pytest.raises(InvalidInput, match="nothing is left to run"):
        await runtime(model, clock, tier=Tier.EDGE).infer(done)


@pytest.mark.parametrize("shape", [(1, 8, 9), (1, 8), (8, 8)])
async def test_an_activation_of_another_shape_is_refused(
    model: Model, clock: FakeClock, shape: tuple[int, ...]
) -> None:
    with pytest.raises(InvalidInput, match=r"carries \[N, 1, 8, 8\]"):
        await runtime(model, clock).infer(request(model, clock, np.zeros((2, *shape), np.float32)))


@pytest.mark.parametrize("thresholds", [(), (0.5,), (0.5, 0.5), (0.5,) * 4])
async def test_thresholds_for_another_number_of_exits_are_refused(
    model: Model, clock: FakeClock, thresholds: tuple[float, ...]
) -> None:
    with pytest.raises(InvalidInput, match="the model has 3 exits"):
        await runtime(model, clock).infer(request(model, clock, thresholds=thresholds))


async def test_the_trace_is_every_tick_of_the_clock_exactly_once(model: Model, clock: FakeClock) -> None:
    tiers = three(model, clock)
    for asked in (request(model, clock), request(model, clock, thresholds=NEVER), request(model, clock)):
        clock.step = 0
        arrived, clock.step = clock(), 1
        trace = (await tiers.infer(asked, arrived)).trace
        hops = trace.hops
        assert [hop.tier for hop in hops] == list(Tier)
        assert trace.seconds == clock.now - arrived
        assert all(s >= 0 for h in hops for s in (h.queue_seconds, h.decode_seconds, h.encode_seconds))
        assert all(hop.compute_seconds > 0 for hop in hops)
        assert hops[0].network_seconds > 0
        assert (hops[0].bytes_up, hops[0].bytes_down, hops[2].bytes_up) == (100, 10, 0)


async def test_waiting_for_a_worker_is_told_from_computing(
    model: Model, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = model.run

    def seven_seconds(piece: Segment, tensor: FloatArray) -> SegmentOutput:
        clock.now += 7
        return run(piece, tensor)

    monkeypatch.setattr(model, "run", seven_seconds)
    device = TierRuntime(Tier.DEVICE, model, Busy(clock, 10), clock=clock)
    given = await device.infer(request(model, clock, thresholds=ALWAYS))
    assert (given.trace.hops[0].queue_seconds, given.trace.hops[0].compute_seconds) == (10, 7)
    assert (given.profiles[0].queue_seconds, given.profiles[0].segments[0].seconds) == (10, 7)


async def test_time_before_the_request_is_booked_as_decoding(model: Model, clock: FakeClock) -> None:
    clock.now = 50
    trace = (await runtime(model, clock).infer(request(model, clock, thresholds=ALWAYS), arrived=43)).trace
    assert trace.hops[0].decode_seconds == 7
    assert trace.seconds == 7


async def test_encoding_is_told_from_the_network(model: Model, clock: FakeClock) -> None:
    class Hop(Above):
        async def infer(self, request: Request, codec: str):  # type: ignore[no-untyped-def]
            clock.now += 5
            return await Above.infer(self, request, codec)

    edge = runtime(model, clock, tier=Tier.EDGE)
    everything = plan(2, 8)
    device = runtime(model, clock, Hop(edge, clock, encode_seconds=2.0))
    trace = (await device.infer(request(model, clock, thresholds=NEVER, plan=everything))).trace
    assert (trace.hops[0].encode_seconds, trace.hops[0].network_seconds) == (2, 3)
    assert trace.seconds == 5


async def test_a_failed_call_is_time_on_the_network(model: Model, clock: FakeClock) -> None:
    class Late(FakeNext):
        async def infer(self, request: Request, codec: str):  # type: ignore[no-untyped-def]
            clock.now += 4
            return await FakeNext.infer(self, request, codec)

    trace = (await runtime(model, clock, Late(UpstreamUnavailable(""))).infer(request(model, clock))).trace
    assert trace.hops[0].network_seconds == 4
    assert trace.seconds == 4


async def test_beliefs_of_the_tiers_above_come_back_nearest_first(model: Model, clock: FakeClock) -> None:
    given = await three(model, clock).infer(request(model, clock, thresholds=NEVER))
    assert [profile.tier for profile in given.profiles] == list(Tier)
    assert [time.segment for time in given.profiles[1].segments] == [Segment(2, 4)]
    assert given.links == (LinkEstimate(Tier.EDGE), LinkEstimate(Tier.CLOUD))
