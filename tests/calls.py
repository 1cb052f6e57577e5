"""Raw gRPC calls: messages or any bytes to an address, and what came back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2

from services.channels import channel_options
from services.errors import DeadlineExceeded
from services.framing import varint
from services.open_inference import messages
from services.pb.offramp.v1 import tier_pb2 as pb

DOOR = messages.SERVICE
TIER = "offramp.v1.Tier"
HEALTH = "grpc.health.v1.Health"
PATIENCE = 20.0
_REPLIES: dict[str, Any] = {
    f"{DOOR}/ServerLive": messages.ServerLiveResponse,
    f"{DOOR}/ServerReady": messages.ServerReadyResponse,
    f"{DOOR}/ModelReady": messages.ModelReadyResponse,
    f"{DOOR}/ServerMetadata": messages.ServerMetadataResponse,
    f"{DOOR}/ModelMetadata": messages.ModelMetadataResponse,
    f"{DOOR}/ModelInfer": messages.ModelInferResponse,
    f"{DOOR}/ModelConfig": messages.ModelConfigResponse,
    f"{DOOR}/ModelStatistics": messages.ModelStatisticsResponse,
    f"{DOOR}/RepositoryIndex": messages.RepositoryIndexResponse,
    f"{TIER}/Infer": pb.InferReply,
    f"{TIER}/Describe": pb.DescribeReply,
    f"{TIER}/Probe": pb.ProbeReply,
    f"{HEALTH}/Check": health_pb2.HealthCheckResponse,
}

T = TypeVar("T")
Call = Callable[[str, Any], Awaitable[Any]]


@asynccontextmanager
async def calling(address: str, exchange: bool = False) -> AsyncIterator[Call]:
    """A channel; calls 'service/Method' with a message or with bytes as they are. exchange: Infer on a stream."""
    async with grpc.aio.insecure_channel(address, channel_options(256 << 20)) as channel:

        async def call(path: str, request: Any) -> Any:
            body = request if isinstance(request, bytes) else request.SerializeToString()
            if exchange and path == f"{TIER}/Infer":
                return await _on_a_stream(channel, body)
            reply = _REPLIES.get(path)
            method = channel.unary_unary(f"/{path}", response_deserializer=reply.FromString if reply else None)
            return await method(body, timeout=PATIENCE)

        yield call


async def _on_a_stream(channel: grpc.aio.Channel, body: bytes) -> pb.InferReply:
    """As Infer: the reply, or the error that it would be there."""
    stream = channel.stream_stream(f"/{TIER}/Exchange")(timeout=PATIENCE)
    call = b"\x08\x01\x7a" + varint(len(body)) + body
    await stream.write(b"\x0a" + varint(len(call)) + call)
    data = await stream.read()
    assert isinstance(data, bytes)
    (outcome,) = pb.ExchangeReply.FromString(data).outcomes
    await stream.done_writing()
    if outcome.WhichOneof("outcome") == "reply":
        return outcome.reply
    status = status_pb2.Status.FromString(outcome.status)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", outcome.status))
    raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, status.message)


def reason(error: grpc.aio.AioRpcError) -> str:
    """The reason in the ErrorInfo that came with `error`, or nothing."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if not isinstance(details, bytes):
        return ""
    info = error_details_pb2.ErrorInfo()
    status = status_pb2.Status.FromString(details)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return info.reason if any(d.Unpack(info) for d in status.details) and info.domain == "offramp" else ""


def asking(samples: np.ndarray, name: str = "", raw: bool = True, **fields: Any) -> Any:
    """A ModelInferRequest for the tiny model: pixels as 'image', numbers as 'input'."""
    pixels = samples.dtype == np.uint8
    request = messages.ModelInferRequest(**{"model_name": "tiny", **fields})
    tensor = request.inputs.add(
        name=name or ("image" if pixels else "input"), datatype="UINT8" if pixels else "FP32", shape=samples.shape
    )
    if raw:
        request.raw_input_contents.append(samples.tobytes())
    else:
        contents = tensor.contents.uint_contents if pixels else tensor.contents.fp32_contents
        contents.extend(samples.ravel().tolist())
    return request


def arrays(reply: Any) -> dict[str, np.ndarray]:
    """The outputs of a ModelInferResponse by name."""
    kinds = {"FP32": "<f4", "INT64": "<i8", "BOOL": "?"}
    return {
        output.name: np.frombuffer(raw, kinds[output.datatype]).reshape(tuple(output.shape))
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> None:
    """Waits for `condition`; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


async def in_time(ask: Callable[[], Awaitable[T]], seconds: float, tries: int = 5) -> T:
    """The first answer that came within `seconds`: a machine that stalls delays one or another, a fault all of them."""
    for _ in range(tries):
        started = time.monotonic()
        with suppress(DeadlineExceeded):
            answer = await ask()
            if time.monotonic() - started < seconds:
                return answer
    raise AssertionError(f"none of {tries} answers came within {seconds:g} s")
