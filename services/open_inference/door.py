"""The public door: the Open Inference Protocol v2 over gRPC, with those of Triton's extensions that make sense here.

Answers are always raw; parameters are only of the kinds every client knows (bool, int64, string).
"""

from __future__ import annotations

import time
from dataclasses import replace
from importlib import metadata
from typing import Any

import grpc

from services.domain import Deadline
from services.errors import InvalidInput
from services.front import Answer
from services.guard import MAX_REQUEST_ID, Service, stream, unary
from services.observing import Finished, Observers
from services.open_inference import messages, parameters, replies, repository
from services.open_inference.statistics import Statistics
from services.open_inference.stream import Early, OpenStreams, Stream
from services.open_inference.tensors import read_input
from services.serving import Models, Served

EXTENSIONS = (
    "binary_tensor_data",
    "parameters",
    "model_configuration",
    "statistics",
    "model_repository",
    "schedule_policy",
)
_COMPUTING = frozenset({"ModelInfer"})

Context = grpc.aio.ServicerContext[Any, Any]


class OpenInference:
    """The calls of the protocol, in front of every model of a tier."""

    def __init__(self, models: Models, max_batch: int, deadline_seconds: float, observers: Observers | None = None):
        self._models = models
        self._max_batch = max_batch
        self._deadline_seconds = deadline_seconds
        self._observers = observers or Observers()
        self._statistics = Statistics(models)
        self._observers.add(self._statistics)
        self._streams = OpenStreams()

    def service(self) -> Service:
        calls = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.infer,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "RepositoryIndex": self.repository_index,
        }
        methods = {
            name: unary(call, messages.message(f"{name}Request"), self._observers, computes=name in _COMPUTING)
            for name, call in calls.items()
        }
        methods["ModelStreamInfer"] = stream(self.model_stream_infer, messages.ModelInferRequest, self._observers)
        return Service(messages.SERVICE, methods, messages.FILE, self._streams, _COMPUTING)

    async def server_live(self, request: Any, context: Context) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, context: Context) -> Any:
        return messages.ServerReadyResponse(ready=self._models.limiter.ready)

    async def model_ready(self, request: Any, context: Context) -> Any:
        served = self._models.described(request.name, request.version)
        return messages.ModelReadyResponse(ready=served.limiter.ready)

    async def server_metadata(self, request: Any, context: Context) -> Any:
        return messages.ServerMetadataResponse(
            name="offramp", version=metadata.version("offramp"), extensions=EXTENSIONS
        )

    async def model_metadata(self, request: Any, context: Context) -> Any:
        return repository.metadata(self._models, self._models.described(request.name, request.version))

    async def model_config(self, request: Any, context: Context) -> Any:
        return repository.configuration(self._models.described(request.name, request.version), self._max_batch)

    async def model_statistics(self, request: Any, context: Context) -> Any:
        self._observers.tell()
        return self._statistics.reply(request.name, request.version)

    async def repository_index(self, request: Any, context: Context) -> Any:
        return repository.index(self._models, request.repository_name, request.ready)

    async def model_stream_infer(self, requests: Any, context: Context) -> None:
        """The deadline of a stream is that of each of its requests, too."""

        async def infer(request: Any, early: Early) -> Any:
            return await self.infer(request, context, early)

        await self._streams.run(Stream(infer, context, self._observers), requests)

    async def infer(self, request: Any, context: Context, early: Early | None = None) -> Any:
        """The last answer to a ModelInferRequest; those before it go to `early`."""
        arrived = time.monotonic()
        traceparent = self._observers.traceparent(context.invocation_metadata())
        served = self._models.named(request.model_name, request.model_version)
        with served.answering() as answering:
            if len(request.id) > MAX_REQUEST_ID:
                raise InvalidInput(f"the request's id is longer than {MAX_REQUEST_ID} characters")
            outputs, asked = replies.wanted(request), parameters.read(request.parameters, served.manifest)

            def offer(answer: Answer) -> None:
                if early is not None:
                    early(replies.reply(served.manifest, answer, outputs))

            deadline = answering.deadline = self._deadline(context.time_remaining(), asked.timeout_seconds)
            with (
                served.limiter.admit(asked.wishes.priority, seconds=deadline.remaining()),
                self._streams.decoded.holding() as room,
            ):
                samples = read_input(request, served.manifest.input, self._max_batch, room.bring)
                wishes = replace(asked.wishes, traceparent=traceparent) if traceparent else asked.wishes
                answer = await served.front.infer(
                    samples, deadline, request.id, wishes, arrived, offer if early is not None else None
                )
        self._answered(served, answer, traceparent)
        reply = replies.reply(served.manifest, answer, outputs, asked.trace)
        if asked.ignored:
            reply.parameters[parameters.IGNORED].string_param = asked.ignored
        return reply

    def _deadline(self, *limits: float | None) -> Deadline:
        return Deadline.after(min([self._deadline_seconds, *[limit for limit in limits if limit is not None]]))

    def _answered(self, served: Served, answer: Answer, traceparent: str) -> None:
        tier, manifest = served.runtime.tier, served.manifest
        ended = Finished(answer.request_id, tier, manifest, answer.plan, answer.response, time.time_ns(), traceparent)
        self._observers.answered(ended)
