"""Requests of one message that run as one, and activations that pass a tier as they came: only time can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from services import bundle, codec, exchange_frames, wire
from services.connection import EXCHANGE
from services.domain import DegradedReason, Payload, Plan, Request, Response, Segment, SegmentTime, Stage, Tier
from services.framing import Framed
from services.observing import Finished, Refused
from services.pb.offramp.v1 import tier_pb2 as pb
from services.profile import Measured
from tests.calls import TIER, calling, reason
from tests.tiers import Running, upper

HERE = Plan((Stage(Tier.DEVICE, Segment(0, 2)), Stage(Tier.EDGE, Segment(2, 8), "int8")))
BEYOND = Plan((*HERE.stages[:1], Stage(Tier.EDGE, Segment(2, 2), "int8"), Stage(Tier.CLOUD, Segment(2, 8), "int8")))
BRIEF = Measured(tuple(SegmentTime(Segment(start, 8), size, 1e-5) for start in (0, 2) for size in (1, 8)))


class Ear:
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.ended: list[Finished] = []

    def answered(self, finished: Finished) -> None:
        self.ended.append(finished)

    def refused(self, refused: Refused) -> None: ...


def asking(tiny: Path, name: str, plan: Plan = HERE, count: int = 1, change: Callable[[Any], object] = id) -> Framed:
    samples = np.random.default_rng(int(name[1:])).random((count, 4, 8, 8), np.float32)
    payload: Payload = codec.get("int8").encode(samples)
    header = pb.InferRequest(
        request_id=name, model_hash=bundle.load(tiny).manifest.model_hash, plan=wire.plan_to_pb(plan), at=2
    )
    framed = Framed(header, wire.payload_to_pb(payload), bytes(payload.data))
    change(framed)
    return framed


async def outcomes(edge: Running, asked: list[Framed], cancelled: tuple[int, ...] = ()) -> dict[int, Any]:
    """What becomes of `asked`, all sent in one message, by their number from 1."""
    async with grpc.aio.insecure_channel(edge.address) as channel:
        call = channel.stream_stream(EXCHANGE)()
        await call.write(exchange_frames.request(list(enumerate(asked, 1)), cancelled))
        await call.done_writing()
        found: dict[int, Any] = {}
        while isinstance(data := await call.read(), bytes):
            found |= {outcome.number: outcome for outcome in pb.ExchangeReply.FromString(data).outcomes}
        return found


def counted(edge: Running, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The samples of each run of the runtime, from now on."""
    sizes: list[int] = []
    infer = edge.runtime.infer

    async def counting(request: Request, arrived: float | None = None) -> Response:
        sizes.append(len(request.activation))
        return await infer(request, arrived)

    monkeypatch.setattr(edge.runtime, "infer", counting)
    edge.runtime.profiler.learn(BRIEF)
    return sizes


async def test_alike_requests_of_a_message_run_as_one_and_each_is_answered_as_if_alone(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ear, asked = Ear(), [asking(tiny, f"r{index}", count=2) for index in range(5)]
    async with upper(Tier.EDGE, tiny) as edge:
        alone = [(await outcomes(edge, [framed]))[1].reply for framed in asked]
        edge.telemetry.observers.add(ear)
        sizes = counted(edge, monkeypatch)
        together = await outcomes(edge, asked)
    assert sizes == [10]
    for number, before in enumerate(alone, 1):
        answers = [wire.response_from_pb(reply, 2, 4).predictions for reply in (before, together[number].reply)]
        np.testing.assert_allclose(answers[0].scores, answers[1].scores, atol=1e-6)
        assert answers[0].exits.tolist() == answers[1].exits.tolist()
    assert [each.request_id for each in ear.ended] == [f"r{index}" for index in range(5)]
    assert [len(each.response.predictions) for each in ear.ended] == [2] * 5
    assert len({each.response.trace for each in ear.ended}) == 1  # each was held as long as the others
    assert edge.limiter.in_flight == 0


def corrupt(framed: Framed) -> None:
    framed.activation.crc32c += 1


def named_at_length(framed: Framed) -> None:
    framed.header.request_id = "x" * 201


@pytest.mark.parametrize(("change", "why"), [(corrupt, b"CORRUPT_PAYLOAD"), (named_at_length, b"INVALID_INPUT")])
async def test_what_is_wrong_with_one_is_told_to_it_alone(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], object], why: bytes
) -> None:
    async with upper(Tier.EDGE, tiny) as edge:
        sizes = counted(edge, monkeypatch)
        asked = [asking(tiny, f"r{index}", change=change if index == 1 else id) for index in range(4)]
        found = await outcomes(edge, asked)
    assert why in found[2].status
    assert {number for number, outcome in found.items() if outcome.WhichOneof("outcome") == "reply"} == {1, 3, 4}
    assert sizes == [1, 1, 1]


