"""The six calls of the public protocol, over the wire."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from device_agent.client import AsyncClient
from services import bundle, process
from services.domain import Tier
from services.errors import InvalidInput
from services.open_inference import messages
from services.open_inference.door import OpenInference
from services.open_inference.replies import OUTPUTS
from services.server import TierServer
from services.settings import DeviceSettings
from tests.calls import DOOR, HEALTH, arrays, asking, calling, reason
from tests.networks import CLASSES
from tests.tiers import device, three_tiers

INDEX = f"{DOOR}/RepositoryIndex"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def pixels(tiny: Path) -> np.ndarray:
    return bundle.load_samples(bundle.load(tiny))[0][..., None]


@pytest.fixture(scope="module")
def numbers(pixels: np.ndarray) -> np.ndarray:
    """What `pixels` become by the tiny model's preprocessing."""
    scaled = (pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


async def test_the_server_is_live_and_ready_and_says_who_it_is(tiny: Path) -> None:
    async with device(tiny) as front, calling(front.address) as call:
        assert (await call(f"{DOOR}/ServerLive", messages.ServerLiveRequest())).live
        assert (await call(f"{DOOR}/ServerReady", messages.ServerReadyRequest())).ready
        assert (await call(f"{DOOR}/ModelReady", messages.ModelReadyRequest(name="tiny", version="1"))).ready
        server = await call(f"{DOOR}/ServerMetadata", messages.ServerMetadataRequest())
    assert (server.name, server.version) == ("offramp", metadata.version("offramp"))
    assert "binary_tensor_data" in server.extensions


async def test_until_it_is_warm_a_server_is_live_not_ready_and_refuses_for_now(tiny: Path, pixels: np.ndarray) -> None:
    given = DeviceSettings(bundle=tiny, profile_seconds=0)
    models = process.models(Tier.DEVICE, given, None)
    server = TierServer([OpenInference(models, 8, 5.0).service()], models.limiter)
    port = await server.start("127.0.0.1:0")
    health = health_pb2.HealthCheckRequest
    try:
        async with calling(f"127.0.0.1:{port}") as call:
            assert (await call(f"{DOOR}/ServerLive", messages.ServerLiveRequest())).live
            assert not (await call(f"{DOOR}/ServerReady", messages.ServerReadyRequest())).ready
            assert (await call(f"{HEALTH}/Check", health(service="liveness"))).status == SERVING
            for name in ("", "readiness", DOOR):
                assert (await call(f"{HEALTH}/Check", health(service=name))).status == NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(f"{DOOR}/ModelInfer", asking(pixels[:1]))
            assert (refused.value.code(), reason(refused.value)) == (grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_READY")
            assert [(m.state, m.reason) for m in (await call(INDEX, messages.RepositoryIndexRequest())).models] == [
                ("LOADING", "warming up")
            ]
            process.warm(models, given)
            await server.ready()
            await call(f"{DOOR}/ModelInfer", asking(pixels[:1]))
            assert (await call(f"{HEALTH}/Check", health(service=""))).status == SERVING
    finally:
        await server.drain(0, 0)
        models.close()


async def test_a_draining_server_is_live_and_not_ready(tiny: Path) -> None:
    async with device(tiny) as front, calling(front.address) as call:
        front.limiter.draining = True
        assert (await call(f"{DOOR}/ServerLive", messages.ServerLiveRequest())).live
        assert not (await call(f"{DOOR}/ServerReady", messages.ServerReadyRequest())).ready
        assert not (await call(f"{DOOR}/ModelReady", messages.ModelReadyRequest(name="tiny"))).ready


async def test_the_model_says_what_it_takes_and_gives(tiny: Path, pixels: np.ndarray) -> None:
    async with device(tiny) as front, calling(front.address) as call:
        model = await call(f"{DOOR}/ModelMetadata", messages.ModelMetadataRequest(name="tiny"))
        reply = await call(f"{DOOR}/ModelInfer", asking(pixels[:3]))
    assert (model.name, list(model.versions), model.platform) == ("tiny", ["1"], "onnx_onnxv1")
    assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [
        ("input", "FP32", [-1, 1, 8, 8]),
        ("image", "UINT8", [-1, 8, 8, 1]),
    ]
    assert not model.properties
    promised = {t.name: (t.datatype, [3 if size == -1 else size for size in t.shape]) for t in model.outputs}
    assert {t.name: (t.datatype, list(t.shape)) for t in reply.outputs} == promised


async def test_the_only_model_needs_no_name_to_describe_itself(tiny: Path) -> None:
    async with device(tiny) as front, calling(front.address) as call:
        assert (await call(f"{DOOR}/ModelMetadata", messages.ModelMetadataRequest())).name == "tiny"


async def test_raw_and_typed_and_pixels_and_numbers_give_one_answer(
    tiny: Path, pixels: np.ndarray, numbers: np.ndarray
) -> None:
    async with three_tiers(tiny) as tiers, calling(tiers.device.address) as call:
        replies = [
            arrays(await call(f"{DOOR}/ModelInfer", asking(samples, raw=raw)))
            for samples in (pixels, numbers)
            for raw in (True, False)
        ]
    for reply in replies[1:]:
        for name, array in reply.items():
            assert np.array_equal(array, replies[0][name]), name


async def test_answers_are_raw_and_of_the_kinds_promised(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, calling(tiers.device.address) as call:
        reply = await call(f"{DOOR}/ModelInfer", asking(pixels, id="my-id"))
    assert (reply.model_name, reply.model_version, reply.id) == ("tiny", "1", "my-id")
    assert {output.name: output.datatype for output in reply.outputs} == OUTPUTS
    assert not any(output.HasField("contents") for output in reply.outputs)
    got = arrays(reply)
    assert got["scores"].shape == (40, CLASSES)
    assert np.allclose(got["scores"].sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(got["label"], got["scores"].argmax(axis=1))
    assert np.array_equal(got["exit_confidence"][:, 0], got["scores"].max(axis=1))
    assert set(got["tier_index"].tolist()) == {0, 1, 2}
    assert not got["degraded"].any()


async def test_parameters_are_of_kinds_that_every_client_knows(tiny: Path, pixels: np.ndarray) -> None:
    asked = asking(pixels)
    asked.parameters["trace"].bool_param = True
    async with three_tiers(tiny) as tiers, calling(tiers.device.address) as call:
        reply = await call(f"{DOOR}/ModelInfer", asked)
    kinds = {name: value.WhichOneof("parameter_choice") for name, value in reply.parameters.items()}
    assert set(kinds.values()) <= {"bool_param", "int64_param", "string_param"}
    assert reply.parameters["tier"].string_param == "cloud"
    assert reply.parameters["exit_index"].int64_param == 2
    assert reply.parameters["exit_name"].string_param == "exit2"
    assert reply.parameters["degraded"].bool_param is False
    assert reply.parameters["degraded_reason"].string_param == ""
    assert reply.parameters["plan"].string_param == "device 0:2 > edge 2:4 int8+zstd > cloud 4:8 int8+zstd"


async def test_an_id_is_echoed_or_made(tiny: Path, pixels: np.ndarray) -> None:
    async with device(tiny) as front, calling(front.address) as call:
        given = await call(f"{DOOR}/ModelInfer", asking(pixels[:1], id="ünï"))
        made = [(await call(f"{DOOR}/ModelInfer", asking(pixels[:1]))).id for _ in range(2)]
    assert given.id == "ünï"
    assert all(made)
    assert made[0] != made[1]


async def test_only_the_outputs_asked_for_come_in_their_order(tiny: Path, pixels: np.ndarray) -> None:
    asked = asking(pixels[:2])
    for name in ("label", "scores"):
        asked.outputs.add(name=name)
    async with device(tiny) as front, calling(front.address) as call:
        reply = await call(f"{DOOR}/ModelInfer", asked)
        whole = arrays(await call(f"{DOOR}/ModelInfer", asking(pixels[:2])))
    assert [output.name for output in reply.outputs] == ["label", "scores"]
    assert np.array_equal(arrays(reply)["scores"], whole["scores"])
    assert len(reply.raw_output_contents) == 2


def with_threshold(samples: np.ndarray, kind: str, value: Any) -> Any:
    asked = asking(samples)
    setattr(asked.parameters["exit_threshold"], kind, value)
    return asked


@pytest.mark.parametrize(
    ("kind", "value", "exits"),
    [
        ("double_param", 0.0, {0}),
        ("double_param", 1.5, {2}),
        ("int64_param", 0, {0}),
        ("int64_param", 2, {2}),
        ("uint64_param", 2, {2}),
        ("string_param", "0", {0}),
        ("string_param", "1.5", {2}),
        ("string_param", "6e-1", {0, 1, 2}),
    ],
)
async def test_the_threshold_is_taken_in_every_way_a_client_can_say_it(
    tiny: Path, pixels: np.ndarray, kind: str, value: Any, exits: set[int]
) -> None:
    async with three_tiers(tiny) as tiers, calling(tiers.device.address) as call:
        reply = await call(f"{DOOR}/ModelInfer", with_threshold(pixels, kind, value))
    assert set(arrays(reply)["exit_index"].tolist()) == exits


async def test_the_trace_is_given_when_asked_for(tiny: Path, pixels: np.ndarray) -> None:
    asked = asking(pixels)
    async with three_tiers(tiny) as tiers, calling(tiers.device.address) as call:
        without = await call(f"{DOOR}/ModelInfer", asked)
        asked.parameters["trace"].string_param = "true"
        reply = await call(f"{DOOR}/ModelInfer", asked)
    assert "trace" not in without.parameters
    trace = json.loads(reply.parameters["trace"].string_param)
    assert [hop["tier"] for hop in trace["hops"]] == ["device", "edge", "cloud"]
    parts = [value for hop in trace["hops"] for name, value in hop.items() if name.endswith("_seconds")]
    assert sum(parts) == pytest.approx(trace["seconds"])
    assert trace["hops"][0]["bytes_up"] > 0
    assert [link["source"] for link in trace["links"]] == ["device", "edge"]


async def test_asking_for_more_outputs_than_there_are_is_refused(tiny: Path, pixels: np.ndarray) -> None:
    asked = asking(pixels)
    for _ in range(1000):
        asked.outputs.add(name="scores")
    async with device(tiny) as front, calling(front.address) as call:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(f"{DOOR}/ModelInfer", asked)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        del asked.outputs[2:]
        assert [output.name for output in (await call(f"{DOOR}/ModelInfer", asked)).outputs] == ["scores"]


async def test_an_input_that_makes_the_network_overflow_is_refused(tiny: Path) -> None:
    huge = np.full((1, 1, 8, 8), 3e38, np.float32) * np.sign(np.random.default_rng(0).normal(size=(1, 1, 8, 8)))
    async with device(tiny) as front, AsyncClient(front.address) as client:
        with pytest.raises(InvalidInput, match="not finite"):
            await client.infer("tiny", huge.astype(np.float32), "input")
