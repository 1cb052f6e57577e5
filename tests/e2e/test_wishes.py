"""What a request's parameters change about its journey, at every tier's public door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from device_agent.agent import Agent, merged
from device_agent.agents import Agents
from services import bundle, process
from services.domain import Objective, Policy, Segment, Tier
from services.front import Wishes
from services.open_inference import messages
from services.open_inference.door import OpenInference
from services.server import TierServer
from services.settings import DeviceSettings
from tests.calls import DOOR, Call, arrays, asking, calling, reason
from tests.tiers import device, three_tiers, upper

FORCED = {"exit_threshold": 1.5}


@pytest.fixture(scope="module")
def pixels(tiny: Path) -> np.ndarray:
    return bundle.load_samples(bundle.load(tiny))[0][..., None]


async def ask(call: Call, samples: np.ndarray, **parameters: Any) -> Any:
    request = asking(samples)
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in parameters.items():
        setattr(request.parameters[name], kinds[type(value)], value)
    return await call(f"{DOOR}/ModelInfer", request)


async def refused(call: Call, samples: np.ndarray, **parameters: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await ask(call, samples, **parameters)
    return reason(error.value), error.value.details() or ""


def plan_of(reply: Any) -> str:
    return str(reply.parameters["plan"].string_param)


def exits(reply: Any) -> set[int]:
    return set(arrays(reply)["exit_index"].tolist())


@asynccontextmanager
async def planning(path: Path, **settings: Any) -> AsyncIterator[Call]:
    """The device as it runs, planner and all, with edge and cloud."""
    async with upper(Tier.CLOUD, path) as cloud, upper(Tier.EDGE, path, cloud.address) as edge:
        given = DeviceSettings(bundle=path, next=edge.address, **settings)
        uplink = process.uplink(Tier.DEVICE, given)
        models = process.models(Tier.DEVICE, given, uplink)
        agents = Agents(models, uplink, given)
        server = TierServer([OpenInference(models, 64, 10.0).service()], models.limiter)
        port = await server.start("127.0.0.1:0")
        await asyncio.to_thread(process.warm, models, given)
        await agents.start()
        await server.ready()
        try:
            async with calling(f"127.0.0.1:{port}") as call:
                yield call
        finally:
            await server.drain(0, 0)
            await agents.stop()
            await process.close(models, uplink)


@pytest.mark.parametrize("furthest", [0, 1, 2])
async def test_nobody_goes_beyond_the_furthest_exit(tiny: Path, pixels: np.ndarray, furthest: int) -> None:
    async with three_tiers(tiny) as tiers, calling(tiers.device.address) as call:
        assert exits(await ask(call, pixels, max_exit=furthest, **FORCED)) == {furthest}
        assert max(exits(await ask(call, pixels, max_exit=furthest))) == furthest


async def test_a_request_may_bring_its_own_split(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, calling(tiers.device.address) as call:
        reply = await ask(call, pixels[:2], split="3,5", **FORCED)
        assert plan_of(reply) == "device 0:3 > edge 3:5 int8+zstd > cloud 5:8 int8+zstd"
        assert set(arrays(reply)["tier_index"].tolist()) == {2}
        why, text = await refused(call, pixels[:2], split="5,3")
        assert (why, "split: splits 5,3 must be rising and within 0..8" in text) == ("INVALID_INPUT", True)
        why, _ = await refused(call, pixels[:2], split="2,9")
        assert why == "INVALID_INPUT"


async def test_a_priority_holds_in_the_queue_of_every_tier(tiny: Path, pixels: np.ndarray) -> None:
    async with (
        upper(Tier.EDGE, tiny, max_in_flight=8) as edge,
        device(tiny, edge.address, splits="2,8") as front,
        calling(front.address) as call,
    ):
        edge.models.first.limiter.hold(6)  # three quarters
        tiers = [set(arrays(await ask(call, pixels, priority=p, **FORCED))["tier_index"].tolist()) for p in (0, 1, 2)]
        assert edge.models.first.limiter.rejected["QUEUE_FULL"] > 0
        edge.models.first.limiter.hold(-6)
    assert tiers == [{1}, {1}, {0}]


async def test_settings_reach_the_queue_and_the_link(tiny: Path, pixels: np.ndarray) -> None:
    async with upper(Tier.EDGE, tiny, adaptive_limit=True, max_in_flight=32) as edge, calling(edge.address) as call:
        limiter = edge.models.first.limiter
        assert limiter.adaptive is not None
        await ask(call, pixels[:1])
        assert 0 < limiter.adaptive._unloaded_seconds < 5
        given = DeviceSettings(bundle=tiny, next=edge.address, hedge_after_seconds=0.05)
        uplink = process.uplink(Tier.DEVICE, given)
        assert uplink is not None
        assert uplink._hedge_after == 0.05
        await uplink.close()


async def test_a_part_that_is_not_held_is_refused(tiny: Path, pixels: np.ndarray) -> None:
    async with device(tiny, splits="2,2", holds=Segment(0, 2)) as front, calling(front.address) as call:
        why, text = await refused(call, pixels[:1], split="4,8")
    assert (why, "holds 0:2" in text) == ("NOT_HELD", True)


async def test_the_raw_input_stays_where_a_request_says_so(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny, splits="0,4") as tiers, calling(tiers.device.address) as call:
        assert plan_of(await ask(call, pixels[:1])).startswith("device 0:0 ")
        assert plan_of(await ask(call, pixels[:1], privacy=False)).startswith("device 0:0 ")
        assert plan_of(await ask(call, pixels[:1], privacy=True)).startswith("device 0:2 ")
        why, text = await refused(call, pixels[:1], privacy=True, split="0,4")
    assert (why, text.startswith("privacy: the raw input would leave")) == ("INVALID_INPUT", True)


async def test_no_request_lifts_what_the_settings_promise(tiny: Path, pixels: np.ndarray) -> None:
    async with planning(tiny, privacy=True, profile_seconds=1.0) as call:
        assert not plan_of(await ask(call, pixels[:1], privacy=False)).startswith("device 0:0")
        why, _ = await refused(call, pixels[:1], privacy=False, split="0,4")
    assert why == "INVALID_INPUT"
    kept = Policy(min_accuracy=0.9, privacy=True)
    manifest = bundle.load(tiny).manifest
    assert merged(kept, Wishes(min_accuracy=0.5), manifest) == kept
    assert merged(kept, Wishes(min_accuracy=0.95), manifest) == replace(kept, min_accuracy=0.95)
    assert merged(kept, Wishes(objective=Objective.BYTES), manifest) == replace(kept, objective=Objective.BYTES)


async def test_a_policy_of_its_own_gets_a_plan_of_its_own(tiny: Path, pixels: np.ndarray) -> None:
    async with planning(tiny, profile_seconds=2.0) as call:
        async with asyncio.timeout(20):
            while len((plan := plan_of(await ask(call, pixels[:1], policy="bytes"))).split(" > ")) > 1:
                await asyncio.sleep(0.05)
        assert plan == "device 0:8"  # nothing sends fewer bytes than staying
        for objective in ("latency", "energy"):
            await ask(call, pixels[:1], policy=objective, min_accuracy=0.1)
        why, text = await refused(call, pixels[:1], policy="cheap")
    assert (why, text) == ("INVALID_INPUT", "policy must be one of latency, energy, bytes")


async def test_a_timeout_shortens_the_deadline(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, calling(tiers.device.address) as call:
        why, _ = await refused(call, pixels[:1], timeout=1)
        assert why == "DEADLINE_EXCEEDED"
        assert not arrays(await ask(call, pixels[:1], timeout="5000000", **FORCED))["degraded"].any()
        assert not arrays(await ask(call, pixels[:1], timeout=0, **FORCED))["degraded"].any()


async def test_every_tier_has_the_door_and_runs_what_is_its_share(tiny: Path, pixels: np.ndarray) -> None:
    expected = ("device 0:2 > edge 2:4 int8+zstd > cloud 4:8 int8+zstd", "edge 0:4 fp32 > cloud 4:8 int8+zstd")
    async with three_tiers(tiny) as tiers:
        labels = []
        for tier, plan in zip((tiers.device, tiers.edge, tiers.cloud), (*expected, "cloud 0:8 fp32"), strict=True):
            async with calling(tier.address) as call:
                reply = await ask(call, pixels, **FORCED)
                assert plan_of(reply) == plan
                assert (exits(reply), reply.parameters["request_id"].string_param) == ({2}, reply.id)
                labels.append(arrays(reply)["label"])
                told = await call(f"{DOOR}/ModelMetadata", messages.ModelMetadataRequest())
                assert told.name == "tiny"
    assert np.mean(labels[0] == labels[2]) > 0.8
    assert np.mean(labels[1] == labels[2]) > 0.8


async def test_the_parameters_hold_at_the_edge_and_the_cloud_too(tiny: Path, pixels: np.ndarray) -> None:
    async with upper(Tier.CLOUD, tiny) as cloud, upper(Tier.EDGE, tiny, cloud.address) as edge:
        async with calling(edge.address) as call:
            assert plan_of(await ask(call, pixels[:1], split="2,6")) == "edge 0:6 fp32 > cloud 6:8 int8+zstd"
            assert exits(await ask(call, pixels, max_exit=1, **FORCED)) == {1}
            why, text = await refused(call, pixels[:1], split="0,0", privacy=True)
            assert (why, "leave the edge" in text) == ("INVALID_INPUT", True)
        async with calling(cloud.address) as call:
            assert exits(await ask(call, pixels, max_exit=0, **FORCED)) == {0}
            reply = await ask(call, pixels[:1], policy="bytes", privacy=True, split="2,6", trace=True)
            assert plan_of(reply) == "cloud 0:8 fp32"
            assert "trace" in reply.parameters


async def test_an_edge_alone_runs_all_of_it(tiny: Path, pixels: np.ndarray) -> None:
    async with upper(Tier.EDGE, tiny) as edge, calling(edge.address) as call:
        reply = await ask(call, pixels, **FORCED)
    assert (plan_of(reply), exits(reply)) == ("edge 0:8 fp32", {2})
    assert not arrays(reply)["degraded"].any()


async def test_an_edge_that_holds_less_goes_on_where_it_ends(tiny: Path, pixels: np.ndarray) -> None:
    async with (
        upper(Tier.CLOUD, tiny) as cloud,
        upper(Tier.EDGE, tiny, cloud.address, holds=Segment(0, 3)) as edge,
        calling(edge.address) as call,
    ):
        assert plan_of(await ask(call, pixels[:1])) == "edge 0:3 fp32 > cloud 3:8 int8+zstd"


async def test_the_configuration_tells_a_load_generator_enough(tiny: Path) -> None:
    async with device(tiny, max_batch=32) as front, calling(front.address) as call:
        config = (await call(f"{DOOR}/ModelConfig", messages.ModelConfigRequest(name="tiny"))).config
        server = await call(f"{DOOR}/ServerMetadata", messages.ServerMetadataRequest())
        described = await call(f"{DOOR}/ModelMetadata", messages.ModelMetadataRequest(name="tiny"))
    assert (config.name, config.platform, config.max_batch_size) == ("tiny", "onnx_onnxv1", 32)
    assert config.model_transaction_policy.decoupled
    assert [(each.name, list(each.dims), each.optional) for each in config.input] == [
        ("input", [1, 8, 8], False),
        ("image", [8, 8, 1], True),
    ]
    assert [each.name for each in config.output] == [each.name for each in described.outputs]
    assert {"model_configuration", "statistics", "model_repository", "schedule_policy"} <= set(server.extensions)


@pytest.mark.parametrize("name", ["classification", "shared_memory_region"])
async def test_an_output_that_would_be_something_else_is_refused(tiny: Path, pixels: np.ndarray, name: str) -> None:
    request = asking(pixels[:1])
    request.outputs.add(name="scores").parameters[name].int64_param = 3
    async with device(tiny) as front, calling(front.address) as call:
        with pytest.raises(grpc.aio.AioRpcError, match=name) as error:
            await call(f"{DOOR}/ModelInfer", request)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_settings_reach_an_agent(tiny: Path) -> None:
    given = DeviceSettings(bundle=tiny, codecs="fp32,fp16", profile_seconds=0.0)
    models = process.models(Tier.DEVICE, given, None)
    agents = Agents(models, None, given)
    assert isinstance(models.first.front, Agent)
    assert str(agents.first.plan()) == "device 0:2 > edge 2:4 fp32 > cloud 4:8 fp16"
    await agents.stop()
    await process.close(models, None)


@pytest.mark.parametrize("tier", list(Tier))
async def test_parameters_that_nobody_understands_are_named_in_the_answer(
    tiny: Path, pixels: np.ndarray, tier: Tier
) -> None:
    async with three_tiers(tiny) as tiers:
        address = (tiers.device, tiers.edge, tiers.cloud)[tier].address
        async with calling(address) as call:
            reply = await ask(call, pixels[:1], exit_thresold=0.9, max_exit=1, privcy=True)
            plain = await ask(call, pixels[:1], max_exit=1)
    assert reply.parameters["ignored_parameters"].string_param == "exit_thresold,privcy"
    assert "ignored_parameters" not in plain.parameters
