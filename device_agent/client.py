"""A Python client of the public door: arrays in, `Prediction`s out."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from services.client import channel_options, error_of
from services.domain import Tier
from services.open_inference import messages
from services.open_inference.tensors import IMAGE

DEFAULT_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one sample.

    `trace`, None unless asked for, is that of its whole request: `seconds`, `hops` (client first; each with
    its stages in seconds, and bytes) and `links`, the tiers' estimates.
    """

    label: int
    scores: npt.NDArray[np.float32]
    confidence: float
    exit_index: int
    tier: Tier
    degraded: bool
    degraded_reason: str
    plan: str
    request_id: str
    trace: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the server says of its model: its input, and how an image must be shaped, if it takes images."""

    name: str
    version: str
    input_name: str
    input_shape: tuple[int, ...]
    image_shape: tuple[int, ...] | None


class AsyncClient:
    """One channel to a device agent. Every call has a deadline."""

    def __init__(self, target: str, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS):
        self._channel = grpc.aio.insecure_channel(target, channel_options())
        self._timeout = timeout_seconds

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close(None)

    async def model(self, name: str = "") -> ModelInfo:
        """Metadata of the model called `name`."""
        reply = await self._call(
            "ModelMetadata", messages.ModelMetadataRequest(name=name), messages.ModelMetadataResponse
        )
        shapes = {tensor.name: tuple(tensor.shape[1:]) for tensor in reply.inputs}
        first = reply.inputs[0].name
        return ModelInfo(reply.name, reply.versions[-1], first, shapes[first], shapes.get(IMAGE))

    async def infer(
        self,
        model: str,
        samples: npt.NDArray[Any],
        input_name: str = IMAGE,
        request_id: str = "",
        trace: bool = False,
        timeout_seconds: float | None = None,
    ) -> list[Prediction]:
        """Answers for uint8 [N, H, W, C] images, or for the float32 tensor that `input_name` names.

        Raises the OfframpError that the server reported.
        """
        started = time.monotonic()
        datatype = "UINT8" if samples.dtype == np.uint8 else "FP32"
        request = messages.ModelInferRequest(model_name=model, id=request_id)
        request.inputs.add(name=input_name, datatype=datatype, shape=samples.shape)
        request.raw_input_contents.append(samples.astype("u1" if datatype == "UINT8" else "<f4").tobytes())
        if trace:
            request.parameters["trace"].bool_param = True
        built = time.monotonic()
        reply = await self._call("ModelInfer", request, messages.ModelInferResponse, timeout_seconds)
        answered = time.monotonic()
        seen = _trace(reply, built - started, answered - built, request.ByteSize()) if trace else None
        predictions = _predictions(reply, seen)
        if seen is not None:
            _decoded(seen, time.monotonic() - answered)
        return predictions

    async def _call(self, method: str, request: Any, reply_type: Any, timeout_seconds: float | None = None) -> Any:
        call = self._channel.unary_unary(
            f"/{messages.SERVICE}/{method}", lambda m: m.SerializeToString(), reply_type.FromString
        )
        try:
            return await call(request, timeout=timeout_seconds or self._timeout)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from None


def _trace(reply: Any, encode_seconds: float, call_seconds: float, bytes_up: int) -> dict[str, Any]:
    """The server's trace with the caller's own hop in front: the call, less what the tiers account for."""
    trace: dict[str, Any] = json.loads(reply.parameters["trace"].string_param)
    own = {
        "tier": "client",
        "queue_seconds": 0.0,
        "decode_seconds": 0.0,
        "compute_seconds": 0.0,
        "encode_seconds": encode_seconds,
        "network_seconds": call_seconds - trace["seconds"],
        "bytes_up": bytes_up,
        "bytes_down": reply.ByteSize(),
    }
    return trace | {"seconds": encode_seconds + call_seconds, "hops": [own, *trace["hops"]]}


def _decoded(trace: dict[str, Any], seconds: float) -> None:
    trace["hops"][0]["decode_seconds"] = seconds
    trace["seconds"] += seconds


def _predictions(reply: Any, trace: dict[str, Any] | None) -> list[Prediction]:
    kinds = {"FP32": "<f4", "INT64": "<i8", "BOOL": "?"}
    arrays = {
        output.name: np.frombuffer(raw, kinds[output.datatype]).reshape(tuple(output.shape))
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }
    reason, plan = reply.parameters["degraded_reason"].string_param, reply.parameters["plan"].string_param
    return [
        Prediction(
            label=int(arrays["label"][row]),
            scores=arrays["scores"][row],
            confidence=float(arrays["exit_confidence"][row, 0]),
            exit_index=int(arrays["exit_index"][row]),
            tier=Tier(int(arrays["tier_index"][row])),
            degraded=bool(arrays["degraded"][row]),
            degraded_reason=reason if arrays["degraded"][row] else "",
            plan=plan,
            request_id=reply.id,
            trace=trace,
        )
        for row in range(len(arrays["label"]))
    ]
