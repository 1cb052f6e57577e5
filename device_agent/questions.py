"""A question as a message of the Open Inference Protocol, and the answer as `Prediction`s: no I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from device_agent.inputs import ModelInfo
from services.domain import Tier
from services.open_inference import messages
from services.open_inference.tensors import IMAGE

_KINDS = {"FP32": "<f4", "INT64": "<i8", "BOOL": "?"}


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one sample.

    `trace`, None unless asked for, is that of its whole request: `seconds`, `hops` (client first; each with
    its stages in seconds, and bytes) and `links`, the tiers' estimates. `final` is False for an answer of an
    early exit that a better one will follow (streams only).
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
    exit_name: str = ""
    final: bool = True


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a caller may ask for beside the answer; what is None is left to the server.

    `exit_threshold`: confidence at which to leave at any exit, 0 always, above 1 never. `max_exit`: index of
    the last exit to go to. `policy`: "latency", "energy" or "bytes". `min_accuracy`: expected accuracy, 0 to 1.
    `privacy`: the raw input stays on the device. `split`: two split points, "8,14". `priority`: 0 and 1 are
    ordinary, above 1 is refused first where a queue fills. `trace`: where the time went comes with the answer.
    """

    exit_threshold: float | None = None
    max_exit: int | None = None
    policy: str | None = None
    min_accuracy: float | None = None
    privacy: bool | None = None
    split: str | None = None
    priority: int | None = None
    trace: bool | None = None


NONE = Wishes()


def wishes_of(given: Mapping[str, Any]) -> Wishes:
    """Raises TypeError for a name that is no wish's, and lists those there are."""
    names = [wish.name for wish in fields(Wishes)]
    if wrong := [name for name in given if name not in names]:
        taken = ", ".join(("request_id", "timeout_seconds", *names))
        raise TypeError(f"a request takes no {', '.join(map(repr, wrong))}; it takes {taken}")
    return Wishes(**given)


def infer_request(
    model: str, samples: npt.NDArray[Any], input_name: str = IMAGE, request_id: str = "", wishes: Wishes = NONE
) -> Any:
    """A ModelInferRequest for uint8 [N, H, W, C] images, or for the float32 tensor that `input_name` names."""
    datatype = "UINT8" if samples.dtype == np.uint8 else "FP32"
    request = messages.ModelInferRequest(model_name=model, id=request_id)
    request.inputs.add(name=input_name, datatype=datatype, shape=samples.shape)
    request.raw_input_contents.append(samples.astype("u1" if datatype == "UINT8" else "<f4").tobytes())
    for wish in fields(wishes):
        value = getattr(wishes, wish.name)
        if value is not None:
            _put(request.parameters[wish.name], value)
    return request


def _put(parameter: Any, value: bool | int | float | str | np.generic) -> None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value


def model_info(reply: Any) -> ModelInfo:
    """What a ModelMetadataResponse says; the last version named is the newest."""
    shapes = {tensor.name: tuple(tensor.shape[1:]) for tensor in reply.inputs}
    first = reply.inputs[0].name
    return ModelInfo(reply.name, reply.versions[-1], first, shapes[first], shapes.get(IMAGE))


def predictions(reply: Any, trace: dict[str, Any] | None = None) -> list[Prediction]:
    """The answers in a ModelInferResponse, one for each sample."""
    arrays = {
        output.name: np.frombuffer(raw, _KINDS[output.datatype]).reshape(tuple(output.shape))
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }
    said = reply.parameters
    final = said["triton_final_response"].bool_param if "triton_final_response" in said else True
    return [
        Prediction(
            label=int(arrays["label"][row]),
            scores=arrays["scores"][row],
            confidence=float(arrays["exit_confidence"][row, 0]),
            exit_index=int(arrays["exit_index"][row]),
            tier=Tier(int(arrays["tier_index"][row])),
            degraded=bool(arrays["degraded"][row]),
            degraded_reason=said["degraded_reason"].string_param if arrays["degraded"][row] else "",
            plan=said["plan"].string_param,
            request_id=reply.id,
            trace=trace,
            exit_name=said["exit_name"].string_param if len(arrays["label"]) == 1 else "",
            final=final,
        )
        for row in range(len(arrays["label"]))
    ]


def whole_trace(reply: Any, encode_seconds: float, call_seconds: float, bytes_up: int) -> dict[str, Any]:
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


def decoded(trace: dict[str, Any], seconds: float) -> None:
    """Adds what decoding the answer took to the caller's own hop."""
    trace["hops"][0]["decode_seconds"] = seconds
    trace["seconds"] += seconds