def sooner(framed: Framed) -> None:
    framed.header.remaining_seconds = 0.05


def surer(framed: Framed) -> None:
    framed.header.thresholds.extend([2.0, 2.0, 0.0])


@pytest.mark.parametrize("change", [sooner, surer])
async def test_who_wants_something_else_or_has_little_time_runs_apart(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], object]
) -> None:
    async with upper(Tier.EDGE, tiny) as edge:
        sizes = counted(edge, monkeypatch)
        asked = [asking(tiny, f"r{index}", change=change if index == 1 else id) for index in range(4)]
        found = await outcomes(edge, asked)
    assert sorted(sizes) == [1, 3]
    assert [found[number].WhichOneof("outcome") for number in range(1, 5)] == ["reply"] * 4


async def test_more_than_the_tier_holds_are_refused_one_by_one(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = asyncio.Event()
    async with upper(Tier.EDGE, tiny, max_in_flight=3) as edge:
        counted(edge, monkeypatch)
        infer = edge.runtime.infer

        async def waiting(request: Request, arrived: float | None = None) -> Response:
            await free.wait()
            return await infer(request, arrived)

        monkeypatch.setattr(edge.runtime, "infer", waiting)
        asyncio.get_running_loop().call_later(0.2, free.set)
        found = await outcomes(edge, [asking(tiny, f"r{index}") for index in range(5)])
    kinds = [found[number].WhichOneof("outcome") for number in range(1, 6)]
    assert kinds == ["reply"] * 3 + ["status"] * 2
    assert b"QUEUE_FULL" in found[4].status


async def test_who_leaves_a_run_that_others_wait_for_changes_nothing_for_them(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = asyncio.Event()
    async with upper(Tier.EDGE, tiny) as edge:
        counted(edge, monkeypatch)
        infer = edge.runtime.infer

        async def waiting(request: Request, arrived: float | None = None) -> Response:
            await free.wait()
            return await infer(request, arrived)

        monkeypatch.setattr(edge.runtime, "infer", waiting)
        asyncio.get_running_loop().call_later(0.1, free.set)
        found = await outcomes(edge, [asking(tiny, f"r{index}") for index in range(3)], cancelled=(2,))
    assert sorted(found) == [1, 3]


async def test_an_activation_passes_a_tier_that_runs_nothing_of_it_as_it_came(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with upper(Tier.CLOUD, tiny) as cloud, upper(Tier.EDGE, tiny, cloud.address) as edge:
        framed = asking(tiny, "r1", BEYOND, 3)
        monkeypatch.setattr(codec.Codec, "encode", lambda *_: pytest.fail("it was encoded again"))
        decoded: list[int] = []
        monkeypatch.setattr(codec.Codec, "decode", _noting(decoded))
        outcome = (await outcomes(edge, [framed]))[1]
        answers = wire.response_from_pb(outcome.reply, 3, 4)
    assert set(answers.predictions.tiers.tolist()) == {Tier.CLOUD}
    assert not answers.predictions.reasons.any()
    assert len(decoded) == 1


def _noting(decoded: list[int]) -> Callable[[codec.Codec, Payload], Any]:
    decode = codec.Codec.decode

    def noting(by: codec.Codec, payload: Payload) -> Any:
        decoded.append(payload.shape[0])
        return decode(by, payload)

    return noting


async def test_what_cannot_pass_on_is_decoded_and_run_where_it_is(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny, "127.0.0.1:1") as edge:
        outcome = (await outcomes(edge, [asking(tiny, "r1", BEYOND, 3)]))[1]
        answers = wire.response_from_pb(outcome.reply, 3, 4).predictions
    assert answers.tiers.tolist() == [Tier.EDGE] * 3
    assert answers.reasons.tolist() == [DegradedReason.UPSTREAM_UNAVAILABLE] * 3


@pytest.mark.parametrize("by", [name for name in codec.CODECS if name != "fp32"])
async def test_what_passes_has_its_checksum_and_lengths_looked_at(tiny: Path, by: str) -> None:
    stages = (*BEYOND.stages[:1], Stage(Tier.EDGE, Segment(2, 2), by), Stage(Tier.CLOUD, Segment(2, 8), by))
    payload = codec.get(by).encode(np.random.default_rng(0).random((2, 4, 8, 8), np.float32))
    short = bytes(payload.data)[:-1]
    async with upper(Tier.EDGE, tiny, "127.0.0.1:1") as edge, calling(edge.address) as call:
        for data, crc in ((bytes(payload.data), 1), (short, codec.checksum(payload.parameters, short))):
            message = asking(tiny, "r1", Plan(stages)).header
            message.activation.CopyFrom(wire.payload_to_pb(payload))
            message.activation.payload, message.activation.crc32c = data, crc
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(f"{TIER}/Infer", message)
            assert reason(error.value) == "CORRUPT_PAYLOAD"
