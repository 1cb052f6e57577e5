"""A server with both services of a tier, protected as a test wants it, and what callers do to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from services import security
from services.channels import channel_options, error_of
from services.guard import Service, unary
from services.limiter import Limiter
from services.observing import Observers, Refused
from services.open_inference import messages
from services.pb.offramp.v1 import tier_pb2 as pb
from services.secure_channel import Trust, channel
from services.server import TierServer
from services.settings import TierSettings
from tests.calls import DOOR, HEALTH, TIER

SECONDS = 10.0
HEALTHY = health_pb2.HealthCheckRequest(service="liveness")


class Ear:
    """Remembers who was refused."""

    def __init__(self) -> None:
        self.heard: list[Refused] = []

    def answered(self, finished: Any) -> None: ...

    def refused(self, refused: Refused) -> None:
        self.heard.append(refused)


@asynccontextmanager
async def serving(ear: Ear | None = None, **settings: object) -> AsyncIterator[TierServer]:
    """Both services of a tier, with a method each, as `settings` protect them; `port` is where."""

    async def probe(request: pb.ProbeRequest, context: Any) -> pb.ProbeReply:
        return pb.ProbeReply(padding=request.padding)

    async def live(request: Any, context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def echo(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield pb.ProbeReply(padding=request.padding)

    observers = Observers([ear] if ear else [])
    stream = grpc.stream_stream_rpc_method_handler(echo, pb.ProbeRequest.FromString, pb.ProbeReply.SerializeToString)
    given = TierSettings(listen="127.0.0.1:0", **settings)
    tier = {"Probe": unary(probe, pb.ProbeRequest, observers), "Echo": stream}
    services = [
        Service(TIER, tier, pb.DESCRIPTOR.serialized_pb),
        Service(DOOR, {"ServerLive": unary(live, messages.ServerLiveRequest, observers)}, messages.FILE),
    ]
    server = TierServer(services, Limiter(1), 1 << 20, security.of(given), observers)
    server.port = await server.start(given.listen)  # type: ignore[attr-defined]
    try:
        yield server
    finally:
        await server.drain(0, 0)


@asynccontextmanager
async def calling(server: TierServer | int, trust: Trust | None = None) -> AsyncIterator[grpc.aio.Channel]:
    port = server if isinstance(server, int) else server.port  # type: ignore[attr-defined]
    async with channel(f"127.0.0.1:{port}", channel_options(), trust) as open_channel:
        yield open_channel


async def probe(open_channel: grpc.aio.Channel, token: str | None = None) -> None:
    """Asks the tier's service; raises the domain error."""
    await _ask(open_channel, f"/{TIER}/Probe", pb.ProbeRequest(), pb.ProbeReply, token)


async def knock(open_channel: grpc.aio.Channel, token: str | None = None) -> bool:
    """Asks the public door; raises the domain error."""
    reply = await _ask(
        open_channel, f"/{DOOR}/ServerLive", messages.ServerLiveRequest(), messages.ServerLiveResponse, token
    )
    return bool(reply.live)


async def _ask(open_channel: grpc.aio.Channel, path: str, request: Any, kind: Any, token: str | None = None) -> Any:
    call = open_channel.unary_unary(path, lambda m: m.SerializeToString(), kind.FromString)
    try:
        return await call(request, timeout=SECONDS, metadata=_bearer(token))
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error


def _bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    return () if token is None else (("authorization", f"Bearer {token}"),)


async def echo(open_channel: grpc.aio.Channel) -> bytes:
    """One message there and back over a stream."""
    call = open_channel.stream_stream(f"/{TIER}/Echo", pb.ProbeRequest.SerializeToString, pb.ProbeReply.FromString)
    replies = call(iter([pb.ProbeRequest(padding=b"hello")]), timeout=SECONDS)
    try:
        return b"".join([reply.padding async for reply in replies])
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error


async def health(open_channel: grpc.aio.Channel) -> int:
    reply = await _ask(open_channel, f"/{HEALTH}/Check", HEALTHY, health_pb2.HealthCheckResponse)
    return int(reply.status)


async def reflect(open_channel: grpc.aio.Channel, token: str | None = None) -> bytes:
    call = open_channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    try:
        found = [reply async for reply in call(asked, timeout=SECONDS, metadata=_bearer(token))]
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error
    return bytes(found[0].SerializeToString())
