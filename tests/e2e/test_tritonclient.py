"""A foreign client of the same protocol, in the same process as our own messages and client."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from device_agent.client import AsyncClient
from services import bundle
from services.open_inference import messages
from tests.tiers import three_tiers

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
triton_aio = pytest.importorskip("tritonclient.grpc.aio", reason="tritonclient is not installed")
triton_utils = pytest.importorskip("tritonclient.utils")


@pytest.fixture(scope="module")
def pixels(tiny: Path) -> np.ndarray:
    return bundle.load_samples(bundle.load(tiny))[0][..., None]


def an_input(pixels: np.ndarray) -> Any:
    given = triton.InferInput("image", list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels)
    return given


def by_triton(address: str, pixels: np.ndarray) -> dict[str, Any]:
    """Everything the blocking client is asked here; it runs in a thread of its own."""
    with triton.InferenceServerClient(address) as client:
        result = client.infer(
            "tiny", [an_input(pixels)], request_id="t1", client_timeout=20, parameters={"trace": True}
        )
        compressed = client.infer("tiny", [an_input(pixels)], client_timeout=20, compression_algorithm="gzip")
        chosen = client.infer(
            "tiny", [an_input(pixels)], outputs=[triton.InferRequestedOutput("label")], client_timeout=20
        )
        return {
            "ready": (client.is_server_live(), client.is_server_ready(), client.is_model_ready("tiny", "1")),
            "server": client.get_server_metadata(as_json=True),
            "model": client.get_model_metadata("tiny", as_json=True),
            "labels": result.as_numpy("label"),
            "scores": result.as_numpy("scores"),
            "degraded": result.as_numpy("degraded"),
            "id": result.get_response().id,
            "tier": result.get_response().parameters["tier"].string_param,
            "compressed": compressed.as_numpy("scores"),
            "chosen": [output.name for output in chosen.get_response().outputs],
        }


async def test_the_blocking_client_gets_the_answers_that_ours_gets(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, AsyncClient(tiers.device.address) as ours:
        theirs = await asyncio.to_thread(by_triton, tiers.device.address, pixels)
        answers = await ours.infer("tiny", pixels)
    assert theirs["ready"] == (True, True, True)
    assert theirs["server"]["name"] == "offramp"
    assert [tensor["name"] for tensor in theirs["model"]["inputs"]] == ["input", "image"]
    assert theirs["labels"].tolist() == [answer.label for answer in answers]
    assert np.array_equal(theirs["scores"], np.stack([answer.scores for answer in answers]))
    assert np.array_equal(theirs["compressed"], theirs["scores"])
    assert not theirs["degraded"].any()
    assert (theirs["id"], theirs["tier"], theirs["chosen"]) == ("t1", "cloud", ["label"])


async def test_the_asynchronous_client_infers_and_passes_a_threshold(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, triton_aio.InferenceServerClient(tiers.device.address) as client:
        assert await client.is_server_ready()
        given = [an_input(pixels)]
        for threshold, exits in ((0.0, {0}), (1.5, {2}), ("1.5", {2}), (2, {2})):
            result = await client.infer("tiny", given, client_timeout=20, parameters={"exit_threshold": threshold})
            assert set(result.as_numpy("exit_index").tolist()) == exits


@pytest.mark.parametrize(
    ("model", "samples", "status"),
    [
        ("other", np.zeros((1, 8, 8, 1), np.uint8), "StatusCode.NOT_FOUND"),
        ("tiny", np.zeros((1, 8, 8, 2), np.uint8), "StatusCode.INVALID_ARGUMENT"),
        ("tiny", np.zeros((0, 8, 8, 1), np.uint8), "StatusCode.INVALID_ARGUMENT"),
    ],
)
async def test_our_errors_surface_in_the_foreign_client(
    tiny: Path, model: str, samples: np.ndarray, status: str
) -> None:
    async with three_tiers(tiny) as tiers, triton_aio.InferenceServerClient(tiers.device.address) as client:
        with pytest.raises(triton_utils.InferenceServerException) as refused:
            await client.infer(model, [an_input(samples)], client_timeout=20)
        assert refused.value.status() == status
        assert refused.value.message()
        with pytest.raises(triton_utils.InferenceServerException) as missing:
            await client.load_model("tiny", client_timeout=20)
        assert missing.value.status() == str(grpc.StatusCode.UNIMPLEMENTED)


def test_our_messages_and_theirs_are_byte_for_byte_the_same() -> None:
    theirs = triton.service_pb2.ModelInferRequest(model_name="m", id="i", raw_input_contents=[b"abc"])
    theirs.inputs.add(name="x", datatype="UINT8", shape=[1, 3])
    ours = messages.ModelInferRequest.FromString(theirs.SerializeToString())
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)
    assert type(ours) is not type(theirs)
    assert (ours.model_name, list(ours.inputs[0].shape)) == ("m", [1, 3])


def told(address: str, pixels: np.ndarray) -> dict[str, Any]:
    """What the blocking client reads of the extensions."""
    with triton.InferenceServerClient(address) as client:
        client.infer("tiny", [an_input(pixels)], client_timeout=20)
        return {
            "config": client.get_model_config("tiny", as_json=True)["config"],
            "statistics": client.get_inference_statistics("tiny", as_json=True)["model_stats"],
            "index": client.get_model_repository_index(as_json=True)["models"],
        }


async def test_the_foreign_client_reads_our_extensions(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers:
        found = await asyncio.to_thread(told, tiers.device.address, pixels)
    assert found["config"]["max_batch_size"] == 256
    assert found["config"]["model_transaction_policy"] == {"decoupled": True}
    assert [(each["name"], each["data_type"]) for each in found["config"]["input"]] == [
        ("input", "TYPE_FP32"),
        ("image", "TYPE_UINT8"),
    ]
    (statistics,) = found["statistics"]
    assert statistics["inference_count"] == str(len(pixels))
    assert statistics["inference_stats"]["success"]["count"] == "1"
    assert found["index"] == [{"name": "tiny", "version": "1", "state": "READY"}]


def fields(message: Any) -> dict[str, Any]:
    return {f.name: (f.number, f.type, f.is_repeated, f.enum_type and f.enum_type.name) for f in message.fields}


OURS = [name for name in dir(messages) if name[0].isupper() and hasattr(getattr(messages, name), "DESCRIPTOR")]


@pytest.mark.parametrize("name", OURS)
def test_our_messages_have_the_fields_of_theirs(name: str) -> None:
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    ours, theirs = getattr(messages, name).DESCRIPTOR, getattr(triton.service_pb2, name, None)
    theirs = (theirs or getattr(model_config, name)).DESCRIPTOR
    own = {"properties"} if name == "ModelMetadataResponse" else set()
    known = fields(theirs)
    assert {field: shape for field, shape in fields(ours).items() if field not in own} == {
        field: known[field] for field in fields(ours) if field not in own
    }


def streamed(address: str, pixels: np.ndarray) -> list[tuple[str, int, bool]]:
    """What the blocking client's stream brings for one hard sample: id, exit, and whether it is the last answer."""
    found: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: found.put((result, error)), stream_timeout=20)
        client.async_stream_infer("tiny", [an_input(pixels)], request_id="s1", parameters={"exit_threshold": 1.5})
        answers = []
        while not answers or not answers[-1][2]:
            result, error = found.get(timeout=20)
            assert error is None, error
            reply = result.get_response()
            last = reply.parameters["triton_final_response"].bool_param
            answers.append((reply.id, int(result.as_numpy("exit_index")[0]), last))
        client.stop_stream()
    return answers


async def test_its_stream_brings_the_first_exit_s_answer_and_then_the_last(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers:
        answers = await asyncio.to_thread(streamed, tiers.device.address, pixels[:1])
    assert answers[0] == ("s1", 0, False)
    assert answers[-1] == ("s1", 2, True)


async def test_the_asynchronous_client_s_stream_brings_the_same(tiny: Path, pixels: np.ndarray) -> None:
    async def asked() -> AsyncIterator[dict[str, Any]]:
        yield {
            "model_name": "tiny",
            "inputs": [an_input(pixels[:1])],
            "request_id": "s2",
            "parameters": {"exit_threshold": 1.5},
        }

    async with three_tiers(tiny) as tiers, triton_aio.InferenceServerClient(tiers.device.address) as client:
        found = [(result, error) async for result, error in client.stream_infer(asked(), stream_timeout=20)]
    assert [error for _, error in found] == [None] * len(found)
    assert [int(result.as_numpy("exit_index")[0]) for result, _ in found][-1] == 2
    assert found[-1][0].get_response().parameters["triton_final_response"].bool_param
