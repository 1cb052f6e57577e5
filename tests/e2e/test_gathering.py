"""Requests that travel as one over a real link, and how the tier that answers them counts them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services import bundle, codec, wire
from services.client import GrpcNextTier
from services.connection import Transport
from services.domain import Deadline, Plan, Request, Segment, Stage, Tier
from services.errors import QueueFull
from services.framing import Framed
from services.observing import Finished, Refused
from services.pb.offramp.v1 import tier_pb2 as pb
from services.profile import Profiler
from services.uplink import Uplink
from tests.calls import TIER, calling, reason
from tests.tiers import Running, upper

PLAN = Plan((Stage(Tier.DEVICE, Segment(0, 2)), Stage(Tier.EDGE, Segment(2, 8), "int8")))


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are taken to be short, however busy this machine is."""
    monkeypatch.setattr(Profiler, "seconds", lambda self, segment, batch_size: 1e-5 * batch_size)


class Ear:
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.ended: list[Finished] = []
        self.refused_ids: list[str] = []

    def answered(self, finished: Finished) -> None:
        self.ended.append(finished)

    def refused(self, refused: Refused) -> None:
        self.refused_ids.append(refused.request_id)


def asking(tiny: Path, number: int, count: int = 1) -> Request:
    samples = np.random.default_rng(number).random((count, 4, 8, 8), np.float32)
    return Request(f"r{number}", bundle.load(tiny).manifest.model_hash, PLAN, 2, samples, Deadline.after(10))


@asynccontextmanager
async def asked_from_below(edge: Running, transport: Transport = "exchange") -> AsyncIterator[GrpcNextTier]:
    """What a tier below asks the tier above with."""
    uplink = Uplink(Tier.DEVICE, edge.address, transport=transport)
    below = GrpcNextTier(uplink, 4)
    try:
        yield below
    finally:
        await uplink.close()


@pytest.mark.parametrize("transport", ["exchange", "unary"])
async def test_a_crowd_is_answered_as_each_would_be_alone_and_counted_one_by_one(
    tiny: Path, transport: Transport
) -> None:
    ear, requests = Ear(), [asking(tiny, number, count=2) for number in range(6)]
    async with upper(Tier.EDGE, tiny) as edge, asked_from_below(edge, transport) as below:
        alone = [await below.infer(request, "int8") for request in requests]
        await asyncio.gather(*(below.infer(request, "int8") for request in requests[:2]))
        edge.telemetry.observers.add(ear)
        together = await asyncio.gather(*(below.infer(request, "int8") for request in requests))
        await asyncio.sleep(0)
        edge.telemetry.observers.tell()
        held = edge.limiter.in_flight
    for before, after in zip(alone, together, strict=True):
        np.testing.assert_array_equal(before.response.predictions.scores, after.response.predictions.scores)
        np.testing.assert_array_equal(before.response.predictions.exits, after.response.predictions.exits)
    assert [each.members for each in ear.ended] == [tuple(f"r{number}" for number in range(6))]
    assert [(name, len(answers)) for each in ear.ended for name, answers in each.each()] == [
        (f"r{number}", 2) for number in range(6)
    ]
    assert held == 0


async def test_series_count_members_and_not_messages(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny) as edge, asked_from_below(edge) as below:
        ear = Ear()
        edge.telemetry.observers.add(ear)
        for _ in range(3):
            await asyncio.gather(*(below.infer(asking(tiny, number), "int8") for number in range(4)))
        await asyncio.sleep(0)
        text = generate_latest(edge.telemetry.metrics.registry).decode()
    assert any(each.members for each in ear.ended)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    requests = [sample.value for sample in families["offramp_requests"].samples if sample.value]
    batches = {s.name: s.value for s in families["offramp_batch_size"].samples if not s.labels.get("le")}
    assert sum(requests) == 12
    assert batches["offramp_batch_size_count"] == batches["offramp_batch_size_sum"] == 12


def message_of(request: Request, members: list[str]) -> pb.InferRequest:
    payload = codec.get("int8").encode(request.activation)
    activation = wire.payload_to_pb(payload)
    activation.payload = bytes(payload.data)
    return pb.InferRequest(
        request_id="r",
        model_hash=request.model_hash,
        plan=wire.plan_to_pb(PLAN),
        at=2,
        activation=activation,
        members=pb.Members(request_ids=members),
    )


@pytest.mark.parametrize(
    ("members", "count", "why"),
    [
        (["a", "b"], 3, "INVALID_INPUT"),
        (["x" * 201], 1, "INVALID_INPUT"),
        (["a"] * 4, 3, "INVALID_INPUT"),
        (["a"] * 5, 5, "TOO_LARGE"),
    ],
    ids=["uneven", "long id", "more than samples", "more than there is room for"],
)
async def test_members_that_cannot_be_are_refused(tiny: Path, members: list[str], count: int, why: str) -> None:
    message = message_of(asking(tiny, 1, count), members)
    async with upper(Tier.EDGE, tiny, max_in_flight=4) as edge, calling(edge.address) as call:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(f"{TIER}/Infer", message)
        assert reason(error.value) == why
        assert edge.limiter.in_flight == 0


async def test_members_that_are_refused_are_told_and_counted_one_by_one(tiny: Path) -> None:
    message, ear = message_of(asking(tiny, 1, 2), ["a", "b"]), Ear()
    message.activation.crc32c += 1
    async with upper(Tier.EDGE, tiny) as edge, calling(edge.address) as call:
        edge.telemetry.observers.add(ear)
        with pytest.raises(grpc.aio.AioRpcError):
            await call(f"{TIER}/Infer", message)
        failed = edge.models.first.failed
    assert ear.refused_ids == ["a", "b"]
    assert failed == 2


async def test_a_crowd_larger_than_the_queue_is_still_answered(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny, max_in_flight=8) as edge, asked_from_below(edge) as below:

        async def caller(number: int) -> int:
            answered = 0
            for _ in range(10):
                try:
                    await below.infer(asking(tiny, number), "int8")
                    answered += 1
                except QueueFull:
                    pass
            return answered

        answered = sum(await asyncio.gather(*(caller(number) for number in range(30))))
    assert answered >= 280


async def test_a_request_is_not_asked_again_with_less_than_no_time(tiny: Path) -> None:
    """What the tier above is given ends before what is waited for; asking it again after that would be a lie."""
    request = asking(tiny, 1)
    payload = codec.get("int8").encode(request.activation)
    header = pb.InferRequest(
        model_hash=request.model_hash, plan=wire.plan_to_pb(PLAN), at=2, remaining_seconds=0.02, request_id="r"
    )
    async with upper(Tier.EDGE, tiny, max_in_flight=1) as edge, asked_from_below(edge) as below:
        with edge.limiter.admit(), pytest.raises(QueueFull):
            await below._uplink.infer(Framed(header, wire.payload_to_pb(payload), payload.data), 2.0)
