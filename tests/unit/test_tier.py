"""The request path: who leaves where, and where the time goes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from services.domain import (
    CodecCost,
    FloatArray,
    LinkEstimate,
    Plan,
    Request,
    Segment,
    Stage,
    Tier,
)
from services.errors import (
    UpstreamUnavailable,
)
from services.journey import Forwarded
from services.model import Model, SegmentOutput
from services.profile import Measured
from services.tier import TierRuntime
from tests.fakes import Above, FakeClock, FakeNext
from tests.journeys import (
    ALWAYS,
    NEVER,
    Busy,
    OneByOne,
    answering,
    plan,
    request,
    runtime,
    samples,
    three,
)
from tests.networks import CLASSES


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
    (profile,) = device.report(given).profiles
    assert (profile.queue_seconds, profile.segments[0].seconds) == (10, 7)


async def test_a_request_that_has_begun_goes_on_before_a_later_one_begins(
    model: Model, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, run, worker = list[tuple[int, int]](), model.run, OneByOne()
    monkeypatch.setattr(model, "run", lambda piece, tensor: ran.append((len(tensor), piece.end)) or run(piece, tensor))
    device = TierRuntime(Tier.DEVICE, model, worker, clock=clock)
    local = Plan((Stage(Tier.DEVICE, Segment(0, model.last)),))
    both = [
        asyncio.create_task(
            device.infer(request(model, clock, samples(count), plan=local, thresholds=NEVER), arrived=at)
        )
        for count, at in ((1, 2.0), (2, 1.0))
    ]
    await worker.work_for(both)
    ends = [spec.split_point for spec in model.manifest.exits]
    assert ran == [*((2, end) for end in ends), *((1, end) for end in ends)]


async def test_time_before_the_request_is_booked_as_decoding(model: Model, clock: FakeClock) -> None:
    clock.now = 50
    trace = (await runtime(model, clock).infer(request(model, clock, thresholds=ALWAYS), arrived=43)).trace
    assert trace.hops[0].decode_seconds == 7
    assert trace.seconds == 7


async def test_what_images_take_on_the_link_is_told_with_the_answer(model: Model, clock: FakeClock) -> None:
    device = runtime(model, clock, FakeNext(answering))
    device.profiler.learn(Measured(codecs=(CodecCost("jpeg90", 1e-9, 1e-9, 0.03),)))
    away = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, model.last), "jpeg90")))
    for _ in range(200):
        response = await device.infer(request(model, clock, plan=away))
    (cost,) = device.report(response).profiles[0].codecs
    assert cost.ratio == pytest.approx(100 / samples().nbytes, rel=0.03)  # 100 bytes, says the fake


async def test_an_input_that_went_as_numbers_says_nothing_of_images(model: Model, clock: FakeClock) -> None:
    class AsNumbers(FakeNext):
        async def infer(self, request: Request, codec: str) -> Forwarded:
            return await FakeNext.infer(self, request, "fp32+zstd")

    device = runtime(model, clock, AsNumbers(answering))
    device.profiler.learn(Measured(codecs=(CodecCost("jpeg90", 1e-9, 1e-9, 0.03),)))
    away = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, model.last), "jpeg90")))
    response = await device.infer(request(model, clock, plan=away))
    assert device.report(response).profiles[0].codecs == ()


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
    device = three(model, clock)
    given = device.report(await device.infer(request(model, clock, thresholds=NEVER)))
    assert [profile.tier for profile in given.profiles] == list(Tier)
    assert [time.segment for time in given.profiles[1].segments] == [Segment(2, 4)]
    assert given.links == (LinkEstimate(Tier.EDGE), LinkEstimate(Tier.CLOUD))
