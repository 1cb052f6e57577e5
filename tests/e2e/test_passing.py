"""Activations that pass a tier as they came: only time can tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from services import bundle, codec, exchange_frames, wire
from services.connection import EXCHANGE
from services.domain import DegradedReason, Payload, Plan, Segment, Stage, Tier
from services.framing import Framed
from services.pb.offramp.v1 import tier_pb2 as pb
from tests.calls import TIER, calling, reason
from tests.tiers import Running, upper

HERE = Plan((Stage(Tier.DEVICE, Segment(0, 2)), Stage(Tier.EDGE, Segment(2, 8), "int8")))
BEYOND = Plan((*HERE.stages[:1], Stage(Tier.EDGE, Segment(2, 2), "int8"), Stage(Tier.CLOUD, Segment(2, 8), "int8")))


def asking(tiny: Path, name: str, plan: Plan = HERE, count: int = 1) -> Framed:
    samples = np.random.default_rng(int(name[1:])).random((count, 4, 8, 8), np.float32)
    payload: Payload = codec.get("int8").encode(samples)
    header = pb.InferRequest(
        request_id=name, model_hash=bundle.load(tiny).manifest.model_hash, plan=wire.plan_to_pb(plan), at=2
    )
    return Framed(header, wire.payload_to_pb(payload), bytes(payload.data))


async def outcomes(edge: Running, asked: list[Framed]) -> dict[int, Any]:
    """What becomes of `asked`, all sent in one message, by their number from 1."""
    async with grpc.aio.insecure_channel(edge.address) as channel:
        call = channel.stream_stream(EXCHANGE)()
        await call.write(exchange_frames.request(list(enumerate(asked, 1))))
        await call.done_writing()
        found: dict[int, Any] = {}
        while isinstance(data := await call.read(), bytes):
            found |= {outcome.number: outcome for outcome in pb.ExchangeReply.FromString(data).outcomes}
        return found


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
