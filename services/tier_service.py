"""`offramp.v1.Tier` as a tier serves it: message to request, through the runtime, and back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

import grpc
import numpy as np

from services import codec, trace_context, wire
from services.codec import Codec
from services.decoded import Holding
from services.domain import Deadline, FloatArray, Passing, Payload, Request, Tier
from services.errors import DeadlineExceeded, InvalidInput, TooLarge
from services.exchange_service import ExchangeService
from services.framing import Framed
from services.guard import MAX_REQUEST_ID, Service, raw_stream, unary
from services.limiter import check_batch
from services.observing import Finished, Observers
from services.pb.offramp.v1 import tier_pb2 as pb
from services.plan_rules import passes_on
from services.serving import Models, Served
from services.wire_beliefs import link_to_pb, profile_to_pb
from services.wire_names import tier_to_pb

TIER_SERVICE = pb.DESCRIPTOR.services_by_name["Tier"].full_name
MAX_PROBE_BYTES = 1 << 16


class TierService:
    """`offramp.v1.Tier`: message to request, through the runtime, and back."""

    def __init__(self, models: Models, max_batch: int, deadline_seconds: float, observers: Observers | None = None):
        self._models = models
        self._observers = observers or Observers()
        self._max_batch = max_batch
        self._deadline_seconds = deadline_seconds
        self._exchange = ExchangeService(self.answer, deadline_seconds, self._observers)

    def service(self) -> Service:
        return Service(
            TIER_SERVICE,
            {
                "Infer": unary(self.infer, Framed, self._observers, computes=True),
                "Exchange": raw_stream(self._exchange.exchange, self._observers),
                "Describe": unary(self.describe, pb.DescribeRequest, self._observers),
                "Probe": unary(self.probe, pb.ProbeRequest, self._observers),
                "Prepare": unary(self.prepare, pb.PrepareRequest, self._observers),
            },
            pb.DESCRIPTOR.serialized_pb,
            self._exchange,
            frozenset({"Infer"}),
        )

    async def infer(self, framed: Framed, context: grpc.aio.ServicerContext[Any, Any]) -> pb.InferReply:
        return await self.answer(framed, time.monotonic(), context.time_remaining())

    async def answer(self, framed: Framed, arrived: float, remaining: float | None = None) -> pb.InferReply:
        """Runs one request, whichever way it came. `arrived`: when, in monotonic time; `remaining`: what gRPC says."""
        header = framed.header
        served, members = self._models.by_hash(header.model_hash), tuple(header.members.request_ids)
        places = len(members) or 1
        with served.answering(places) as answering:
            deadline = answering.deadline = self._deadline(header.remaining_seconds, remaining, arrived)
            _check_members(members, framed.activation.shape, served.limiter.limit)
            admitted = served.limiter.admit(header.priority, places, seconds=deadline.remaining())
            with admitted, self._exchange.decoded.holding() as room:
                request = self._request(framed, served, deadline, room)
                response = await served.runtime.infer(request, arrived)
        tier, plan = served.runtime.tier, request.plan
        ended, parent = time.time_ns(), request.traceparent
        finished = Finished(request.request_id, tier, served.manifest, plan, response, ended, parent, members)
        self._observers.answered(finished)
        return wire.response_to_pb(served.runtime.report(response))

    async def describe(
        self, message: pb.DescribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DescribeReply:
        served = self._models.by_hash(message.model_hash) if message.model_hash else self._models.first
        manifest = served.manifest
        found = await served.describer.describe(context.time_remaining())
        own, *above = map(profile_to_pb, found.profiles)
        return pb.DescribeReply(
            tier=tier_to_pb(served.runtime.tier),
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
        served = self._models.by_hash(message.model_hash)
        with served.limiter.admit(learns=False):
            deadline = self._deadline(message.remaining_seconds, context.time_remaining(), time.monotonic())
            await served.preparer.prepare(wire.plan_from_pb(message.plan), deadline)
        return pb.PrepareReply()

    def _request(self, framed: Framed, served: Served, deadline: Deadline, room: Holding) -> Request:
        """Checks everything that is cheap to check before the activation is decoded."""
        manifest, message = served.manifest, framed.header
        if len(message.request_id) > MAX_REQUEST_ID:
            raise InvalidInput(f"request_id is longer than {MAX_REQUEST_ID} characters")
        if len(message.thresholds) > len(manifest.exits):
            raise InvalidInput(f"{len(message.thresholds)} thresholds were given, the model has fewer exits")
        if not all(threshold >= 0 for threshold in message.thresholds):  # NaN is not either
            raise InvalidInput("a threshold is negative or not a number")
        payload = wire.payload_from_pb(framed.activation, framed.payload)
        served.runtime.model.check(message.at, payload.shape)
        check_batch(payload.shape[0], self._max_batch)
        plan, by = wire.plan_from_pb(message.plan), codec.at(payload.codec, message.at, manifest.input.preprocessing)
        request = Request(
            message.request_id,
            message.model_hash,
            plan,
            message.at,
            _only_shape(payload.shape),
            deadline,
            tuple(message.thresholds) or None,
            trace_context.accepted(message.traceparent),
            priority=message.priority,
        )
        served.runtime.checked(request)
        if deadline.remaining() <= 0:
            raise DeadlineExceeded("no time left to decode")
        return _with_activation(request, payload, by, served.runtime.tier, room)

    def _deadline(self, asked: float, remaining: float | None, arrived: float) -> Deadline:
        """`asked`: remaining_seconds when the message `arrived`; `remaining`: what gRPC says. 0 and None: not given."""
        if not asked >= 0:
            raise InvalidInput("remaining_seconds is negative or not a number")
        asked = asked or self._deadline_seconds
        waited = time.monotonic() - arrived  # behind others of its message
        return Deadline.after(min(asked, self._deadline_seconds, asked if remaining is None else remaining) - waited)


def _check_members(members: tuple[str, ...], shape: Sequence[int], limit: int) -> None:
    """Raises InvalidInput where so many requests cannot have equal parts of the samples, TooLarge above the limit."""
    if len(members) > limit:
        raise TooLarge(f"{len(members)} requests travel as one, this tier holds {limit}")
    if members and (not shape or shape[0] % len(members) or max(map(len, members)) > MAX_REQUEST_ID):
        raise InvalidInput(
            f"{len(members)} members need as many equal parts of the samples, and ids of at most {MAX_REQUEST_ID}"
        )


def _with_activation(request: Request, payload: Payload, by: Codec, tier: Tier, room: Holding) -> Request:
    """`request`, which has the shape alone, with what it brings: decoded, or to be passed on as it came."""

    def decode(payload: Payload) -> FloatArray:
        room.take(request.activation.nbytes)
        return by.decode(payload)

    if not passes_on(request.plan, tier, by.name):
        return replace(request, activation=decode(payload))
    by.check(payload)
    return replace(request, passing=Passing(payload, decode))


def _only_shape(shape: tuple[int, ...]) -> FloatArray:
    """Zeros that take no memory."""
    return np.ndarray(shape, np.float32, bytes(4), strides=(0,) * len(shape))
