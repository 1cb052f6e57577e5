"""What one tier serves to the tier below it: over raw messages, as a stranger would send them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from services import bundle, codec, wire
from services.client import GrpcNextTier
from services.domain import Deadline, Plan, Request, Segment, Stage, Tier
from services.errors import InvalidInput
from services.pb.offramp.v1 import tier_pb2 as pb
from services.uplink import Uplink
from services.wire_names import CODEC_TO_PB
from tests.calls import DOOR, HEALTH, TIER, Call, calling, reason, until
from tests.tiers import device, upper

BAD, BIG = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
PLAN = Plan(
    (
        Stage(Tier.DEVICE, Segment(0, 2)),
        Stage(Tier.EDGE, Segment(2, 8), "int8"),
        Stage(Tier.CLOUD, Segment(8, 8), "fp32"),
    )
)


@pytest.fixture(params=["unary", "exchange"])
async def call(tiny: Path, request: pytest.FixtureRequest) -> AsyncIterator[Call]:
    """An edge that takes 16 samples; asserts at the end that it still answers."""
    exchange = request.param == "exchange"
    async with upper(Tier.EDGE, tiny, max_batch=16) as edge, calling(edge.address, exchange) as call:
        yield call
        reply = await call(f"{TIER}/Infer", infer(tiny))
        assert len(reply.predictions.exits) == 2
        assert edge.limiter.in_flight == 0


def infer(tiny: Path, change: Callable[[Any], object] = lambda message: None, count: int = 2, by: str = "int8") -> Any:
    rng = np.random.default_rng(0)
    payload = codec.get(by).encode(rng.random((count, 4, 8, 8), np.float32))
    activation = wire.payload_to_pb(payload)
    activation.payload = bytes(payload.data)
    message = pb.InferRequest(
        request_id="r1",
        model_hash=bundle.load(tiny).manifest.model_hash,
        plan=wire.plan_to_pb(PLAN),
        at=2,
        activation=activation,
    )
    change(message)
    return message


async def refused(call: Call, path: str, request: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(path, request)
    return error.value


@pytest.mark.parametrize("by", list(codec.CODECS))
async def test_an_activation_in_any_codec_is_answered(call: Call, tiny: Path, by: str) -> None:
    reply = await call(f"{TIER}/Infer", infer(tiny, count=5, by=by))
    answers = wire.response_from_pb(reply, 5, 4)
    assert set(answers.predictions.tiers.tolist()) == {Tier.EDGE}
    assert not answers.predictions.reasons.any()
    assert [hop.tier for hop in answers.trace.hops] == [Tier.EDGE]
    assert answers.trace.hops[0].compute_seconds > 0
    assert answers.profiles[0].segments


@pytest.mark.parametrize("by", codec.IMAGE)
async def test_an_input_as_images_is_answered_and_refused_behind_the_first_split_point(
    call: Call, tiny: Path, by: str
) -> None:
    manifest = bundle.load(tiny).manifest
    inputs = np.random.default_rng(0).random((2, *manifest.input.shape), np.float32)
    payload = codec.get(by, manifest.input.preprocessing).encode(inputs)

    def from_the_input(message: Any) -> None:
        whole = Plan((Stage(Tier.EDGE, Segment(0, 8), by),))
        message.plan.CopyFrom(wire.plan_to_pb(whole))
        message.at = 0
        message.activation.CopyFrom(wire.payload_to_pb(payload))
        message.activation.payload = bytes(payload.data)

    reply = await call(f"{TIER}/Infer", infer(tiny, from_the_input))
    assert wire.response_from_pb(reply, 2, 4).predictions.tiers.tolist() == [Tier.EDGE] * 2
    error = await refused(call, f"{TIER}/Infer", infer(tiny, lambda m: setattr(m.activation, "codec", CODEC_TO_PB[by])))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    assert "split point 0" in (error.details() or "")


async def test_a_tier_sends_its_input_as_an_image_but_no_other_activation(tiny: Path) -> None:
    manifest = bundle.load(tiny).manifest
    inputs = np.random.default_rng(0).random((2, *manifest.input.shape), np.float32)
    plan = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, 8), "png")))
    request = Request("r1", manifest.model_hash, plan, 0, inputs, Deadline.after(10.0))
    async with upper(Tier.EDGE, tiny) as edge:
        uplink = Uplink(Tier.DEVICE, edge.address)
        above = GrpcNextTier(uplink, 4, manifest.input.preprocessing)
        forwarded = await above.infer(request, "png")
        assert forwarded.response.predictions.tiers.tolist() == [Tier.EDGE] * 2
        with pytest.raises(InvalidInput, match="split point 0"):
            await above.infer(replace(request, at=2), "png")
        await uplink.close()


async def test_another_model_fails_its_precondition_with_both_hashes(call: Call, tiny: Path) -> None:
    error = await refused(call, f"{TIER}/Infer", infer(tiny, lambda m: setattr(m, "model_hash", "f" * 64)))
    assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_MISMATCH")
    assert "f" * 64 in (error.details() or "")
    assert bundle.load(tiny).manifest.model_hash in (error.details() or "")


def reshaped(*shape: int) -> Callable[[Any], object]:
    def change(message: Any) -> None:
        del message.activation.shape[:]
        message.activation.shape.extend(shape)

    return change


def signed(change: Callable[[Any], object]) -> Callable[[Any], object]:
    """`change` to the activation, with a checksum that fits it."""

    def changed(message: Any) -> None:
        change(message.activation)
        message.activation.crc32c = codec.checksum(message.activation.parameters, message.activation.payload)

    return changed


def stages(*parts: tuple[int, int, int]) -> Callable[[Any], object]:
    def change(message: Any) -> None:
        del message.plan.stages[:]
        for tier, start, end in parts:
            message.plan.stages.add(tier=tier, start=start, end=end, codec=1)

    return change


WRONG: list[tuple[str, Callable[[Any], object], grpc.StatusCode, str]] = [
    (
        "hash that goes on",
        lambda m: setattr(m, "model_hash", "é" * 90_000),
        grpc.StatusCode.FAILED_PRECONDITION,
        "MODEL_MISMATCH",
    ),
    ("split point", lambda m: setattr(m, "at", 3), BAD, "INVALID_INPUT"),
    ("split point beyond", lambda m: setattr(m, "at", 4_000_000_000), BAD, "INVALID_INPUT"),
    ("no activation", lambda m: m.ClearField("activation"), BAD, "INVALID_INPUT"),
    ("no plan", lambda m: m.ClearField("plan"), BAD, "INVALID_INPUT"),
    ("plan with a gap", stages((1, 0, 2), (2, 2, 4), (3, 5, 8)), BAD, "INVALID_INPUT"),
    ("plan past the edge", stages((1, 0, 2), (3, 2, 8)), BAD, "INVALID_INPUT"),
    ("plan backwards", stages((2, 0, 2), (1, 2, 4), (3, 4, 8)), BAD, "INVALID_INPUT"),
    ("plan of four", stages((1, 0, 2), (2, 2, 4), (3, 4, 5), (3, 5, 8)), BAD, "INVALID_INPUT"),
    ("plan of nobody", stages((0, 0, 8)), BAD, "INVALID_INPUT"),
    ("plan that starts elsewhere", stages((1, 0, 3), (2, 3, 8)), BAD, "INVALID_INPUT"),
    ("shape", reshaped(2, 4, 8, 9), BAD, "INVALID_INPUT"),
    ("no shape", reshaped(), BAD, "INVALID_INPUT"),
    ("many dimensions", reshaped(*[1] * 100_000), BAD, "INVALID_INPUT"),
    ("huge dimensions", reshaped(2, 2**40, 2**40, 8), BAD, "INVALID_INPUT"),
    ("negative batch", reshaped(-2, 4, 8, 8), BAD, "INVALID_INPUT"),
    ("empty batch", reshaped(0, 4, 8, 8), BAD, "INVALID_INPUT"),
    ("huge batch", reshaped(2**60, 4, 8, 8), BIG, "TOO_LARGE"),
    ("batch over the limit", reshaped(17, 4, 8, 8), BIG, "TOO_LARGE"),
    ("batch that is not there", reshaped(3, 4, 8, 8), BAD, "CORRUPT_PAYLOAD"),
    ("dtype", lambda m: setattr(m.activation, "dtype", 0), BAD, "INVALID_INPUT"),
    ("no codec", lambda m: setattr(m.activation, "codec", 0), BAD, "INVALID_INPUT"),
    ("codec of tomorrow", lambda m: setattr(m.activation, "codec", 99), BAD, "INVALID_INPUT"),
    ("codec of another", lambda m: setattr(m.activation, "codec", pb.CODEC_FP32), BAD, "CORRUPT_PAYLOAD"),
    ("no zstd", lambda m: setattr(m.activation, "codec", pb.CODEC_INT8_ZSTD), BAD, "CORRUPT_PAYLOAD"),
    ("checksum", lambda m: setattr(m.activation, "crc32c", 1), BAD, "CORRUPT_PAYLOAD"),
    ("truncated", signed(lambda a: setattr(a, "payload", a.payload[:-1])), BAD, "CORRUPT_PAYLOAD"),
    ("padded", signed(lambda a: setattr(a, "payload", a.payload + b"\0")), BAD, "CORRUPT_PAYLOAD"),
    ("parameters", signed(lambda a: setattr(a, "parameters", a.parameters[:-1])), BAD, "CORRUPT_PAYLOAD"),
    ("NaN scale", signed(lambda a: setattr(a, "parameters", b"\xff" * len(a.parameters))), BAD, "CORRUPT_PAYLOAD"),
    ("thresholds", lambda m: m.thresholds.append(0.5), BAD, "INVALID_INPUT"),
    ("long id", lambda m: setattr(m, "request_id", "x" * 201), BAD, "INVALID_INPUT"),
]


@pytest.mark.parametrize(("change", "code", "why"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
async def test_a_wrong_activation_gets_its_status_and_reason(
    call: Call, tiny: Path, change: Callable[[Any], object], code: grpc.StatusCode, why: str
) -> None:
    error = await refused(call, f"{TIER}/Infer", infer(tiny, change))
    assert (error.code(), reason(error)) == (code, why)
    assert error.details()


@pytest.mark.parametrize("body", [b"\xff" * 8, b"\x7a\xff\xff\xff\xff\x0f", b"\x0a\x01\xff"])
async def test_bytes_that_are_no_message_are_refused(call: Call, body: bytes) -> None:
    error = await refused(call, f"{TIER}/Infer", body)
    assert (error.code(), reason(error)) == (BAD, "INVALID_INPUT")


async def test_a_message_over_the_limit_is_refused(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny, max_message_bytes=1 << 16) as edge, calling(edge.address) as call:
        error = await refused(call, f"{TIER}/Infer", infer(tiny, count=200, by="fp32"))
        assert error.code() is BIG
        await call(f"{TIER}/Infer", infer(tiny))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "remaining_seconds", -5.0),
        lambda m: setattr(m, "remaining_seconds", float("nan")),
        lambda m: m.thresholds.extend([0.5, -1.0, 0.5]),
        lambda m: m.thresholds.extend([0.5, float("nan"), 0.5]),
        lambda m: m.thresholds.extend([0.5] * 100_000),
        lambda m: setattr(m.plan.stages[1], "codec", 0),
    ],
)
async def test_numbers_that_make_no_sense_are_refused(call: Call, tiny: Path, change: Callable[[Any], object]) -> None:
    error = await refused(call, f"{TIER}/Infer", infer(tiny, change))
    assert (error.code(), reason(error)) == (BAD, "INVALID_INPUT")


async def test_what_a_caller_adds_to_a_plan_is_not_kept(call: Call, tiny: Path) -> None:
    def padded(message: pb.InferRequest) -> None:
        unknown = b"\xfa\x7f" + b"\x80\x80\x40" + b"x" * (1 << 20)  # field 2047, length 1 MiB
        message.plan.ParseFromString(message.plan.SerializeToString() + unknown)

    wire._plan.cache_clear()
    plain, stuffed = infer(tiny), infer(tiny, padded)
    assert stuffed.plan.ByteSize() > 1 << 20
    for message in (plain, stuffed, plain):
        await call(f"{TIER}/Infer", message)
    assert wire._plan.cache_info().currsize == 1


@pytest.mark.parametrize("remaining", [0.0, float("inf"), 1e300])
async def test_a_deadline_that_is_none_falls_back_to_the_tiers_own(call: Call, tiny: Path, remaining: float) -> None:
    reply = await call(f"{TIER}/Infer", infer(tiny, lambda m: setattr(m, "remaining_seconds", remaining)))
    assert len(reply.predictions.exits) == 2


async def test_time_that_ran_out_on_the_way_is_exceeded(call: Call, tiny: Path) -> None:
    error = await refused(call, f"{TIER}/Infer", infer(tiny, lambda m: setattr(m, "remaining_seconds", 1e-9)))
    assert (error.code(), reason(error)) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


async def test_a_tier_describes_itself(call: Call, tiny: Path) -> None:
    await call(f"{TIER}/Infer", infer(tiny))
    told = await call(f"{TIER}/Describe", pb.DescribeRequest())
    assert (told.tier, told.model_name, told.model_version) == (pb.TIER_NAME_EDGE, "tiny", "1")
    assert told.model_hash == bundle.load(tiny).manifest.model_hash
    assert told.split_points == 9
    assert told.offramp_version == metadata.version("offramp")
    assert {time.batch_size for time in told.profile.segments} == {2}


async def test_a_probe_returns_what_was_asked_for_and_no_more(call: Call) -> None:
    reply = await call(f"{TIER}/Probe", pb.ProbeRequest(padding=bytes(100_000), reply_bytes=65536))
    assert len(reply.padding) == 65536
    assert 0 <= reply.held_seconds < 1
    error = await refused(call, f"{TIER}/Probe", pb.ProbeRequest(reply_bytes=65537))
    assert (error.code(), reason(error)) == (BIG, "TOO_LARGE")
    assert len((await call(f"{TIER}/Probe", pb.ProbeRequest())).padding) == 0


async def test_health_knows_the_names_that_probes_use(tiny: Path) -> None:
    check = health_pb2.HealthCheckRequest
    async with upper(Tier.EDGE, tiny) as edge, calling(edge.address) as call:
        for name in ("", "liveness", "readiness", TIER, DOOR):
            assert (await call(f"{HEALTH}/Check", check(service=name))).status == health_pb2.HealthCheckResponse.SERVING
        error = await refused(call, f"{HEALTH}/Check", check(service="inference.Other"))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_health_answers_while_a_tier_is_full(tiny: Path) -> None:
    check = health_pb2.HealthCheckRequest(service="readiness")
    async with upper(Tier.EDGE, tiny, max_in_flight=1) as edge, calling(edge.address) as call:
        with edge.limiter.admit():
            assert reason(await refused(call, f"{TIER}/Infer", infer(tiny))) == "QUEUE_FULL"
            assert (await call(f"{HEALTH}/Check", check)).status == health_pb2.HealthCheckResponse.SERVING


async def test_health_says_so_while_draining(tiny: Path) -> None:
    check = health_pb2.HealthCheckRequest(service="readiness")
    async with upper(Tier.EDGE, tiny) as edge, calling(edge.address) as call:
        await call(f"{HEALTH}/Check", check)
        draining = asyncio.create_task(edge.server.drain(0.5, 5))
        async with asyncio.timeout(5):
            while (await call(f"{HEALTH}/Check", check)).status == health_pb2.HealthCheckResponse.SERVING:
                await asyncio.sleep(0.01)
        assert len((await call(f"{TIER}/Infer", infer(tiny))).predictions.exits) == 2
        await draining


async def test_a_draining_tier_says_so_as_long_as_a_request_is_in_flight(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny) as edge, calling(edge.address) as call:
        with edge.limiter.admit():
            draining = asyncio.create_task(edge.server.drain(0, 20))
            await until(lambda: asyncio.sleep(0, edge.limiter.draining))
            for _ in range(60):
                error = await refused(call, f"{TIER}/Infer", infer(tiny))
                assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert not draining.done()
        await asyncio.wait_for(draining, 10)


def reflected(address: str, path: str, **fields: Any) -> tuple[list[str], Any]:
    """The services at `address`, and a call to one of them, knowing nothing but the address."""
    service, _, method = path.partition("/")
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        names = list(database.get_services())
        described = DescriptorPool(database).FindServiceByName(service).FindMethodByName(method)
        request = message_factory.GetMessageClass(described.input_type)(**fields)
        reply = message_factory.GetMessageClass(described.output_type)
        stub = channel.unary_unary(f"/{path}", lambda m: m.SerializeToString(), reply.FromString)
        return names, stub(request, timeout=10)


async def test_a_client_can_call_from_reflection_alone(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny) as edge, device(tiny, edge.address) as front:
        names, told = await asyncio.to_thread(reflected, edge.address, f"{TIER}/Describe")
        door, model = await asyncio.to_thread(reflected, front.address, f"{DOOR}/ModelMetadata", name="tiny")
        _, health = await asyncio.to_thread(reflected, front.address, f"{HEALTH}/Check", service="readiness")
    assert {TIER, HEALTH} <= set(names)
    assert {DOOR, HEALTH} <= set(door)
    assert TIER not in door
    assert (told.model_name, told.tier) == ("tiny", pb.TIER_NAME_EDGE)
    assert [tensor.name for tensor in model.inputs] == ["input", "image"]
    assert health.status == health_pb2.HealthCheckResponse.SERVING
