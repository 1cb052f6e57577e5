"""Edges as replicas, behind a device: one that drains is left in time, and none need be there at the start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from device_agent.client import AsyncClient, Prediction
from services import bundle
from services.domain import Tier
from tests.calls import until
from tests.scraping import scrape, total
from tests.tiers import Running, device, upper


@pytest.fixture(scope="module")
def pixels(tiny: Path) -> np.ndarray:
    return bundle.load_samples(bundle.load(tiny))[0][..., None]


def degraded(answers: list[Prediction]) -> set[str]:
    return {answer.degraded_reason for answer in answers if answer.degraded}


async def test_a_real_name_is_resolved(tiny: Path, pixels: np.ndarray) -> None:
    async with upper(Tier.EDGE, tiny) as edge:
        port = edge.address.rpartition(":")[2]
        async with (
            device(tiny, f"dns:///localhost:{port}", splits="2,8") as front,
            AsyncClient(front.address) as client,
        ):

            async def whole() -> bool:
                return not degraded(await client.infer("tiny", pixels))

            await until(whole)


@asynccontextmanager
async def two_edges(tiny: Path, **settings: object) -> AsyncIterator[tuple[Running, Running, Running]]:
    """A device, and two edges that run all the rest, with metrics."""
    async with AsyncExitStack() as stack:
        edges = [await stack.enter_async_context(upper(Tier.EDGE, tiny)) for _ in range(2)]
        target = ",".join(edge.address for edge in edges)
        given = {"splits": "2,8", "metrics_listen": "127.0.0.1:0"} | settings
        front = await stack.enter_async_context(device(tiny, target, **given))
        yield front, edges[0], edges[1]


async def forwarded(client: AsyncClient, pixels: np.ndarray, count: int) -> set[str]:
    """The reasons for which answers to so many requests were degraded."""
    return {reason for _ in range(count) for reason in degraded(await client.infer("tiny", pixels))}


@pytest.mark.usefixtures("transport")
async def test_a_replica_that_drains_is_left_before_it_refuses_anybody(tiny: Path, pixels: np.ndarray) -> None:
    async with two_edges(tiny) as (front, leaves, stays), AsyncClient(front.address) as client:
        assert not await forwarded(client, pixels, 4)
        load = asyncio.create_task(forwarded(client, pixels, 150))
        await leaves.server.drain(0.2, 10.0)
        assert not await load
        assert leaves.limiter.rejected["DRAINING"] == 0
        assert front.metrics is not None
        found = await scrape(front.metrics)
    assert total(found, "offramp_upstream_state", upstream=stays.address) == 0
    assert total(found, "offramp_upstream_state", upstream=leaves.address) in (0, 1, 2)  # until it is asked again
    assert total(found, "offramp_retries_total", outcome="failed") == 0


async def test_a_device_starts_and_serves_while_no_replica_is_there(tiny: Path, pixels: np.ndarray) -> None:
    async with device(tiny, "127.0.0.1:1,127.0.0.1:2") as front, AsyncClient(front.address) as client:
        assert await forwarded(client, pixels, 3) == {"upstream_unavailable"}
    async with device(tiny, "dns:///no..name:8001") as front, AsyncClient(front.address) as client:
        assert await forwarded(client, pixels, 3) == {"upstream_unavailable"}
