"""`offramp.v1.Tier` as a tier serves it: message to request, through the runtime, and back."""

from __future__ import annotations

import time
from importlib import metadata
from typing import Any

import grpc

from services import codec, wire
from services.describing import Describer
from services.domain import Deadline, Request
from services.errors import InvalidInput, NotImplementedHere, TooLarge
from services.guard import MAX_REQUEST_ID, Service, unary
from services.limiter import Limiter, check_batch
from services.observing import Finished, Observers
from services.pb.offramp.v1 import tier_pb2 as pb
from services.preparing import Preparer
from services.tier import TierRuntime
from services.wire_beliefs import link_to_pb, profile_to_pb
from services.wire_names import tier_to_pb

TIER_SERVICE = pb.DESCRIPTOR.services_by_name["Tier"].full_name
MAX_PROBE_BYTES = 1 << 16


class TierService:
    """`offramp.v1.Tier`: message to request, through the runtime, and back."""

    def __init__(
        self,
        runtime: TierRuntime,
        limiter: Limiter,
        max_batch: int,
        deadline_seconds: float,
        preparer: Preparer | None = None,
        observers: Observers | None = None,
    ):
        self._runtime = runtime
        self._preparer = preparer
        self._observers = observers or Observers()
        self._describer = Describer(runtime)
        self._limiter = limiter
        self._max_batch = max_batch
        self._deadline_seconds = deadline_seconds

    def service(self) -> Service:
        return Service(
            TIER_SERVICE,
            {
                "Infer": unary(self.infer, pb.InferRequest, self._observers),
                "Describe": unary(self.describe, pb.DescribeRequest, self._observers),
                "Probe": unary(self.probe, pb.ProbeRequest, self._observers),
                "Prepare": unary(self.prepare, pb.PrepareRequest, self._observers),
            },
            pb.DESCRIPTOR.serialized_pb,
        )

    async def infer(self, message: pb.InferRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.InferReply:
        arrived = time.monotonic()
        with self._limiter.admit():
            deadline = self._deadline(message.remaining_seconds, context.time_remaining())
            request = self._request(message, deadline)
            response = await self._runtime.infer(request, arrived)
        manifest, tier = self._runtime.model.manifest, self._runtime.tier
        self._observers.answered(Finished(request.request_id, tier, manifest, request.plan, response))
        return wire.response_to_pb(response)

    async def describe(
        self, message: pb.DescribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DescribeReply:
        manifest = self._runtime.model.manifest
        found = await self._describer.describe(context.time_remaining())
        own, *above = map(profile_to_pb, found.profiles)
        return pb.DescribeReply(
            tier=tier_to_pb(self._runtime.tier),
            model_name=manifest.name,
            model_version=manifest.version,
            model_hash=manifest.model_hash,
            split_points=len(manifest.split_points),
            profile=own,
            offramp_version=metadata.version("offramp"),
            above=above,
            links=map(link_to_pb, found.links),
        )

    async def probe(self, message: pb.ProbeRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.ProbeReply:
        arrived = time.monotonic()
        if message.reply_bytes > MAX_PROBE_BYTES:
            raise TooLarge(f"a probe returns at most {MAX_PROBE_BYTES} bytes")
        return pb.ProbeReply(padding=bytes(message.reply_bytes), held_seconds=time.monotonic() - arrived)

    async def prepare(self, message: pb.PrepareRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.PrepareReply:
        if self._preparer is None:
            raise NotImplementedHere("this tier prepares no plans")
        with self._limiter.admit():
            deadline = self._deadline(message.remaining_seconds, context.time_remaining())
            self._runtime.check_model(message.model_hash)
            await self._preparer.prepare(wire.plan_from_pb(message.plan), deadline)
        return pb.PrepareReply()

    def _request(self, message: pb.InferRequest, deadline: Deadline) -> Request:
        """Checks everything that is cheap to check before the activation is decoded."""
        self._runtime.check_model(message.model_hash)
        if len(message.request_id) > MAX_REQUEST_ID:
            raise InvalidInput(f"request_id is longer than {MAX_REQUEST_ID} characters")
        if len(message.thresholds) > len(self._runtime.model.manifest.exits):
            raise InvalidInput(f"{len(message.thresholds)} thresholds were given, the model has fewer exits")
        if not all(threshold >= 0 for threshold in message.thresholds):  # NaN is not either
            raise InvalidInput("a threshold is negative or not a number")
        payload = wire.payload_from_pb(message.activation)
        self._runtime.model.check(message.at, payload.shape)
        check_batch(payload.shape[0], self._max_batch)
        return Request(
            message.request_id,
            message.model_hash,
            wire.plan_from_pb(message.plan),
            message.at,
            codec.at(payload.codec, message.at, self._runtime.model.manifest.input.preprocessing).decode(payload),
            deadline,
            tuple(message.thresholds) or None,
        )

    def _deadline(self, asked: float, remaining: float | None) -> Deadline:
        """`asked`: the message's remaining_seconds; `remaining`: what gRPC says. 0 and None: not given."""
        if not asked >= 0:
            raise InvalidInput("remaining_seconds is negative or not a number")
        asked = asked or self._deadline_seconds
        return Deadline.after(min(asked, self._deadline_seconds, asked if remaining is None else remaining))
