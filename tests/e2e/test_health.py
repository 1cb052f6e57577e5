"""Who watches a tier's health is told of each change, whatever others do, and does not hold up its end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.domain import Tier
from tests.tiers import upper

Response = health_pb2.HealthCheckResponse


def watching(channel: grpc.aio.Channel, service: str = "") -> Any:
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))


async def status(call: Any) -> int:
    return int((await asyncio.wait_for(call.read(), 5)).status)


async def test_who_watches_hears_of_the_end_though_another_has_left_and_does_not_delay_it(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny) as edge, grpc.aio.insecure_channel(edge.address) as channel:
        leaves, stays = watching(channel), watching(channel)
        assert [await status(each) for each in (leaves, stays)] == [Response.SERVING] * 2
        leaves.cancel()
        draining = asyncio.create_task(edge.server.drain(0.1, 30))
        assert await status(stays) == Response.NOT_SERVING
        await asyncio.wait_for(draining, 5)
        assert await stays.read() is grpc.aio.EOF


async def test_a_service_that_is_none_is_not_found_or_unknown(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny) as edge, grpc.aio.insecure_channel(edge.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="none"))
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        call = watching(channel, "none")
        assert await status(call) == Response.SERVICE_UNKNOWN
        call.cancel()
