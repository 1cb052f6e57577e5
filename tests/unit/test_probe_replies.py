"""What a probe is answered by a far side that may be mistaken, over a real connection."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from services.connection import Connection
from services.domain import Tier
from services.errors import InternalError
from services.pb.offramp.v1 import tier_pb2 as pb


@asynccontextmanager
async def answering(held_seconds: float) -> AsyncIterator[Connection]:
    """A connection that is up, to a tier that says it held each probe for so long."""

    async def probe(message: pb.ProbeRequest, context: object) -> pb.ProbeReply:
        return pb.ProbeReply(held_seconds=held_seconds)

    handler = grpc.unary_unary_rpc_method_handler(probe, pb.ProbeRequest.FromString, pb.ProbeReply.SerializeToString)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("offramp.v1.Tier", {"Probe": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    connection = Connection(Tier.DEVICE, f"127.0.0.1:{port}")
    try:
        await connection.serves(10.0)
        assert connection.state == 0
        yield connection
    finally:
        await connection.close()
        await server.stop(0)


async def test_a_probe_teaches_the_link() -> None:
    async with answering(0.0) as connection:
        await connection.probe(16, 10.0)
        assert connection.link().age_seconds is not None


@pytest.mark.parametrize("held_seconds", [math.nan, math.inf, -math.inf, -1.0])
async def test_a_probe_held_for_what_is_no_time_is_the_far_sides_error_and_teaches_nothing(
    held_seconds: float,
) -> None:
    async with answering(held_seconds) as connection:
        with pytest.raises(InternalError, match="makes no sense"):
            await connection.probe(16, 10.0)
        assert connection.link().age_seconds is None
