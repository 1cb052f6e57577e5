"""The gRPC server of a tier: the Tier service, health, reflection, and a drain that loses no call."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from services import codec, log, wire
from services.client import DEFAULT_MAX_MESSAGE_BYTES
from services.describing import Describer
from services.domain import Deadline, Request
from services.errors import InternalError, InvalidInput, NotImplementedHere, OfframpError, SettingsError, TooLarge
from services.limiter import Limiter
from services.pb.offramp.v1 import tier_pb2 as pb
from services.preparing import Preparer
from services.tier import TierRuntime
from services.wire_beliefs import link_to_pb, profile_to_pb
from services.wire_names import tier_to_pb

TIER_SERVICE = pb.DESCRIPTOR.services_by_name["Tier"].full_name
MAX_PROBE_BYTES = 1 << 16
_MAX_REQUEST_ID = 200
_DRAIN_POLL_SECONDS = 0.02

Handler = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Service:
    """A gRPC service to be served: its full name, its methods, and its file, serialised, for reflection."""

    name: str
    methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    file: bytes


def unary(handler: Handler, request_type: Any) -> grpc.RpcMethodHandler[Any, Any]:
    """A unary method whose errors leave with the right status and without internals."""
    return grpc.unary_unary_rpc_method_handler(
        _guarded(handler), request_deserializer=_lenient(request_type), response_serializer=_serialize
    )


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _lenient(request_type: Any) -> Callable[[bytes], Message | DecodeError]:
    """gRPC turns a parse error into UNKNOWN with its text; carried to the guard it gets a status of its own."""

    def deserialize(data: bytes) -> Message | DecodeError:
        try:
            message: Message = request_type.FromString(data)
            return message
        except DecodeError as error:
            return error

    return deserialize


def _guarded(handler: Handler) -> Handler:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            if isinstance(request, DecodeError):
                raise InvalidInput("the message is not valid protobuf of this method's request")
            return await handler(request, context)
        except OfframpError as error:
            log.refused(_id_of(request), error.reason, str(error))
            code, message, trailing = wire.status_of(error)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception:  # the one place where the unexpected ends: logged here, masked for the client
            name = _id_of(request) or uuid.uuid4().hex
            log.event("failed", level=40, exc_info=True, request_id=name)
            code, message, trailing = wire.status_of(InternalError(f"internal error, id={name}"))
        await context.abort(code, message, trailing)

    return guarded


def _id_of(request: Any) -> str:
    name = getattr(request, "request_id", "") or getattr(request, "id", "")
    return str(name)[:_MAX_REQUEST_ID]


class TierService:
    """`offramp.v1.Tier`: message to request, through the runtime, and back."""

    def __init__(
        self,
        runtime: TierRuntime,
        limiter: Limiter,
        max_batch: int,
        deadline_seconds: float,
        preparer: Preparer | None = None,
    ):
        self._runtime = runtime
        self._preparer = preparer
        self._describer = Describer(runtime)
        self._limiter = limiter
        self._max_batch = max_batch
        self._deadline_seconds = deadline_seconds

    def service(self) -> Service:
        return Service(
            TIER_SERVICE,
            {
                "Infer": unary(self.infer, pb.InferRequest),
                "Describe": unary(self.describe, pb.DescribeRequest),
                "Probe": unary(self.probe, pb.ProbeRequest),
                "Prepare": unary(self.prepare, pb.PrepareRequest),
            },
            pb.DESCRIPTOR.serialized_pb,
        )

    async def infer(self, message: pb.InferRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.InferReply:
        arrived = time.monotonic()
        with self._limiter.admit():
            deadline = self._deadline(message.remaining_seconds, context.time_remaining())
            response = await self._runtime.infer(self._request(message, deadline), arrived)
        log.answered_soon(message.request_id, self._runtime.tier, response)
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
        if len(message.request_id) > _MAX_REQUEST_ID:
            raise InvalidInput(f"request_id is longer than {_MAX_REQUEST_ID} characters")
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


def check_batch(count: int, limit: int) -> None:
    """Raises InvalidInput for an empty batch, TooLarge for one over the limit."""
    if count < 1:
        raise InvalidInput("the batch is empty")
    if count > limit:
        raise TooLarge(f"the batch has {count} samples, this tier takes {limit}")


class TierServer:
    """Serves `services` plus health and reflection on one address. Needs a running event loop."""

    def __init__(self, services: list[Service], limiter: Limiter, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES):
        self._limiter = limiter
        self._names = [service.name for service in services]
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._server = grpc.aio.server(options=_server_options(max_message_bytes))
        for service in services:
            handler = grpc.method_handlers_generic_handler(service.name, dict(service.methods))
            self._server.add_generic_rpc_handlers((handler,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        pool = _reflection_pool([service.file for service in services])
        reflection.enable_server_reflection(names, self._server, pool=pool)

    async def start(self, address: str) -> int:
        """Binds and serves; returns the port. Raises SettingsError where the address cannot be bound."""
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError:
            raise SettingsError(f"cannot listen on {address}: in use, or not an address of this machine") from None
        self._limiter.warm = False
        await self._server.start()
        await self._health.set("liveness", health_pb2.HealthCheckResponse.SERVING)
        await self._set_readiness(health_pb2.HealthCheckResponse.NOT_SERVING)
        return port

    async def ready(self) -> None:
        """Warm: takes requests, and tells health checks so."""
        self._limiter.warm = True
        await self._set_readiness(health_pb2.HealthCheckResponse.SERVING)

    async def _set_readiness(self, status: Any) -> None:
        for name in ("", "readiness", *self._names):
            await self._health.set(name, status)

    async def drain(self, delay_seconds: float, grace_seconds: float) -> None:
        """Not ready, wait until peers know, refuse new requests, finish those in flight, stop.

        The server stops last: a stopping gRPC server cancels what just arrived, where this one says why it refuses.
        """
        await self._set_readiness(health_pb2.HealthCheckResponse.NOT_SERVING)
        await asyncio.sleep(delay_seconds)
        self._limiter.draining = True
        deadline = Deadline.after(grace_seconds)
        while self._limiter.in_flight and deadline.remaining() > 0:
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        if deadline.remaining() > 0:  # who was answered last may just have asked again
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        await self._server.stop(max(0.0, deadline.remaining()))


def _reflection_pool(files: list[bytes]) -> DescriptorPool:
    """Reflection reads one pool; the public door's messages live apart from the default one."""
    pool = DescriptorPool()
    for file in (*files, health_pb2.DESCRIPTOR.serialized_pb, reflection_pb2.DESCRIPTOR.serialized_pb):
        pool.AddSerializedFile(file)
    return pool


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def _server_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 120_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.max_connection_age_ms", 600_000),
        ("grpc.max_connection_age_grace_ms", 60_000),
        ("grpc.max_connection_idle_ms", 900_000),
        ("grpc.so_reuseport", 0),
    ]
