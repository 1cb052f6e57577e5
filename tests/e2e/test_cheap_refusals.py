"""What can be refused by looking at a header is refused before anything is decoded, which may take long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from services import bundle, codec, wire
from services.domain import FloatArray, Payload, Plan, Tier
from services.pb.offramp.v1 import tier_pb2 as pb
from tests.calls import TIER, calling, reason
from tests.tiers import upper

PLAN = "device 0:2 > edge 2:4 int8 > cloud 4:8 int8"
PASSING = "device 0:2 > edge 2:2 int8 > cloud 2:8 int8"


def planned(text: str) -> Callable[[pb.InferRequest], object]:
    return lambda message: message.plan.CopyFrom(wire.plan_to_pb(Plan.parse(text)))


def late(message: pb.InferRequest) -> None:
    message.remaining_seconds = 1e-9


def late_in_passing(message: pb.InferRequest) -> None:
    planned(PASSING)(message)
    late(message)


def infer(tiny: Path) -> pb.InferRequest:
    payload = codec.get("int8").encode(np.ones((2, 4, 8, 8), np.float32))
    activation = wire.payload_to_pb(payload)
    activation.payload = bytes(payload.data)
    message = pb.InferRequest(model_hash=bundle.load(tiny).manifest.model_hash, at=2, activation=activation)
    planned(PLAN)(message)
    return message


@pytest.fixture
def looked_into(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done with payloads."""
    done, decode, check = list[str](), codec.Codec.decode, codec.Codec.check

    def decoding(by: codec.Codec, payload: Payload) -> FloatArray:
        done.append("decode")
        return decode(by, payload)

    def checking(by: codec.Codec, payload: Payload) -> None:
        done.append("check")
        check(by, payload)

    monkeypatch.setattr(codec.Codec, "decode", decoding)
    monkeypatch.setattr(codec.Codec, "check", checking)
    return done


@pytest.mark.parametrize("exchange", [False, True], ids=["Infer", "Exchange"])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (planned("device 0:2 > edge 2:4 int8 > cloud 5:8 int8"), "INVALID_INPUT"),
        (planned("device 0:2 > cloud 2:8 int8"), "INVALID_INPUT"),
        (planned("device 0:3 > edge 3:4 int8 > cloud 4:8 int8"), "INVALID_INPUT"),
        (planned("device 0:2 > edge 2:8 int8"), "NOT_HELD"),
        (lambda message: message.thresholds.append(0.5), "INVALID_INPUT"),
        (late, "DEADLINE_EXCEEDED"),
        (late_in_passing, "DEADLINE_EXCEEDED"),
    ],
    ids=["gap", "passed by", "another part", "not held", "thresholds", "late", "late in passing"],
)
async def test_what_a_header_gives_away_is_refused_before_its_payload_is_looked_into(
    tiny: Path, looked_into: list[str], change: Callable[[Any], object], why: str, exchange: bool
) -> None:
    async with upper(Tier.EDGE, tiny, "127.0.0.1:1", holds="2:4") as edge, calling(edge.address, exchange) as call:
        message = infer(tiny)
        change(message)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(f"{TIER}/Infer", message)
        assert (reason(error.value), looked_into) == (why, [])
        await call(f"{TIER}/Infer", infer(tiny))
        assert looked_into == ["decode"]
