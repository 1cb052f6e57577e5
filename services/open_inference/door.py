"""The public door: the Open Inference Protocol v2 over gRPC.

Answers are always raw; parameters are only of the kinds every client knows (bool, int64, string).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from importlib import metadata
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from services.domain import Deadline, DegradedReason, Predictions, Tier
from services.errors import InvalidInput, UnknownModel
from services.guard import Service, unary
from services.images import image_shape
from services.limiter import Limiter
from services.observing import Finished, Observers
from services.open_inference import messages
from services.open_inference.front import Answer, Front
from services.open_inference.tensors import IMAGE, read_input

PLATFORM = "onnx_onnxv1"
EXTENSIONS = ("binary_tensor_data", "parameters")
OUTPUTS = {
    "scores": "FP32",
    "label": "INT64",
    "exit_confidence": "FP32",
    "exit_index": "INT64",
    "tier_index": "INT64",
    "degraded": "BOOL",
}
_MAX_ID = 200

Context = grpc.aio.ServicerContext[Any, Any]


class OpenInference:
    """The six calls of the protocol, in front of one model."""

    def __init__(
        self,
        front: Front,
        limiter: Limiter,
        max_batch: int,
        deadline_seconds: float,
        observers: Observers | None = None,
    ):
        self._front = front
        self._observers = observers or Observers()
        self._manifest = front.runtime.model.manifest
        self._limiter = limiter
        self._max_batch = max_batch
        self._deadline_seconds = deadline_seconds

    def service(self) -> Service:
        return Service(
            messages.SERVICE,
            {
                "ServerLive": unary(self.server_live, messages.ServerLiveRequest, self._observers),
                "ServerReady": unary(self.server_ready, messages.ServerReadyRequest, self._observers),
                "ModelReady": unary(self.model_ready, messages.ModelReadyRequest, self._observers),
                "ServerMetadata": unary(self.server_metadata, messages.ServerMetadataRequest, self._observers),
                "ModelMetadata": unary(self.model_metadata, messages.ModelMetadataRequest, self._observers),
                "ModelInfer": unary(self.model_infer, messages.ModelInferRequest, self._observers),
            },
            messages.FILE,
        )

    async def server_live(self, request: Any, context: Context) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, context: Context) -> Any:
        return messages.ServerReadyResponse(ready=self._limiter.ready)

    async def model_ready(self, request: Any, context: Context) -> Any:
        self._known(request.name, request.version)
        return messages.ModelReadyResponse(ready=self._limiter.ready)

    async def server_metadata(self, request: Any, context: Context) -> Any:
        return messages.ServerMetadataResponse(
            name="offramp", version=metadata.version("offramp"), extensions=EXTENSIONS
        )

    async def model_metadata(self, request: Any, context: Context) -> Any:
        """An empty name asks for the one model there is, so that a client can find out what is served."""
        self._known(request.name or self._manifest.name, request.version)
        manifest, rows = self._manifest, {"scores": [-1, len(self._manifest.labels)], "exit_confidence": [-1, 1]}
        tensor = messages.ModelMetadataResponse.TensorMetadata
        inputs = [tensor(name=manifest.input.name, datatype="FP32", shape=[-1, *manifest.input.shape])]
        if (pixels := image_shape(manifest.input)) is not None:
            inputs.append(tensor(name=IMAGE, datatype="UINT8", shape=[-1, *pixels]))
        return messages.ModelMetadataResponse(
            name=manifest.name,
            versions=[manifest.version],
            platform=PLATFORM,
            inputs=inputs,
            outputs=[tensor(name=n, datatype=kind, shape=rows.get(n, [-1])) for n, kind in OUTPUTS.items()],
        )

    async def model_infer(self, request: Any, context: Context) -> Any:
        arrived = time.monotonic()
        self._known(request.model_name, request.model_version)
        if len(request.id) > _MAX_ID:
            raise InvalidInput(f"the request's id is longer than {_MAX_ID} characters")
        wanted = self._wanted(request)
        with self._limiter.admit():
            samples = read_input(request, self._manifest.input, self._max_batch)
            remaining = context.time_remaining()
            seconds = self._deadline_seconds if remaining is None else min(remaining, self._deadline_seconds)
            answer = await self._front.infer(
                samples, Deadline.after(seconds), request.id, self._thresholds(request), arrived
            )
        finished = Finished(answer.request_id, self._front.runtime.tier, self._manifest, answer.plan, answer.response)
        self._observers.answered(finished)
        return self._reply(request, answer, wanted)

    def _known(self, name: str, version: str) -> None:
        manifest = self._manifest
        if name != manifest.name:
            raise UnknownModel(f"no model is called {name[:60]!r}; there is {manifest.name!r}")
        if version not in ("", manifest.version):
            raise UnknownModel(f"model {name!r} has version {manifest.version}, not {version[:20]!r}")

    def _wanted(self, request: Any) -> list[str]:
        if len(request.outputs) > len(OUTPUTS):
            raise InvalidInput(f"{len(request.outputs)} outputs are asked for; there are {len(OUTPUTS)}")
        names = list(dict.fromkeys(output.name for output in request.outputs)) or list(OUTPUTS)
        for name in names:
            if name not in OUTPUTS:
                raise InvalidInput(f"no output is called {name[:60]!r}; there are {', '.join(OUTPUTS)}")
        return names

    def _thresholds(self, request: Any) -> tuple[float, ...] | None:
        """`exit_threshold` for every exit but the last, which always answers."""
        if "exit_threshold" not in request.parameters:
            return None
        value = number(request.parameters["exit_threshold"])
        if not 0 <= value <= 2:
            raise InvalidInput("exit_threshold must be between 0 (always leave) and 2 (above 1: never leave)")
        return (*[value] * (len(self._manifest.exits) - 1), 0.0)

    def _reply(self, request: Any, answer: Answer, wanted: list[str]) -> Any:
        arrays = _outputs(answer.response.predictions)
        reply = messages.ModelInferResponse(
            model_name=self._manifest.name, model_version=self._manifest.version, id=answer.request_id
        )
        for name in wanted:
            reply.outputs.add(name=name, datatype=OUTPUTS[name], shape=arrays[name].shape)
            reply.raw_output_contents.append(arrays[name].tobytes())
        self._describe(reply.parameters, answer, flag(request.parameters, "trace"))
        return reply

    def _describe(self, parameters: Any, answer: Answer, with_trace: bool) -> None:
        """What holds for the whole request: of a batch, the furthest exit and tier, and the worst reason."""
        answers = answer.response.predictions
        furthest, reason = int(answers.exits.max()), DegradedReason(int(answers.reasons.max()))
        parameters["tier"].string_param = Tier(int(answers.tiers.max())).label
        parameters["exit_index"].int64_param = furthest
        parameters["exit_name"].string_param = self._manifest.exits[furthest].name
        parameters["degraded"].bool_param = reason is not DegradedReason.NONE
        parameters["degraded_reason"].string_param = reason.label
        parameters["plan"].string_param = str(answer.plan)
        if with_trace:
            parameters["trace"].string_param = trace_json(answer)


def trace_json(answer: Answer) -> str:
    """The Trace and the links as JSON: `hops`, nearest first, in seconds and bytes; `links`, unknowns null.

    `expected_seconds`: what the planner expected of the plan, null where it was fixed.
    """
    hops = [asdict(hop) | {"tier": hop.tier.label} for hop in answer.response.trace.hops]
    links = [asdict(link) | {"source": link.source.label} for link in answer.response.links]
    whole = {"seconds": answer.response.trace.seconds, "expected_seconds": answer.plan.expected_seconds}
    return json.dumps(whole | {"hops": hops, "links": links})


def number(parameter: Any) -> float:
    """A number, however the client could send one: double, int64, uint64 or string. Raises InvalidInput."""
    kind = parameter.WhichOneof("parameter_choice")
    try:
        if kind in (None, "bool_param"):
            raise ValueError
        return float(getattr(parameter, kind))
    except ValueError:
        raise InvalidInput("a parameter that must be a number is not one") from None


def flag(parameters: Any, name: str) -> bool:
    """A yes or no, as a bool or as the string 'true'."""
    return name in parameters and (parameters[name].bool_param or parameters[name].string_param.lower() == "true")


def _outputs(answers: Predictions) -> dict[str, npt.NDArray[Any]]:
    return {
        "scores": answers.scores.astype("<f4", copy=False),
        "label": answers.labels.astype("<i8", copy=False),
        "exit_confidence": answers.confidences.astype("<f4", copy=False)[:, None],
        "exit_index": answers.exits.astype("<i8"),
        "tier_index": answers.tiers.astype("<i8"),
        "degraded": np.asarray(answers.reasons != 0),
    }
