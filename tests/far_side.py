"""A tier of which only the transport is real: what it answers, and how its stream behaves, is up to the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from services.channels import channel_options
from services.domain import Tier
from services.errors import ModelMismatch
from services.exchange_service import ExchangeService
from services.framing import Framed
from services.guard import raw_stream, unary
from services.observing import Observers
from services.pb.offramp.v1 import tier_pb2 as pb
from services.uplink import Uplink

Handler = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


def request(name: str = "r", nbytes: int = 16, seconds: float = 5.0) -> Framed:
    """A request that nobody could run, of `nbytes`."""
    return Framed(pb.InferRequest(request_id=name, remaining_seconds=seconds), pb.Activation(shape=[1]), bytes(nbytes))


def reply(name: str) -> pb.InferReply:
    """An answer that can be told from others."""
    return pb.InferReply(predictions=pb.Predictions(scores=name.encode()))


def name_in(answer: pb.InferReply) -> str:
    return str(answer.predictions.scores.decode())


@dataclass(slots=True)
class FarSide:
    """Answers with the request's id, and keeps the ids of what it ran, by which way they came."""

    streamed: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    free: asyncio.Event = field(default_factory=asyncio.Event)
    address: str = ""
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.free.set()

    async def answer(self, framed: Framed, arrived: float) -> pb.InferReply:
        """Waits while it is not free."""
        self.streamed.append(framed.request_id)
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled.append(framed.request_id)
            raise
        return reply(framed.request_id)

    async def infer(self, framed: Framed, context: object) -> pb.InferReply:
        self.alone.append(framed.request_id)
        return reply(framed.request_id)

    async def describe(self, message: pb.DescribeRequest, context: object) -> pb.DescribeReply:
        if message.model_hash not in self.models:
            raise ModelMismatch("this edge holds another")
        return pb.DescribeReply(model_hash=message.model_hash)


@asynccontextmanager
async def serving(far: FarSide, exchange: Handler | None, limit: int = 64 << 20) -> AsyncIterator[FarSide]:
    """`far` as a server. exchange: its handler of streams; None: it has none."""
    server = grpc.aio.server(options=channel_options(limit))
    methods = {
        "Infer": unary(far.infer, Framed, Observers(())),
        "Describe": unary(far.describe, pb.DescribeRequest, Observers(())),
    }
    if exchange is not None:
        methods["Exchange"] = raw_stream(exchange, Observers(()))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("offramp.v1.Tier", methods),))
    far.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield far
    finally:
        await server.stop(0)


@asynccontextmanager
async def linked(far: FarSide, limit: int = 64 << 20) -> AsyncIterator[Uplink]:
    """An uplink to `far` that has connected."""
    uplink = Uplink(Tier.DEVICE, far.address, limit)
    try:
        await uplink.infer(request("first"), 5.0)
        assert far.alone == ["first"]
        far.alone.clear()
        yield uplink
    finally:
        await uplink.close()


def streams_of(far: FarSide, deadline_seconds: float = 10.0) -> ExchangeService:
    """The real serving side, which has `far` answer."""
    return ExchangeService(far.answer, deadline_seconds, Observers(()))
